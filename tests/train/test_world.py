"""World size does not change what is learned: two processes against one, over gloo on the CPU."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from m3video.config import load_pretrain_config, save_config
from m3video.errors import ConfigError
from m3video.model.checkpoint import load_classifier, load_encoder, save_model
from m3video.model.classifier import Classifier
from m3video.train.checkpoint import checkpoint_weights
from m3video.train.pretrain import pretrain
from m3video.train.step import Trainer
from m3video.train.world import ALONE, World
from m3video.video.moving_shapes import CLASSES
from m3video.video.sampling import plan_run
from tests.train.tiny import read_metrics, tiny_config, without_times
from tests.train.two_processes import STEPS, run_jobs

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
ROOT = Path(__file__).parents[2]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def run(*arguments: str | Path, timeout: int = 500) -> subprocess.CompletedProcess[str]:
    """Run torchrun to its end."""
    return subprocess.run(
        [*TORCHRUN, *map(str, arguments)],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same jobs done by two processes and by one."""
    folder = tmp_path_factory.mktemp("world")
    config = tiny_config(folder / "unused")
    torch.manual_seed(0)
    encoder = Trainer(config, plan_run(config), torch.device("cpu")).model.encoder
    save_model(encoder, folder / "init", config.clip)
    torch.manual_seed(1)
    encoder.take_norm()
    save_model(Classifier(encoder, CLASSES), folder / "classifier", config.clip)
    ended = run("-m", "tests.train.two_processes", folder / "two")
    assert ended.returncode == 0, ended.stderr[-3000:]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    run_jobs(folder / "one")
    torch.set_num_threads(threads)
    return folder / "two", folder / "one"


def assert_alike(two: Path, one: Path, tolerance: float) -> None:
    """Losses and gradient norms of every step."""
    here, there = (without_times(read_metrics(run)) for run in (two, one))
    assert [line["step"] for line in here] == [line["step"] for line in there]
    for a, b in zip(here, there, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            if a[key] is not None and not isinstance(a[key], list):
                assert a[key] == pytest.approx(b[key], rel=tolerance, abs=tolerance), key


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddp", "accumulated", "fsdp", "resharded"])
def test_pre_training_learns_the_same(both: tuple[Path, Path], name: str) -> None:
    two, one = both
    assert len(read_metrics(two / name)) == STEPS
    assert_alike(two / name, one / name, 1e-5)
    ours, theirs = (load_encoder(path / name).state_dict() for path in both)
    for key, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[key], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tuned", "averaged", "tuned-accumulated", "tuned-fsdp"])
def test_fine_tuning_learns_the_same(both: tuple[Path, Path], name: str) -> None:
    two, one = both
    assert_alike(two / name, one / name, 1e-5)
    ours, theirs = (load_classifier(path / name).state_dict() for path in both)
    for key, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[key], rtol=1e-4, atol=1e-5)
    told = [json.loads((path / name / "evaluation/evaluation.json").read_text()) for path in both]
    assert told[0]["videos"] == told[1]["videos"] == 15


@pytest.mark.slow
def test_evaluation_and_probe_find_the_same(both: tuple[Path, Path]) -> None:
    two, one = both
    for name in ("evaluation/evaluation.json", "evaluation/predictions.csv", "probe.json"):
        assert (two / name).read_text() == (one / name).read_text(), name


@pytest.mark.slow
def test_who_takes_what_and_hears_of_whom(both: tuple[Path, Path]) -> None:
    two, one = (json.loads((path / "world.json").read_text()) for path in both)
    assert two == {
        "next": [1.0, 2.0, 3.0],
        "agree": [True, False],
        "sum": [2.0, 2.0],
        "dealt": [[0, 1, 2], [3, 4]],
        "broken": ["silent", "VideoError: clip.mp4: broken"],
    }
    assert one == {
        "next": [0.0, 1.0, 2.0],
        "agree": [False, False],
        "sum": [1.0, 1.0],
        "dealt": [[0, 1, 2, 3, 4]],
        "broken": ["VideoError: clip.mp4: broken"],
    }


@pytest.mark.slow
def test_checkpoints_in_parts_are_read_by_any_number_of_processes(
    both: tuple[Path, Path], tmp_path: Path
) -> None:
    two, one = both
    place = two / "fsdp/last"
    names = sorted(path.name for path in place.iterdir())
    assert names[-1] == "state.json"
    assert len([name for name in names if name.startswith("shard-")]) == 2
    assert not list(place.parent.glob(".*")), "nothing unfinished stays"
    whole = checkpoint_weights(one / "fsdp/last")
    for name, tensor in checkpoint_weights(place).items():
        torch.testing.assert_close(tensor, whole[name], rtol=1e-4, atol=1e-5)
    # A run of two that was stopped after 16 steps goes on in one process.
    config = load_pretrain_config(two / "fsdp/config.yaml")
    stopped = tmp_path / "stopped"
    _copy_until(two / "fsdp", stopped, 16)
    pretrain(config.model_copy(update={"out": stopped, "resume": True}))
    assert_alike(stopped, one / "fsdp", 1e-5)


