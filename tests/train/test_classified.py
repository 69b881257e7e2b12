"""Accuracies against values by hand and scikit-learn's; the files of an evaluation."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from m3video.errors import ConfigError
from m3video.train.classified import accuracies, check_folder, confusion, top, write_evaluation

LABELS = ("a", "b", "c", "d", "e", "f", "g")


def averages(videos: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(6, (videos,), generator=generator)  # no video of class g
    logits = torch.randn(videos, 7, generator=generator, dtype=torch.float64)
    logits[torch.arange(videos), truth] += 1
    return logits.softmax(1), truth


def test_accuracies_equal_scikit_learns() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    found, truth = averages()
    result = accuracies(found, truth, LABELS)
    classes = np.arange(7)
    for name, k in (("top1", 1), ("top5", 5)):
        expected = metrics.top_k_accuracy_score(truth, found, k=k, labels=classes)
        assert result[name] == pytest.approx(expected)
    predicted = found.argmax(1)
    assert result["mean_class"] == pytest.approx(metrics.balanced_accuracy_score(truth, predicted))
    expected = metrics.confusion_matrix(truth, predicted, labels=classes)
    assert confusion(found, truth).tolist() == expected.tolist()


def test_a_class_without_videos_has_no_accuracy_and_does_not_count() -> None:
    found, truth = averages()
    result = accuracies(found, truth, LABELS)
    last = result["per_class"][-1]
    assert last == {"label": "g", "videos": 0, "top1": None, "top5": None}
    assert sum(row["videos"] for row in result["per_class"]) == result["videos"] == 60
    assert result["classes"] == 7


def test_of_equal_probabilities_the_first_class_is_likelier() -> None:
    equal = torch.full((1, 7), 1 / 7, dtype=torch.float64)
    assert top(equal).tolist() == [[0, 1, 2, 3, 4]]
    assert accuracies(equal, torch.tensor([4]), LABELS)["top5"] == 1
    assert accuracies(equal, torch.tensor([5]), LABELS)["top5"] == 0


def test_top_five_of_three_classes_is_all() -> None:
    found = torch.tensor([[0.2, 0.5, 0.3]], dtype=torch.float64)
    assert top(found).tolist() == [[1, 2, 0]]
    assert accuracies(found, torch.tensor([0]), ("a", "b", "c"))["top5"] == 1


def test_files_hold_what_was_found(tmp_path: Path) -> None:
    found, truth = averages(9)
    paths = [f"videos/{number}, odd.mp4" for number in range(9)]
    result = write_evaluation(tmp_path / "e", found, truth, paths, LABELS, {"data": "d"})
    assert json.loads((tmp_path / "e" / "evaluation.json").read_text()) == result
    assert result["data"] == "d"
    with (tmp_path / "e" / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == paths
    assert [row["truth"] for row in rows] == [LABELS[n] for n in truth.tolist()]
    assert [row["class1"] for row in rows] == [LABELS[n] for n in found.argmax(1).tolist()]
    assert float(rows[3]["p1"]) == pytest.approx(float(found[3].max()), abs=1e-6)
    assert float(rows[3]["p1"]) >= float(rows[3]["p5"])
    kept = json.loads((tmp_path / "e" / "confusion.json").read_text())
    assert kept == {"labels": list(LABELS), "counts": confusion(found, truth).tolist()}


def test_a_folder_of_other_things_is_refused(tmp_path: Path) -> None:
    check_folder(tmp_path / "new")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="not empty, and holds no evaluation"):
        check_folder(tmp_path)
    with pytest.raises(ConfigError, match="a file, not a folder"):
        check_folder(tmp_path / "file")
    (tmp_path / "evaluation.json").write_text("{}")
    check_folder(tmp_path)
