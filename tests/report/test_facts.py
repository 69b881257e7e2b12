"""Files of a run, whole and broken, as facts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from m3video.config import save_config
from m3video.errors import CheckpointError, ConfigError
from m3video.recipes import recipe_config
from m3video.report.facts import (
    duration,
    flat_pairs,
    planned_steps,
    read_json_or_none,
    read_metrics,
    read_run_config,
    read_unreadable,
    summary,
)


def test_metrics_survive_cut_lines_nulls_and_repeated_steps(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"step": 1, "loss": 2.0}\n{"step": 3, "loss": null, "lr": 0.1}\n'
        '{"step": 2, "loss": NaN}\n{"step": 1, "loss": 1.5}\nnonsense\n[1]\n{"step": 4, "lo'
    )
    metrics = read_metrics(path)
    assert metrics.steps == [1, 2, 3]
    assert metrics.column("loss") == [1.5, None, None]
    assert metrics.column("lr") == [None, None, 0.1]
    assert metrics.column("unknown") == [None, None, None]
    assert metrics.present("loss") == [1.5]


def test_no_metrics_are_no_steps(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "metrics.jsonl").steps == []


def test_a_folder_that_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a run directory"):
        read_run_config(tmp_path)
    (tmp_path / "config.yaml").write_text("data: [")
    with pytest.raises(ConfigError, match=r"config\.yaml"):
        read_run_config(tmp_path)


def test_broken_json_counts_as_missing(tmp_path: Path) -> None:
    assert read_json_or_none(tmp_path / "none.json") is None
    (tmp_path / "a.json").write_text("{")
    (tmp_path / "b.json").write_text("[1]")
    (tmp_path / "c.json").write_text('{"a": 1}')
    found = [read_json_or_none(tmp_path / f"{name}.json") for name in "abc"]
    assert found == [None, None, {"a": 1}]


def test_nested_json_becomes_pairs() -> None:
    value = {"a": {"b": 1, "c": None}, "resumed": [{"step": 3}], "none": [], "list": [1, 2]}
    assert flat_pairs(value) == [("a.b", "1"), ("resumed.0.step", "3"), ("list", "[1, 2]")]


def test_unreadable_videos_are_read(tmp_path: Path) -> None:
    path = tmp_path / "unreadable.csv"
    assert read_unreadable(path) == []
    path.write_text('path,reason\n"a,b.mp4",no frames\n')
    assert read_unreadable(path) == [("a,b.mp4", "no frames")]


def test_planned_steps_come_from_config_or_manifest(tmp_path: Path) -> None:
    shapes = recipe_config("mme-tiny", data="moving-shapes", out=tmp_path)
    assert planned_steps(tmp_path, shapes) == 30 * (3000 // shapes.train.batch)
    videos = recipe_config(
        "mme-tiny", data="videos", out=tmp_path, changes={"train": {"epochs": 2}}
    )
    assert planned_steps(tmp_path, videos) is None
    lines = ["path,frames"] + [f"{index}.mp4,9" for index in range(70)]
    (tmp_path / "manifest.csv").write_text("\n".join(lines))
    assert planned_steps(tmp_path, videos) == 2 * (70 // videos.train.batch)


def test_summary_names_what_was_trained(tmp_path: Path) -> None:
    config = recipe_config(
        "mme", data="cats", out=tmp_path, changes={"targets": {"pixel": {"weight": 0.5}}}
    )
    save_config(config, tmp_path / "config.yaml")
    words = summary(read_run_config(tmp_path))
    for part in ("ViT-B", "cats", "pixel × 0.5, trajectory and trajectory hog", "224×224", "tube"):
        assert part in words


@pytest.mark.parametrize(
    ("recipe", "changes", "part"),
    [
        ("mme", {}, "; trajectories of 6 steps by"),
        ("mme", {"motion": {"camera": True}}, " flow, the camera's motion removed. "),
        ("mme", {"motion": {"interpolate": False}}, "6 steps of 4 raw frames each by"),
        ("mme", {"motion": {"tracker": "mine:track"}}, "by the tracker mine:track. "),
        ("mme", {"mask": {"decode": 0.5}}, "tube mask 0.7, 0.5 of what is hidden decoded;"),
        ("hof", {}, "tube mask 0.7; motion by"),
        ("videomae", {"mask": {"kind": "motion-top"}}, "motion-top mask 0.9; trajectories of"),
        ("videomae", {}, "tube mask 0.9. "),
    ],
)
def test_summary_says_how_motion_is_found_and_what_is_hidden(
    recipe: str, changes: dict[str, Any], part: str, tmp_path: Path
) -> None:
    assert part in summary(recipe_config(recipe, data="cats", out=tmp_path, changes=changes))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(3.21, "3.2 s"), (45, "45 s"), (370, "6 min 10 s"), (3 * 3600 + 300, "3 h 05 min")],
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text
