"""Probe results on the page: every kind that was measured, few labels, and confusion."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from m3video.report.page import write_report
from m3video.report.probes import probe_sections

RESULT = {
    "data": "shapes",
    "classes": 2,
    "chance": 0.5,
    "linear": 0.75,
    "knn": 0.625,
    "attentive": 0.875,
    "clips": {"train": 20, "test": 16},
    "labels": ["left <u>", "right"],
    "confusion": [[6, 2], [2, 6]],
    "attentive_confusion": [[7, 1], [1, 7]],
    "few_shot": {
        "linear": {
            "1": {"mean": 0.5, "error": 0.05, "accuracies": [0.45, 0.5, 0.55]},
            "5": {"mean": 0.6, "error": 0.012, "accuracies": [0.6, 0.6, 0.6]},
        },
        "knn": {
            "1": {"mean": 0.41, "error": 0.02, "accuracies": [0.4, 0.4, 0.43]},
            "5": {"mean": 0.55, "error": 0.01, "accuracies": [0.5, 0.55, 0.6]},
        },
    },
}


def test_every_kind_is_shown_and_so_are_few_labels(tmp_path: Path) -> None:
    (tmp_path / "probe-shapes.json").write_text(json.dumps(RESULT))
    (section,) = probe_sections(tmp_path)
    assert [(row.name, row.text, row.share) for row in section.rows] == [
        ("linear probe", "75.0 %", 0.75),
        ("attentive probe", "87.5 %", 0.875),
        ("k-NN", "62.5 %", 0.625),
    ]
    assert section.few is not None
    assert section.few.shots == ["1", "5"]
    assert section.few.draws == 3
    assert section.few.rows == [
        ("linear probe", ["50.0 ± 5.0", "60.0 ± 1.2"]),
        ("k-NN", ["41.0 ± 2.0", "55.0 ± 1.0"]),
    ]
    assert [found.kind for found in section.confusions] == ["linear probe", "attentive probe"]
    assert section.confusions[1].rows[0][1][0] == {"count": 7, "share": 0.875}


@pytest.mark.parametrize("kind", ["linear", "attentive", "knn"])
def test_one_kind_alone_is_enough(tmp_path: Path, kind: str) -> None:
    alone = {"chance": 0.1, kind: 0.2}
    (tmp_path / "probe.json").write_text(json.dumps(alone))
    (section,) = probe_sections(tmp_path)
    assert [row.text for row in section.rows] == ["20.0 %"]
    assert section.few is None
    assert section.confusions == []
    (tmp_path / "probe.json").write_text('{"chance": 0.1, "classes": 3}')
    assert probe_sections(tmp_path) == []


def test_the_page_holds_them(unseen_run: Path) -> None:
    (unseen_run / "probe-shapes.json").write_text(json.dumps(RESULT))
    text = write_report(unseen_run).read_text()
    for words in (
        "attentive probe",
        "87.5 %",
        "50.0 ± 5.0",
        "over 3 draws",
        "Confusion of the attentive probe",
        "left &lt;u&gt;",
    ):
        assert words in text