def _copy_until(run: Path, to: Path, step: int) -> None:
    """A run as it was after a checkpoint."""
    shutil.copytree(run, to, symlinks=True)
    (to / "last").unlink()
    for place in (to / "checkpoints").iterdir():
        if place.name != f"step-{step}":
            shutil.rmtree(place)


@pytest.mark.slow
def test_a_process_that_is_killed_costs_nothing(both: tuple[Path, Path], tmp_path: Path) -> None:
    """torchrun starts both again, and the run ends as if nothing had been."""
    out, log = tmp_path / "killed", tmp_path / "log"
    config = tiny_config(out, train={"steps": STEPS, "lr": 3.2e-2, "checkpoint_every": 4})
    save_config(config, tmp_path / "config.yaml")
    command = [*TORCHRUN, "--max-restarts", "2", "-m", "m3video", "pretrain"]
    command += ["--config", str(tmp_path / "config.yaml"), "--train.workers", "1"]
    with log.open("w") as file:
        process = subprocess.Popen(command, cwd=ROOT, env=environment(), stderr=file, stdout=file)
        victim = _wait_for_step(process, out, 9)
        os.kill(victim, signal.SIGKILL)
        assert process.wait(timeout=400) == 0, log.read_text()[-3000:]
    assert json.loads((out / "environment.json").read_text())["resumed"]
    two = both[0] / "ddp"
    assert without_times(read_metrics(out)) == without_times(read_metrics(two))
    ours, theirs = (load_encoder(path).state_dict() for path in (out, two))
    assert all(torch.equal(tensor, theirs[key]) for key, tensor in ours.items())


def _wait_for_step(process: subprocess.Popen[bytes], run: Path, step: int, rank: int = 1) -> int:
    """A process of the run, once it has come so far."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    for _ in range(2400):
        assert process.poll() is None
        metrics = run / "metrics.jsonl"
        if metrics.exists() and len(metrics.read_bytes().splitlines()) >= step:
            return int(children.read_text().split()[rank])
        time.sleep(0.1)
    raise AssertionError("it never came so far")


@pytest.mark.slow
def test_devices_starts_the_processes_and_bad_input_is_one_line(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "m3video",
        "pretrain",
        "--recipe",
        "mme-tiny",
        "--devices",
        "2",
    ]

    def start(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *arguments],
            env=environment(),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )

    bad = start("--data", "nowhere", "--out", "run")
    assert bad.returncode == 2
    lines = [line for line in bad.stderr.splitlines() if "nowhere" in line]
    assert len(lines) == 1, bad.stderr
    assert "Traceback" not in bad.stderr
    assert not (tmp_path / "run").exists()
    small = ["--train.steps", "2", "--train.batch", "2", "--shapes.clips", "4"]
    good = start("--data", "moving-shapes", "--out", "run", "--train.workers", "0", *small)
    assert good.returncode == 0, good.stderr[-2000:]
    assert len(read_metrics(tmp_path / "run")) == 2
    assert good.stdout.count("report:") == 1
    uneven = start("--data", "moving-shapes", "--out", "odd", *small[:2], "--train.batch", "3")
    assert uneven.returncode == 2
    assert uneven.stderr.count("train.batch 3") == 1


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_devices_goes_on_when_a_process_is_killed(tmp_path: Path, rank: int) -> None:
    out, log = tmp_path / "run", tmp_path / "log"
    config = tiny_config(out, train={"steps": 12, "lr": 3.2e-2, "checkpoint_every": 4})
    save_config(config, tmp_path / "config.yaml")
    command = [sys.executable, "-m", "m3video", "pretrain", "--devices", "2"]
    command += ["--config", str(tmp_path / "config.yaml")]
    with log.open("w") as file:
        process = subprocess.Popen(command, cwd=ROOT, env=environment(), stderr=file, stdout=file)
        os.kill(_wait_for_step(process, out, 5, rank), signal.SIGKILL)
        assert process.wait(timeout=400) == 0, log.read_text()
    assert "was ended by SIGKILL; going on from the last checkpoint" in log.read_text()
    assert "Traceback" not in log.read_text()
    assert [line["step"] for line in read_metrics(out)] == list(range(1, 13))
    assert json.loads((out / "environment.json").read_text())["resumed"][0]["step"] >= 4


def test_a_batch_is_dealt_out_evenly_or_not_at_all() -> None:
    assert [World(rank, 3).share(12, 2) for rank in range(3)] == [
        slice(0, 4),
        slice(4, 8),
        slice(8, 12),
    ]
    with pytest.raises(ConfigError, match=r"train\.batch 12 .* 5 processes .* multiple of 5"):
        World(0, 5).share(12)
    with pytest.raises(ConfigError, match="multiple of 8"):
        World(0, 2).share(12, 4)
    with pytest.raises(ConfigError, match="multiple of 24"):
        World(0, 2).share(16, 4, 3)


def test_alone_nothing_is_sent() -> None:
    tensor = torch.ones(2)
    assert ALONE.sum(tensor) is tensor
    assert ALONE.next_part(tensor) is tensor
    assert ALONE.gather("a") == ["a"]
    assert ALONE.first(lambda: 3) == 3
    assert ALONE.agree(True, False) == [True, False]
    assert ALONE.deal(range(2, 7)) == range(2, 7)
