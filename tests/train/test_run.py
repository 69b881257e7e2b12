"""The run directory: what is refused and in which words, the metrics, the environment."""

from __future__ import annotations

import json
import os
import platform
import shlex
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from m3video.errors import CheckpointError, ConfigError
from m3video.train.environment import describe_environment
from m3video.train.run import MetricsLog, RunDirectory, flatten
from m3video.train.step import choose_device
from tests.train.tiny import read_metrics, tiny_config


def test_directory_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    run.check_free()
    (tmp_path / "run").mkdir()
    run.check_free()
    (tmp_path / "run" / "notes.txt").touch()
    with pytest.raises(ConfigError, match=r"not empty; choose another --out, or empty it first"):
        run.check_free()
    run.config.touch()
    with pytest.raises(ConfigError, match=r"already holds a run; go on with it by --resume, or"):
        run.check_free()
    with pytest.raises(ConfigError, match=r"a file, not a directory; choose another --out"):
        RunDirectory(tmp_path / "run" / "notes.txt").check_free()
    with pytest.raises(ConfigError, match=r"x/y: .*notes.txt cannot be written to; choose another"):
        RunDirectory(tmp_path / "run" / "notes.txt" / "x" / "y").check_free()


def test_resume_without_a_run_is_refused(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, resume=True)
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(CheckpointError, match=r"no run to resume .*leave out --resume"):
            RunDirectory(path).check_resume(config)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"train": {"lr": 1.0}}, "train.lr is 1.0"),
        ({"train": {"steps": 99}}, "train.steps is 99"),
        ({"clip": {"size": (48, 32)}}, r"clip.size is \[48, 32\]"),
        ({"targets": {"pixel": {"weight": 1.0}}}, "targets.pixel.weight is 1.0"),
        ({"data": "videos"}, "data is 'videos'"),
        ({"init": "elsewhere"}, "init is 'elsewhere'"),
    ],
)
def test_resume_with_another_config_names_the_setting(
    tmp_path: Path, changes: dict[str, object], field: str
) -> None:
    run = RunDirectory(tmp_path)
    run.create(tiny_config(tmp_path), None, "cpu")
    with pytest.raises(
        ConfigError, match=rf"--resume: {field}, the run in .* has .*--resume --out"
    ):
        run.check_resume(tiny_config(tmp_path, resume=True, **changes))


def test_resume_may_change_what_changes_no_number(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.create(tiny_config(tmp_path), None, "cpu")
    train = {"workers": 3, "keep": 9, "log_every": 2, "device": "auto", "checkpoint_every": 1}
    run.check_resume(tiny_config(tmp_path, resume=True, train=train))


def test_flatten() -> None:
    assert flatten({"a": 1, "b": {"c": {"d": [2]}, "e": None}}) == {
        "a": 1,
        "b.c.d": [2],
        "b.e": None,
    }


def test_metrics_are_cut_back_to_the_checkpoint(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    with MetricsLog(run, 0) as log:
        for step in (1, 2, 3, 4):
            log.write({"step": step, "loss": float(step)})
    with run.metrics.open("a") as file:
        file.write('{"step": 5, "lo')  # killed while writing
    with MetricsLog(run, 2) as log:
        log.write({"step": 3, "loss": 30.0})
        log.write({"step": 4, "loss": None})
    lines = [(line["step"], line["loss"]) for line in read_metrics(tmp_path)]
    assert lines == [(1, 1.0), (2, 2.0), (3, 30.0), (4, None)]
    board = EventAccumulator(str(run.tensorboard), purge_orphaned_data=True).Reload()
    assert [(s.step, s.value) for s in board.Scalars("loss")] == [(1, 1.0), (2, 2.0), (3, 30.0)]


def test_metrics_refuse_what_is_not_json(tmp_path: Path) -> None:
    with MetricsLog(RunDirectory(tmp_path), 0) as log, pytest.raises(ValueError, match="JSON"):
        log.write({"step": 1, "loss": float("nan")})


def test_unreadable_survive_commas_and_quotes(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    assert run.read_unreadable() == {}
    reasons = {'a, "b".mp4': "no video, at all", "c\nd.mp4": "moov: 'ü'"}
    reasons[os.fsdecode(b"caf\xe9.mp4")] = "a name that is not UTF-8"
    run.write_unreadable(reasons)
    assert run.read_unreadable() == reasons


def test_environment_tells_versions_and_nothing_of_the_person() -> None:
    environment = describe_environment("cpu")
    assert set(environment["packages"]) >= {"m3video", "torch", "av", "numpy"}
    assert environment["python"] == platform.python_version()
    assert environment["device_name"]
    text = json.dumps(environment)
    assert platform.node() not in text
    assert str(Path.home()) + "/" not in text


def test_resumption_is_noted(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.create(tiny_config(tmp_path), None, "cpu")
    first = json.loads(run.environment.read_text())
    run.note_resumption(tiny_config(tmp_path, resume=True, train={"workers": 3}), 7, "cpu")
    second = json.loads(run.environment.read_text())
    assert {**second, "resumed": []} == first
    assert [entry["step"] for entry in second["resumed"]] == [7]
    assert "workers: 3" in run.config.read_text()
    assert "resume: false" in run.config.read_text()


def test_unknown_device_is_one_line() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    with pytest.raises(ConfigError, match=r"device 'toaster' cannot be used: .*; use auto") as e:
        choose_device("toaster")
    assert "\n" not in str(e.value)


def test_a_directory_that_is_read_only_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)  # root may write all
    with pytest.raises(ConfigError, match=rf"{tmp_path} cannot be written to"):
        RunDirectory(tmp_path / "run").check_free()


def test_how_to_resume_can_be_pasted_in_a_shell(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "my run")
    words = ["--resume", "--out", str(tmp_path / "my run")]
    assert shlex.split(run.resume_options) == words
