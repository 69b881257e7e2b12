"""Every cell is resolved and checked before anything runs; refusals name the cell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from m3video.config import StudyConfig, load_study, one_line, save_config
from m3video.errors import CheckpointError, ConfigError
from m3video.study.grid import Study, Task, open_study
from tests.study.nano import nano, nano_settings, write_nano


def test_a_cell_is_its_recipe_under_the_base_under_its_settings(tmp_path: Path) -> None:
    config = nano(
        seeds=[3, 5],
        base={"train": {"lr": 0.5}},
        cells={
            "a": {"recipe": "mme-tiny", "settings": {"motion": {"length": 2}}, "group": "L"},
            "b": {"recipe": "videomae-tiny", "seeds": [7], "settings": {"train": {"lr": 0.25}}},
        },
    )
    tasks = open_study(config, tmp_path / "out").tasks
    assert [task.name for task in tasks] == ["a-s3", "a-s5", "b-s7"]
    first, _, last = (task.pretrain for task in tasks)
    assert first.train.seed == 3
    assert first.train.lr == 0.5
    assert first.train.steps == 2
    assert first.motion.length == 2
    assert set(first.targets.active) == {"trajectory", "trajectory_hog"}
    assert last.train.seed == 7
    assert last.train.lr == 0.25
    assert tasks[0].group == "L"
    assert tasks[0].path == tmp_path / "out" / "cells" / "a-s3"
    assert not (tmp_path / "out").exists(), "nothing is written"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cells": {}}, "cells: "),
        ({"cells": {"a/b": {}}}, "cells.a/b"),
        ({"cells": {"a": {"recipes": "mme"}}}, "cells.a.recipes: no such setting; there are "),
        ({"seeds": [1, 1]}, "seeds: [1, 1] names a seed twice"),
        ({"cells": {"a": {"seeds": [2, 2]}}}, "cells.a.seeds: [2, 2] names a seed twice"),
        ({"base": {"data": "x"}}, "base.data: is set by the study"),
        ({"cells": {"a": {"settings": {"out": "x"}}}}, "cells.a.settings.out: is set by the study"),
        ({"base": {"train": {"seed": 1}}}, "base.train.seed: seeds are given by `seeds`"),
        ({"base": {"train": 5}}, "base.train: settings by name are wanted (got 5)"),
        ({"probe": {"untrained": True}}, "probe.untrained: is set by the study"),
        ({"probe": {"epoch": 1}}, "probe.epoch: no such setting; there are "),
        ({"finetune": {"labels": []}}, "finetune.labels"),
        ({"finetune": {"labels": [20, 20]}}, "finetune: labels: [20, 20] names a number twice"),
        ({"cells": {"a": {}, "b": {}, "A": {}}}, "cells.A: differs from cell a in upper and lower"),
        ({"finetune": {"seed": 1}}, "finetune.seed: is that of each run"),
        ({"data": "videos", "finetune": {}}, "finetune: is for probe data moving-shapes"),
        ({"cells": {"m": {"metadata": True}}}, "cells.m: metadata is for videos"),
    ],
)
def test_what_the_study_may_not_say(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        StudyConfig.model_validate(nano_settings(**changes))
    assert words in one_line(refusal.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cells": {"a": {}, "b": {"recipe": "mmme"}}}, "cell b: recipe 'mmme' is not known"),
        (
            {"cells": {"a": {"settings": {"motion": {"length": 0}}}}},
            "cell a: motion.length: Input should be at least 1 and at most 16 (got 0)",
        ),
        ({"finetune": {"labels": [3]}}, "set probe.train_clips to 39 or more"),
        ({"cells": {"a": {"seeds": [1]}, "a-s1": {}}, "seeds": [0]}, None),
    ],
)
def test_cells_are_checked_before_anything_runs(
    tmp_path: Path, changes: dict[str, Any], words: str | None
) -> None:
    if words is None:
        assert len(open_study(nano(**changes), tmp_path).tasks) == 2
        return
    with pytest.raises(ConfigError) as refusal:
        open_study(nano(**changes), tmp_path)
    assert words in str(refusal.value)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(ConfigError, match="not empty, and holds no study"):
        open_study(nano(), tmp_path)
    with pytest.raises(ConfigError, match="a file, not a directory"):
        open_study(nano(), tmp_path / "thesis.txt")


def test_only_takes_names_of_cells_and_of_runs(tmp_path: Path) -> None:
    study = open_study(nano(seeds=[0, 1]), tmp_path)
    assert [t.name for t in study.chosen()] == ["plain-s0", "plain-s1", "fresh-s0", "fresh-s1"]
    assert [t.name for t in study.chosen(["fresh"])] == ["fresh-s0", "fresh-s1"]
    assert [t.name for t in study.chosen(["plain-s1"])] == ["plain-s1"]
    with pytest.raises(ConfigError, match="--only stale: no such cell; there are plain, fresh"):
        study.chosen(["stale"])
    with pytest.raises(ConfigError, match="--only: names of cells are wanted"):
        study.chosen([])
    both = open_study(nano(cells={"a": {}, "a-s0": {}}), tmp_path)
    assert [t.name for t in both.chosen(["a-s0"])] == ["a-s0-s0"], "a cell's name is first"


def _finish(study: Study) -> None:
    for task in study.tasks:
        task.path.mkdir(parents=True)
        _write_result(task, task.settings())


def _write_result(task: Task, settings: dict[str, Any]) -> None:
    task.result.write_text(json.dumps({"settings": settings, "probe": {}, "seconds": 1.5}))


def _results(study: Study, *only: str) -> dict[str, Any]:
    return study.finished(study.chosen(only or None))[0]


def test_a_finished_cell_of_other_settings_is_refused_by_name(tmp_path: Path) -> None:
    _finish(open_study(nano(), tmp_path))
    (tmp_path / ".gitignore").touch()
    assert set(_results(open_study(nano(), tmp_path))) == {"plain-s0", "fresh-s0"}
    moved = {"base": {"train": {"steps": 9, "workers": 3}}}
    with pytest.raises(ConfigError) as refusal:
        _results(open_study(nano(**moved), tmp_path))
    assert "cell plain-s0 is finished, with train.steps 2, and the study says 9" in str(
        refusal.value
    )
    assert f"remove {tmp_path}/cells/plain-s0" in str(refusal.value)
    # Neither workers nor steps matter to an encoder that is not trained.
    only = {**moved, "cells": {"fresh": {"pretrain": False}}}
    assert set(_results(open_study(nano(**only), tmp_path))) == {"fresh-s0"}
    for changes in ({"probe": {"epochs": 9}}, {"finetune": {"labels": [1]}}):
        with pytest.raises(ConfigError, match="cell plain-s0 is finished"):
            _results(open_study(nano(**changes), tmp_path))


def test_a_changed_cell_that_is_not_chosen_is_left_out(tmp_path: Path) -> None:
    _finish(open_study(nano(), tmp_path))
    (tmp_path / ".gitignore").touch()
    study = open_study(nano(base={"train": {"steps": 9}}), tmp_path)
    results, left_out = study.finished(study.chosen(["fresh"]))
    assert set(results) == {"fresh-s0"}
    assert [line[:59] for line in left_out] == [
        "cell plain-s0 is finished, with train.steps 2, and the stud"
    ]


@pytest.mark.parametrize("text", ["[]", "{}", '{"settings": {}, "probe": {}}', "{", "null"])
def test_a_result_that_is_none_is_refused_where_it_is_asked_for(tmp_path: Path, text: str) -> None:
    _finish(open_study(nano(), tmp_path))
    (tmp_path / ".gitignore").touch()
    study = open_study(nano(), tmp_path)
    path = tmp_path / "cells" / "plain-s0" / "result.json"
    path.write_text(text)
    with pytest.raises(CheckpointError) as refusal:
        _results(study)
    assert str(path) in str(refusal.value)
    assert f"remove {path.parent} to run the cell again" in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert set(_results(study, "fresh")) == {"fresh-s0"}


def test_a_begun_cell_of_other_settings_is_refused_before_anything_runs(tmp_path: Path) -> None:
    task = open_study(nano(), tmp_path).tasks[0]
    task.path.mkdir(parents=True)
    (tmp_path / ".gitignore").touch()
    save_config(task.pretrain, task.path / "config.yaml")
    same = open_study(nano(base={"train": {"workers": 3}}), tmp_path)
    assert _results(same) == {}, "how the work is done may differ"
    changed = open_study(nano(base={"train": {"steps": 9}}), tmp_path)
    with pytest.raises(ConfigError) as refusal:
        _results(changed)
    assert str(refusal.value) == (
        "cell plain-s0 is begun, with train.steps 2, and the study says 9: "
        f"remove {task.path} to run it again, or use another --out"
    )
    assert _results(changed, "fresh") == {}
    (task.path / "config.yaml").rename(task.path / "model")
    with pytest.raises(ConfigError, match=r"holds no pre-training \(no config.yaml\): remove it"):
        _results(changed)


def test_a_setting_that_an_older_version_did_not_know_is_not_compared(tmp_path: Path) -> None:
    study = open_study(nano(), tmp_path)
    _finish(study)
    task = study.tasks[0]
    kept = task.settings()
    del kept["train.clip_grad"]
    _write_result(task, kept)
    assert task.name in _results(study)


def test_a_file_that_is_no_study_is_one_line(tmp_path: Path) -> None:
    for text, words in (
        ("- a", "not a mapping"),
        ("a: [", "cannot be read as a YAML study"),
        (
            "name: x\ndata: y\ncells: {a: {recipy: z}}",
            "cells.a.recipy: no such setting; there are ",
        ),
    ):
        path = tmp_path / "study.yaml"
        path.write_text(text)
        with pytest.raises(ConfigError) as refusal:
            load_study(path)
        assert words in str(refusal.value)
        assert "\n" not in str(refusal.value)
    assert load_study(write_nano(tmp_path / "nano.yaml")) == nano()
