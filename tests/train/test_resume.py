"""A run that is killed and resumed equals the uninterrupted one, bit for bit."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from m3video.config import PretrainConfig, save_config
from tests.train.kill import EVENT, FSYNC
from tests.train.tiny import read_metrics, tiny_config, without_times

ROOT = Path(__file__).parents[2]
STEPS = 9
CHECKPOINT_EVERY = 3

Kill = tuple[str, int]

RANDOM_STEPS: list[Kill] = [
    ("m3video.train.step:Trainer.step", step)
    for step in sorted(random.Random(20).sample(range(1, STEPS + 1), 4))
]
WEAK_POINTS: list[Kill] = [
    ("m3video.train.run:MetricsLog.write", 5),  # a step is done, its line not written
    ("m3video.train.step:set_learning_rate", 8),  # between gradient and update
    ("m3video.train.checkpoint:write_tensors", 3),  # at the start of the second checkpoint
    ("m3video.train.checkpoint:write_json", 2),  # weights written, counters not
    ("m3video.train.checkpoint:_point", 2),  # whole, but `last` is the one before
    ("m3video.train.checkpoint:shutil.rmtree", 1),  # `last` moved, the old one still there
    ("m3video.train.pretrain:save_model", 2),  # checkpoint saved, encoder not
]


def environment() -> dict[str, str]:
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}


def run_jobs(folder: Path, jobs: list[tuple[PretrainConfig, Kill | None]]) -> list[int]:
    """Run configs one after another, each killed or not; the signals that ended them."""
    plain = []
    for number, (config, kill) in enumerate(jobs):
        file = folder / f"job-{number}.yaml"
        save_config(config, file)
        plain.append({"config": str(file), "kill": kill})
    return run_plain(folder, plain)


def run_plain(folder: Path, jobs: list[dict[str, Any]]) -> list[int]:
    """Run what `tests.train.kill` understands."""
    (folder / "jobs.json").write_text(json.dumps(jobs))
    command = [sys.executable, "-m", "tests.train.kill", str(folder / "jobs.json")]
    done = subprocess.run(  # noqa: PLW1510 - checked below
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=1200
    )
    assert done.returncode == 0, done.stderr
    ended: list[int] = json.loads(done.stdout.splitlines()[-1])
    return ended


def config_of(out: Path, *, resume: bool = False, **train: Any) -> PretrainConfig:
    settings = {"steps": STEPS, "checkpoint_every": CHECKPOINT_EVERY, **train}
    return tiny_config(out, train=settings, resume=resume)


def assert_same_run(run: Path, reference: Path) -> None:
    """Metrics less the times, final weights, optimiser and encoder are equal to the last bit."""
    assert without_times(read_metrics(run)) == without_times(read_metrics(reference))
    assert len(read_metrics(run)) == STEPS
    for name in ("last/model.safetensors", "last/optimizer.safetensors", "model/model.safetensors"):
        assert (run / name).read_bytes() == (reference / name).read_bytes(), name
    assert (run / "last").readlink() == Path(f"checkpoints/step-{STEPS}")
    assert not list(run.rglob(".*"))  # nothing half-written is left


def check_kills(tmp_path: Path, kills: list[Kill], **train: Any) -> None:
    """Run once in peace; then for each kill run, die, resume, and compare."""
    jobs: list[tuple[PretrainConfig, Kill | None]] = [
        (config_of(tmp_path / "reference", **train), None)
    ]
    for number, kill in enumerate(kills):
        out = tmp_path / f"run-{number}"
        jobs += [
            (config_of(out, **train), kill),
            (config_of(out, resume=True, **train), None),
        ]
    ended = run_jobs(tmp_path, jobs)
    assert ended == [0] + [signal.SIGKILL, 0] * len(kills)
    for number in range(len(kills)):
        assert_same_run(tmp_path / f"run-{number}", tmp_path / "reference")


def test_killed_at_random_steps_and_while_saving(tmp_path: Path) -> None:
    check_kills(tmp_path, RANDOM_STEPS[:2] + WEAK_POINTS[3:6])


@pytest.mark.slow
def test_killed_at_weak_points(tmp_path: Path) -> None:
    check_kills(tmp_path, RANDOM_STEPS[2:] + WEAK_POINTS)


@pytest.mark.slow
def test_killed_at_twenty_random_moments(tmp_path: Path) -> None:
    """Twelve between any two calls of the loop, eight where a file is forced to the disk."""
    train = {"batch": 2}
    save_config(config_of(tmp_path / "reference", **train), tmp_path / "counted.yaml")
    counted = {"config": str(tmp_path / "counted.yaml"), "kill": None, "count": True}
    assert run_plain(tmp_path, [counted]) == [0]
    counts = json.loads((tmp_path / "counted.counts").read_text())
    draw = random.Random(20)
    kills: list[Kill] = [(EVENT, draw.randint(1, counts[EVENT])) for _ in range(12)]
    kills += [(FSYNC, number) for number in sorted(draw.sample(range(1, counts[FSYNC] + 1), 8))]
    jobs: list[tuple[PretrainConfig, Kill | None]] = []
    for number, kill in enumerate(kills):
        out = tmp_path / f"run-{number}"
        jobs += [(config_of(out, **train), kill), (config_of(out, resume=True, **train), None)]
    assert run_jobs(tmp_path, jobs) == [signal.SIGKILL, 0] * len(kills)
    for number in range(len(kills)):
        assert_same_run(tmp_path / f"run-{number}", tmp_path / "reference")
    left = [json.loads((tmp_path / f"job-{2 * n}.left").read_text()) for n in range(len(kills))]
    within = [any(name.startswith("checkpoints/.step-") for name in names) for names in left]
    assert sum(within[12:]) >= 4, "kills within the writing of a checkpoint"
    assert sum(within) < len(kills), "and between two of them"


@pytest.mark.slow
def test_killed_twice_and_with_workers_only_the_second_time(tmp_path: Path) -> None:
    out = tmp_path / "run"
    ended = run_jobs(
        tmp_path,
        [
            (config_of(tmp_path / "reference"), None),
            (config_of(out), RANDOM_STEPS[1]),
            (config_of(out, resume=True, workers=1), ("m3video.train.step:Trainer.step", 2)),
            (config_of(out, resume=True, workers=1), None),
        ],
    )
    assert ended == [0, signal.SIGKILL, signal.SIGKILL, 0]
    assert_same_run(out, tmp_path / "reference")


@pytest.mark.slow
def test_killed_at_every_step_with_a_worker(tmp_path: Path) -> None:
    kills = [("m3video.train.step:Trainer.step", step) for step in range(1, STEPS + 1)]
    check_kills(tmp_path, kills, workers=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_killed_from_outside_at_any_moment(tmp_path: Path, seed: int) -> None:
    """No chosen point: SIGKILL comes from another process, some time after some step."""
    draw = random.Random(seed)
    out = tmp_path / "run"
    save_config(config_of(out), tmp_path / "run.yaml")
    (tmp_path / "jobs.json").write_text(
        json.dumps([{"config": str(tmp_path / "run.yaml"), "kill": None}])
    )
    command = [sys.executable, "-m", "tests.train.kill", str(tmp_path / "jobs.json")]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment(), start_new_session=True, stderr=subprocess.DEVNULL
    )
    wanted = draw.randint(1, STEPS - 2)
    while process.poll() is None:
        metrics = out / "metrics.jsonl"
        if metrics.exists() and metrics.read_bytes().count(b"\n") >= wanted:
            time.sleep(draw.uniform(0, 0.02))
            os.killpg(process.pid, signal.SIGKILL)
            break
        time.sleep(0.001)
    process.wait()
    jobs = [(config_of(tmp_path / "reference"), None), (config_of(out, resume=True), None)]
    assert run_jobs(tmp_path, jobs) == [0, 0]
    assert_same_run(out, tmp_path / "reference")
