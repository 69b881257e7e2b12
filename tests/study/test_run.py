"""A study runs what is not finished, survives failures and kills, and repeats nothing."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from m3video.errors import ConfigError, RunFailedError
from m3video.study import cell, run
from m3video.study.cell import labelled_sets
from m3video.study.grid import open_study
from m3video.study.run import study
from m3video.train.step import Trainer
from tests.study.nano import nano, write_nano

DIVERGES = {
    "recipe": "videomae-tiny",
    "settings": {"train": {"lr": 1e30, "max_bad_steps": 1, "steps": 3}},
}


FINETUNE = {"labels": [1], "steps": 2, "batch": 4}


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    return write_nano(tmp_path / "nano.yaml", finetune=FINETUNE)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The nano study, run without interruption. Nobody may change it."""
    folder = tmp_path_factory.mktemp("whole")
    study(write_nano(folder / "nano.yaml", finetune=FINETUNE), out=folder / "out")
    return folder / "out"


def rows_in(out: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((out / "study.json").read_text())["rows"]
    return rows


def names(rows: list[dict[str, Any]]) -> list[str]:
    return [row["run"].removeprefix("cells/") for row in rows]


def numbers_of(row: dict[str, Any]) -> dict[str, Any]:
    """What does not hang on the clock."""
    times = ("seconds", "parts", "versions")
    return {name: value for name, value in row.items() if name not in times}


def test_cells_are_run_once_and_what_is_light_is_enough_to_know_it(
    grid: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, rows = tmp_path / "out", rows_in(whole)
    shutil.copytree(whole, out)
    assert names(rows) == ["plain-s0", "fresh-s0"]
    trained, fresh = rows
    assert trained["loss"].keys() == {"loss", "loss/pixel"}
    assert "loss" not in fresh or fresh["loss"] == {}
    for row in rows:
        assert row["seconds"] >= 0
        probe = row["probe"]
        assert set(probe["by_texture"]) == {"noise", "photo"}
        both = (probe["by_texture"]["noise"] + probe["by_texture"]["photo"]) / 2
        assert probe["linear"] == pytest.approx(both), "two sets of 13 clips"
        assert set(row["finetune"]) == {"1"}
    result = json.loads((out / "cells" / "plain-s0" / "result.json").read_text())
    assert (result["cell"], result["seed"]) == ("plain", 0)
    assert result["versions"]["packages"]["torch"]

    # What git keeps: everything that the folder's .gitignore does not name.
    subprocess.run(["git", "init", "-q", str(out)], check=True)
    listed = ["git", "-C", str(out), "ls-files", "--others", "--exclude-standard"]
    kept = subprocess.run(listed, check=True, capture_output=True, text=True).stdout.split()
    assert not [name for name in kept if name.endswith((".safetensors", ".npy", ".jsonl"))], kept
    assert {"study.json", "plot.svg", "cells/plain-s0/result.json"} <= set(kept)
    light = tmp_path / "light"
    for name in kept:
        (light / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(out / name, light / name)
    monkeypatch.setattr(run, "run_cell", None)  # calling it would be an error
    assert study(grid, out=light) == rows
    write_nano(grid, base={"train": {"steps": 7}})
    with pytest.raises(ConfigError, match=r"cell plain-s0 is finished, with train.steps 2"):
        study(grid, out=light)


def test_a_cell_that_is_killed_goes_on_as_if_nothing_had_been(
    grid: Path, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole / "cache", out / "cache")
    (out / ".gitignore").touch()
    code = (
        "from pathlib import Path; from m3video.study.run import study; from tests.train.kill "
        "import arm; arm('m3video.train.step:Trainer.step', 2); "
        f"study(Path({str(grid)!r}), out=Path({str(out)!r}), only=['plain'])"
    )
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    place = out / "cells" / "plain-s0"
    assert not (place / "result.json").exists()
    rows = study(grid, out=out, only=["plain"])
    assert [numbers_of(row) for row in rows] == [numbers_of(row) for row in rows_in(whole)[:1]]
    resumed = json.loads((place / "environment.json").read_text())["resumed"]
    assert [entry["step"] for entry in resumed] == [1]


def test_a_cell_that_is_trained_is_only_measured(
    grid: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole, out, symlinks=True)
    (out / "cells" / "plain-s0" / "result.json").unlink()
    monkeypatch.setattr(Trainer, "step", None)  # calling it would be an error
    rows = study(grid, out=out, only=["plain"])
    assert [numbers_of(row) for row in rows] == [numbers_of(row) for row in rows_in(whole)]


def test_ctrl_c_writes_no_result(
    grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cell, "_probe", interrupted)
    monkeypatch.setattr(run, "labelled_sets", lambda *_, **__: None)
    with pytest.raises(KeyboardInterrupt):
        study(grid, out=tmp_path / "out", only=["fresh"])
    assert rows_in(tmp_path / "out") == []
    assert not (tmp_path / "out" / "cells" / "fresh-s0" / "result.json").exists()


def test_two_at_a_time_one_fails_and_is_tried_again(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = {"diverges": DIVERGES, "fresh": {"pretrain": False}}
    grid = write_nano(tmp_path / "nano.yaml", cells=cells, finetune=FINETUNE)
    out = tmp_path / "out"
    shutil.copytree(whole / "cache", out / "cache")
    (out / ".gitignore").touch()
    with pytest.raises(RunFailedError, match=r"1 of 2 cells failed, first diverges-s0: loss or"):
        study(grid, out=out, jobs=2)
    rows = rows_in(out)
    assert names(rows) == ["diverges-s0", "fresh-s0"]
    assert "not finite" in rows[0]["failed"]
    assert numbers_of(rows[1]) == numbers_of(rows_in(whole)[1]), "in a process of its own or here"
    assert (out / "logs" / "diverges-s0.log").exists()
    assert "failed" in (out / "table.md").read_text()
    # Another call that is not asked for it still tells of it; one that is tries again.
    assert "failed" in study(grid, out=out, only=["fresh"])[0]

    def again(*_: object, **__: object) -> None:
        raise RunFailedError("no memory")

    monkeypatch.setattr(run, "run_cell", again)
    with pytest.raises(RunFailedError, match="1 of 1 cells failed, first diverges-s0: no memory"):
        study(grid, out=out)
    assert rows_in(out)[0]["failed"] == "no memory"


def test_no_cell_is_begun_that_would_not_end_in_time(
    grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_nano(grid, seeds=[0, 1, 2], cells={"fresh": {"pretrain": False}})

    def slow(task: Any, **_: object) -> dict[str, Any]:
        probe = {"linear": 0.5, "knn": 0.5, "chance": 0.1}
        return {"kind": task.kind, "probe": probe, "finetune": {}, "seconds": 90.0}

    monkeypatch.setattr(run, "run_cell", slow)
    monkeypatch.setattr(run, "labelled_sets", lambda *_, **__: None)
    rows = study(grid, out=tmp_path / "out", minutes=1)
    assert names(rows) == ["fresh-s0"], "the first tells how long they take"
    assert "2 cells are left for later: fresh-s1, fresh-s2" in capsys.readouterr().err
    assert len(study(grid, out=tmp_path / "more", minutes=2)) == 3
    with pytest.raises(ConfigError, match="--jobs 0"):
        study(grid, out=tmp_path / "none", jobs=0)
    for minutes in (0, -1, math.nan, math.inf):
        with pytest.raises(ConfigError, match=r"--minutes \S+: more than 0"):
            study(grid, out=tmp_path / "none", minutes=minutes)
    assert not (tmp_path / "none").exists()


def test_any_error_is_one_cells_failure_and_the_study_file_is_read_once(
    grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(task: Any, **_: object) -> dict[str, Any]:
        grid.write_text("cells: [")  # as an editor does, halfway through
        if task.cell == "plain":
            raise ValueError("x" * 100_000)
        probe = {"linear": 0.5, "knn": 0.5, "chance": 0.1}
        return {"kind": task.kind, "probe": probe, "finetune": {}, "seconds": 1.0}

    monkeypatch.setattr(run, "run_cell", broken)
    monkeypatch.setattr(run, "labelled_sets", lambda *_, **__: None)
    out = tmp_path / "out"
    with pytest.raises(RunFailedError, match="1 of 2 cells failed, first plain-s0: ValueError: xx"):
        study(grid, out=out)
    failed, finished = rows_in(out)
    assert len(failed["failed"]) == run.LONGEST_REASON
    assert finished["probe"]["linear"] == 0.5
    assert "Traceback" in (out / "logs" / "plain-s0.log").read_text()
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"group": "scene"}, "no column 'scene' to group by"),
        ({"folds": 50}, "folds 50: there are only 6"),
    ],
)
def test_data_that_cannot_be_probed_is_refused_before_anything_is_trained(
    made_folder: Path, tmp_path: Path, settings: dict[str, Any], words: str
) -> None:
    path = write_nano(
        tmp_path / "nano.yaml", data=str(made_folder), probe={**settings, "workers": 0}
    )
    with pytest.raises(ConfigError, match=words):
        study(path, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_sets_that_cannot_be_rendered_are_the_failure_of_their_cells(
    grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run, "labelled_sets", full)
    with pytest.raises(RunFailedError, match=r"2 of 2 cells failed, first plain-s0: OSError: .*No"):
        study(grid, out=tmp_path / "out")


def test_clips_cut_short_are_rendered_anew(whole: Path, tmp_path: Path) -> None:
    task = open_study(nano(finetune=FINETUNE), tmp_path).tasks[0]
    shutil.copytree(whole / "cache", tmp_path / "cache")
    sets = labelled_sets(task.pretrain.clip, task.probe, tmp_path / "cache")
    path = next((tmp_path / "cache").glob("test-*.npy"))
    good, time_written = path.read_bytes(), path.stat().st_mtime_ns
    del sets
    for bad in (good[:-1000], good[:20], b""):
        path.write_bytes(bad)
        labelled_sets(task.pretrain.clip, task.probe, tmp_path / "cache")
        assert path.read_bytes() == good
    np.save(path, np.zeros((26, 4, 48, 32, 3), np.uint8))  # as large, of another shape
    labelled_sets(task.pretrain.clip, task.probe, tmp_path / "cache")
    assert path.read_bytes() == good
    os.utime(path, ns=(time_written, time_written))
    labelled_sets(task.pretrain.clip, task.probe, tmp_path / "cache")
    assert path.stat().st_mtime_ns == time_written, "what is whole is kept"


def test_a_cell_that_is_no_longer_trained_has_no_loss(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole, out, symlinks=True)
    (out / "cells" / "plain-s0" / "result.json").unlink()
    metrics = out / "cells" / "plain-s0" / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace('"time": ', '"time": 9999'))
    cells = {"plain": {"recipe": "videomae-tiny", "pretrain": False}}
    grid = write_nano(tmp_path / "nano.yaml", finetune=FINETUNE, cells=cells)
    (row,) = study(grid, out=out)
    assert row["loss"] == {}
    assert row["seconds"] < 9999


def test_no_process_outlives_an_error_of_the_study(
    grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_table(*_: object) -> None:
        raise PermissionError("no table")

    monkeypatch.setattr(run._Book, "ended", no_table)
    monkeypatch.setattr(run, "_answer", lambda _: "why")
    monkeypatch.setattr(run, "labelled_sets", lambda *_, **__: None)
    context = multiprocessing.get_context("spawn")

    def start(task: Any, _: object) -> run._Running:
        # The first ends at once, and then the table cannot be written; the other would go on.
        seconds = 0 if task.cell == "plain" else 60
        process = context.Process(target=time.sleep, args=(seconds,))
        process.start()
        return run._Running(task, process, context.Pipe()[0])

    monkeypatch.setattr(run, "_start", start)
    with pytest.raises(PermissionError, match="no table"):
        study(grid, out=tmp_path / "out", jobs=2)
    assert multiprocessing.active_children() == []


def test_threads_and_workers_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    shares = [run._Share.of(jobs) for jobs in (1, 3, 8, 12)]
    assert [(share.threads, share.workers) for share in shares] == [
        *((8, None), (2, None), (1, 0), (1, 0))
    ]


# A shell's background job, and all that it starts, ignores Ctrl-C unless it is told not to.
HEEDING = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from m3video.cli import main; sys.exit(main(sys.argv[1:]))"
)


@pytest.mark.slow
def test_ctrl_c_saves_the_cells_of_all_processes(tmp_path: Path) -> None:
    train = {"steps": 4000, "checkpoint_every": 4000}
    cells = {"a": {"recipe": "videomae-tiny"}, "b": {"recipe": "videomae-tiny"}}
    grid = write_nano(tmp_path / "nano.yaml", cells=cells, base={"train": train})
    out = tmp_path / "out"
    verb = ["study", str(grid), "--out", str(out), "--jobs=2"]
    command = [sys.executable, "-c", HEEDING, *verb]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE)
    metrics = [out / "cells" / f"{name}-s0" / "metrics.jsonl" for name in cells]
    until = time.monotonic() + 120
    while not all(path.exists() and path.stat().st_size for path in metrics):
        assert time.monotonic() < until
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    assert process.wait(60) == 130
    assert all((path.parent / "last").exists() for path in metrics)
    assert b"Traceback" not in (process.stderr.read() if process.stderr else b"")
