"""The page of classifiers and detectors: what they get right, and what a run lacks."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest

from m3video.cli import main
from m3video.model.checkpoint import save_model
from m3video.report.page import write_report
from m3video.video.datasets.boxes import KeyFrame, write_boxes
from tests.conftest import write_video
from tests.report.test_page import Parsed, report
from tests.report.tuned_runs import (
    CLIP,
    LABELS,
    STEPS,
    classifier_run,
    detector_run,
    encoder,
    evaluate_classifier,
)


@pytest.fixture
def tuned(tmp_path: Path) -> Path:
    run = classifier_run(tmp_path / "runs" / "ft <u>x")
    evaluate_classifier(run)
    return run


def test_page_of_a_classifier_holds_its_parts(tuned: Path) -> None:
    page = report(tuned)
    assert page.open == []
    for part in (
        "fine-tuning report",
        "Top-1 40.0 % chance 60.0 %",
        "Top-5 100.0 %",
        "Mean over classes 66.7 %",
        "A classifier of 4 classes, trained from the encoder of weights on videos",
        "5 videos of split test, 4 classes, 2 × 3 views of each (clips × crops).",
        "Cross-entropy",
        "Learning rate",
        "Steps 6 of 6",
        "4 of 1 classes to train on, 1 held out (test)",
        "Recipe tiny, but for train.epochs",
        "Left out, because they could not be read (1)",
        "Machine",
    ):
        assert part in page.text, part
    settings = page.text.split("Settings that differ")[1]
    assert "train.batch 16 384" in settings
    assert "out " not in settings.split("Config")[0]


def test_bars_are_sorted_and_a_class_without_videos_has_none(tuned: Path) -> None:
    text = report(tuned).text
    bars = text.split("the worst first")[1].split("the commonest class 60.0 %")[0]
    places = [bars.index(name) for name in (LABELS[1], LABELS[0], LABELS[2])]
    assert places == sorted(places)
    assert LABELS[3] not in bars
    assert f"No test video, so no bar: {LABELS[3]}." in text
    assert f"{LABELS[3]} 0 – –" in text
    assert f"{LABELS[1]} 3 0.0 % 100.0 %" in text


def test_confused_pairs_are_counted(tuned: Path) -> None:
    text = report(tuned).text.split("of the class")[1]
    pairs = text.split("Test videos")[0].strip()
    assert pairs == f"{LABELS[1]} {LABELS[0]} 2 of 3 67 % {LABELS[1]} {LABELS[2]} 1 of 3 33 %"


def test_test_videos_are_shown_the_wrong_ones_first(tuned: Path) -> None:
    page = report(tuned)
    assert page.tags.count("video") == 4
    assert "Cannot be shown: " in page.text
    assert "gone.mp4" in page.text
    shown = page.text.split("Whole videos, sped up where they are long.")[1].split("Training")[0]
    verdicts = re.findall(r"\b(right|wrong)\b", shown)
    assert verdicts == ["wrong", "wrong", "right", "right"]
    assert "2 of the 3 videos that were taken for something else, and 2 of the 2" in page.text
    assert "seen/b & c.mp4" in shown
    assert "68.0 %" in shown


def test_names_of_a_classifier_are_text_and_never_markup(tuned: Path) -> None:
    page = report(tuned)
    assert page.tags.count("script") == 1
    assert not {"b", "i", "u"} & set(page.tags)
    assert "ft <u>x" in page.text
    assert "broken <b>.mp4" in page.text
    assert "<i>a</i>.mp4" in page.text
    assert [name for name, _ in page.attributes if name.startswith("on")] == []
    outside = re.sub(r"base64,[A-Za-z0-9+/=]+", "", (tuned / "report.html").read_text())
    assert re.findall(r"https?:|url\((?!data:)", outside) == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "Expecting property name"),
        ("[]", "valid dictionary"),
        ('{"videos": 3}', "Field required"),
        ('{"top1": 7}', "classes"),
    ],
)
def test_a_broken_evaluation_is_one_line_and_the_page_is_written(
    tuned: Path, content: str, reason: str
) -> None:
    (tuned / "evaluation" / "evaluation.json").write_text(content)
    page = report(tuned)
    (line,) = [words for words in page.words if "cannot be read and is left out" in words]
    assert line.startswith("evaluation/evaluation.json cannot be read and is left out: ")
    assert reason in line or reason == "classes"
    assert "Cross-entropy" in page.text
    assert "Top-1" not in page.text


@pytest.mark.parametrize("content", [None, "{", '{"labels": ["a"], "counts": [[1, 2]]}'])
def test_a_broken_confusion_leaves_the_rest(tuned: Path, content: str | None) -> None:
    place = tuned / "evaluation" / "confusion.json"
    place.unlink() if content is None else place.write_text(content)
    page = report(tuned)
    assert "confusion.json cannot be read and is left out: " in page.text
    assert "What was taken for what" not in page.text
    assert "Top-1 40.0 %" in page.text


def test_lost_and_damaged_predictions_leave_the_rest(tuned: Path) -> None:
    place = tuned / "evaluation" / "predictions.csv"
    rows = list(csv.reader(place.open()))
    rows[1][3] = "much"
    rows[2][3] = "nan"
    place.write_text("\n".join(",".join(f'"{cell}"' for cell in row) for row in rows[:4]))
    page = report(tuned)
    assert "video" not in page.tags  # the third is gone, and no other can be understood
    assert "Cannot be shown: " in page.text
    place.unlink()
    page = report(tuned)
    assert "predictions.csv is missing." in page.text
    assert "What was taken for what" in page.text


def test_a_run_that_is_going_on_has_a_page(tmp_path: Path) -> None:
    run = classifier_run(tmp_path / "ft", steps=2)
    page = report(run)
    assert f"At step 2 of {STEPS}: still going, or interrupted." in page.text
    assert "m3video finetune --resume --out" in page.text
    assert "What is held out is tested at the end of the run." in page.text
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')
    assert "Steps 2 of 6" in report(run).text
    (run / "metrics.jsonl").unlink()
    assert "No metrics were written" in report(run).text


def test_a_finished_run_without_a_test_says_how_to_test(tmp_path: Path) -> None:
    run = classifier_run(tmp_path / "ft")
    (run / "manifest.csv").unlink()
    (run / "environment.json").unlink()
    page = report(run)
    assert f"m3video evaluate --model {run} --data DATA --out {run}/evaluation" in page.text
    assert "environment.json is missing." in page.text


def test_many_classes_show_their_ends_and_a_table_of_all(tuned: Path) -> None:
    place = tuned / "evaluation" / "evaluation.json"
    found = json.loads(place.read_text())
    rows = [
        {"label": f"class {n:03}", "videos": 1, "top1": n / 400, "top5": 1.0} for n in range(400)
    ]
    place.write_text(json.dumps({**found, "classes": 400, "per_class": rows}))
    labels = [row["label"] for row in rows]
    counts = [[int(row == column) for column in range(400)] for row in range(400)]
    counts[3][9] = 2
    confusion = {"labels": labels, "counts": counts}
    (tuned / "evaluation" / "confusion.json").write_text(json.dumps(confusion))
    page = report(tuned)
    bars, table = page.text.split("All of them as a table (400)")
    worst, best = bars.split("The best 25")
    assert "class 024" in worst
    assert "class 025" not in bars
    assert "class 374" not in bars
    assert "class 375" in best
    assert "class 200 1 50.0 % 100.0 %" in table
    assert "class 003 class 009 2 of 3 67 %" in table
    assert page.tags.count("img") == 1
    assert (tuned / "report.html").stat().st_size < 1e6


def test_moving_shapes_are_rendered_again(tuned: Path) -> None:
    config = tuned / "config.yaml"
    config.write_text(config.read_text().replace("data: videos", "data: moving-shapes"))
    place = tuned / "evaluation" / "predictions.csv"
    head = "path,truth,class1,p1,class2,p2"
    rows = ["moving-shapes/3,down,up,0.9,down,0.1", "moving-shapes/1000001,right,right,0.8,up,0.2"]
    place.write_text("\n".join([head, *rows, "moving-shapes/999999,up,down,0.5,up,0.5"]))
    page = report(tuned)
    assert page.tags.count("video") == 2
    assert "Rendered again." in page.text
    assert "moving-shapes/999999: no test clip of this run" in page.text
    (tuned / "model" / "config.json").unlink()
    assert "No test videos can be shown: " in report(tuned).text


def test_page_of_a_detector(tmp_path: Path) -> None:
    run = detector_run(tmp_path / "ava")
    page = report(run)
    assert "detection report" in page.text
    assert f"m3video detect evaluate --model {run} --data boxes.csv" in page.text
    result = {
        "map": 0.25,
        "split": "val",
        "boxes": "annotated",
        "actions": {"sit <b>": 0.5, "run": 0.25, "fly": 0.0},
        "unknown": ["fly"],
        "key_frames": 9,
        "annotated": 16,
        "judged": 15,
        "unreadable": [["lost.mp4", "gone"]],
    }
    (run / "detection").mkdir()
    (run / "detection" / "evaluation.json").write_text(json.dumps(result))
    page = report(run)
    for part in (
        "Frame mAP 25.0 %",
        "Binary cross-entropy",
        "9 key frames of split val, 16 annotated boxes, 15 judged; boxes: annotated.",
        "no action that the detector knows, and counted as 0: fly.",
        "Average precision of each action, the worst first",
        "Left out, because they could not be read (1)",
    ):
        assert part in page.text, part
    bars = page.text.split("the worst first")[1]
    assert bars.index("fly") < bars.index("run") < bars.index("sit <b>")
    assert "b" not in page.tags
    (run / "detection" / "evaluation.json").write_text('{"map": 3}')
    assert "detection/evaluation.json cannot be read and is left out: " in report(run).text


def test_evaluations_elsewhere_in_the_run_are_shown_too(tuned: Path) -> None:
    (tuned / "a-train").mkdir()
    found = json.loads((tuned / "evaluation" / "evaluation.json").read_text())
    other = json.dumps({**found, "split": "train", "top1": 0.9})
    (tuned / "a-train" / "evaluation.json").write_text(other)
    text = report(tuned).text
    assert "Top-1 40.0 %" in text, "that of the run's end comes first"
    assert text.index("split test") < text.index("split train")
    assert "a-train 5 videos of split train" in text
    (tuned / "evaluation.json").write_text(json.dumps({**found, "top1": 0.5}))
    assert "Top-1 50.0 %" in report(tuned).text


def test_detect_train_writes_its_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    film = write_video(tmp_path / "film.mp4")
    boxes = np.array([[0.1, 0.1, 0.6, 0.9]], np.float32)
    frame = KeyFrame(film, "film", 902.0, 0.8, "train", boxes, (("walk",),))
    write_boxes([frame], tmp_path / "boxes.csv")
    save_model(encoder(), tmp_path / "init", CLIP)
    run = tmp_path / "run"
    where = ["--init", str(tmp_path / "init"), "--data", str(tmp_path / "boxes.csv")]
    options = ["--train.steps", "2", "--train.batch", "1", "--train.workers", "0"]
    assert main(["detect", "train", *where, "--out", str(run), *options]) == 0
    assert f"report:   {run}/report.html" in capsys.readouterr().out
    page = Parsed((run / "report.html").read_text())
    assert "A detector of 1 action, trained from the encoder of" in page.text
    assert "Nothing was tested yet." in page.text


def test_a_detector_that_is_going_on(tmp_path: Path) -> None:
    page = report(detector_run(tmp_path / "ava", steps=2, planned=9))
    assert "At step 2 of 9: still going" in page.text
    assert "m3video detect train --resume --out" in page.text


def test_finetune_writes_its_page_and_report_writes_it_again(
    tmp_path: Path, made_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_model(encoder(), tmp_path / "init", CLIP)
    run = tmp_path / "run"
    options = ["--val-share", "0.3", "--train.steps", "2", "--train.batch", "2"]
    where = ["--init", str(tmp_path / "init"), "--data", str(made_folder), "--out", str(run)]
    assert main(["finetune", *where, *options, "--train.workers", "0"]) == 0
    assert f"report:     {run}/report.html" in capsys.readouterr().out
    page = Parsed((run / "report.html").read_text())
    assert page.tags.count("video") == 2  # one of each class is held out
    assert "Top-1" in page.text
    assert "broken.mp4" in page.text
    (run / "report.html").unlink()
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out == f"{run}/report.html\n"


def test_a_report_of_a_classifier_repeats_itself(tuned: Path) -> None:
    first = write_report(tuned).read_text()
    assert write_report(tuned).read_text() == first
