"""World size does not change what is learned: two processes against one, over gloo on the CPU."""

from __future__ import annotations

import csv
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from m3video.config import load_pretrain_config, save_config
from m3video.errors import ConfigError
from m3video.model.checkpoint import load_classifier, load_detector, load_encoder, save_model
from m3video.model.classifier import Classifier
from m3video.train.checkpoint import checkpoint_weights
from m3video.train.pretrain import pretrain
from m3video.train.step import Trainer
from m3video.train.world import ALONE, World
from m3video.video.datasets.boxes import KeyFrame, write_boxes
from m3video.video.moving_shapes import CLASSES
from m3video.video.sampling import plan_run
from tests.train.test_detect import film
from tests.train.test_pretrain import break_after_the_scan
from tests.train.tiny import read_metrics, tiny_config, without_times
from tests.train.two_processes import STEPS, run_jobs

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node"]
ROOT = Path(__file__).parents[2]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def run(*arguments: str | Path, processes: int = 2) -> subprocess.CompletedProcess[str]:
    """Run torchrun to its end."""
    return subprocess.run(
        [*TORCHRUN, str(processes), *map(str, arguments)],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


def films(folder: Path) -> list[KeyFrame]:
    """Of one or two people each."""
    frames = [film(folder / f"film{number}.mp4", number) for number in range(12)]
    return [
        replace(frame, split="train", boxes=frame.boxes[:people], labels=frame.labels[:people])
        for frame, people in zip(frames, itertools.cycle([1, 2, 2]), strict=False)
    ]


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
    break_after_the_scan(folder, 8, 1)
    write_boxes(films(folder), folder / "boxes.csv")
    ended = run("-m", "tests.train.two_processes", folder / "two")
    assert ended.returncode == 0, ended.stderr[-3000:]
    (folder / "two/stderr").write_text(ended.stderr)
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
@pytest.mark.parametrize("name", ["ddp", "accumulated", "fsdp", "fsdp-accumulated", "resharded"])
def test_pre_training_learns_the_same(both: tuple[Path, Path], name: str) -> None:
    two, one = both
    assert len(read_metrics(two / name)) == (10 if name == "fsdp-accumulated" else STEPS)
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
def test_detection_learns_the_same(both: tuple[Path, Path]) -> None:
    two, one = both
    assert len(read_metrics(two / "detected")) == 6
    assert_alike(two / "detected", one / "detected", 1e-5)
    ours, theirs = (load_detector(path / "detected").state_dict() for path in both)
    for key, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[key], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_in_one_process_is_skipped_by_all(
    both: tuple[Path, Path],
) -> None:
    two, one = both
    lines = read_metrics(two / "skipped")
    assert [line["step"] for line in lines if line["loss"] is None] == [3]
    assert [line["bad_steps"] for line in lines] == [0, 0, 1, 1, 1, 1, 1, 1]
    assert_alike(two / "skipped", one / "skipped", 1e-5)
    assert json.loads((two / "world.json").read_text())["same"], "weights of all processes"
    assert (two / "stderr").read_text().count("step 3: loss or gradient is not finite") == 1


@pytest.mark.slow
def test_a_video_that_one_process_cannot_read_is_known_to_all(both: tuple[Path, Path]) -> None:
    two, one = both
    assert_alike(two / "unreadable", one / "unreadable", 1e-5)
    assert read_metrics(two / "unreadable")[-1]["unreadable"] == 1
    rows = []
    for path in both:
        with (path / "unreadable/unreadable.csv").open() as file:
            rows.append(list(csv.DictReader(file)))
    assert rows[0] == rows[1]
    assert [Path(row["path"]).name for row in rows[0]] == ["clip-0.mp4"]
    assert (two / "stderr").read_text().count("clip-0.mp4") == 1


@pytest.mark.slow
def test_evaluation_and_probe_find_the_same(both: tuple[Path, Path]) -> None:
    two, one = both
    for name in ("evaluation/evaluation.json", "evaluation/predictions.csv", "probe.json"):
        assert (two / name).read_text() == (one / name).read_text(), name


@pytest.mark.slow
def test_who_takes_what_and_hears_of_whom(both: tuple[Path, Path]) -> None:
    two, one = (json.loads((path / "world.json").read_text()) for path in both)
    for name in FAILED:
        two.pop(name)
        one.pop(name, None)
    assert two == {
        "next": [1.0, 2.0, 3.0],
        "agree": [True, False],
        "sum": [2.0, 2.0],
        "dealt": [[0, 1, 2], [3, 4]],
        "broken": ["silent", "VideoError: clip.mp4: broken"],
        "same": True,
        "written": [[False, False], [True, True]],
    }
    assert one == {
        "next": [0.0, 1.0, 2.0],
        "agree": [False, False],
        "sum": [1.0, 1.0],
        "dealt": [[0, 1, 2, 3, 4]],
        "broken": ["VideoError: clip.mp4: broken"],
        "same": True,
    }


FAILED = {
    "full": "full/metrics.jsonl: cannot be written: No space left on device; stopped after step 2, "
    "there is no checkpoint yet; when that is mended, go on with: m3video pretrain --resume --out",
    "part": "checkpoints/.step-4.partial: cannot be written: [Errno 28] No space left on device; "
    "stopped after step",
    "place": "checkpoints/step-4: cannot be written: Read-only file system; stopped after step",
    # while a checkpoint in parts is under way
    "meanwhile": "meanwhile/metrics.jsonl: cannot be written: No space left on device; stopped "
    "after step 2",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAILED)
def test_what_the_first_process_cannot_write_ends_all(both: tuple[Path, Path], name: str) -> None:
    """And one of them tells, in a line."""
    said, other = json.loads((both[0] / "world.json").read_text())[name]
    assert said.startswith("RunFailedError: ")
    assert FAILED[name] in said
    assert len(said) < 500, "no traceback in it"
    assert other == "silent"
    assert not list((both[0] / name).glob("checkpoints/step-*"))


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


@pytest.mark.slow
def test_three_processes_go_on_with_what_two_have_saved(
    both: tuple[Path, Path], tmp_path: Path
) -> None:
    """Most weights cannot be cut in three equal parts."""
    stopped = tmp_path / "stopped"
    _copy_until(both[0] / "fsdp-accumulated", stopped, 8)
    ended = run("-m", "m3video", "pretrain", "--resume", "--out", stopped, processes=3)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert len(list((stopped / "last").glob("shard-*"))) == 3
    reference = both[1] / "fsdp-accumulated"
    assert_alike(stopped, reference, 1e-5)
    whole = checkpoint_weights(reference / "last")
    for name, tensor in checkpoint_weights(stopped / "last").items():
        torch.testing.assert_close(tensor, whole[name], rtol=1e-4, atol=1e-5)


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
    command = [*TORCHRUN, "2", "--max-restarts", "2", "-m", "m3video", "pretrain"]
    command += ["--config", str(tmp_path / "config.yaml"), "--train.workers", "1"]
    with log.open("w") as file:
        process = subprocess.Popen(command, cwd=ROOT, env=environment(), stderr=file, stdout=file)
        victim = wait_for_step(process, out, 9)
        os.kill(victim, signal.SIGKILL)
        assert process.wait(timeout=400) == 0, log.read_text()[-3000:]
    assert json.loads((out / "environment.json").read_text())["resumed"]
    two = both[0] / "ddp"
    assert without_times(read_metrics(out)) == without_times(read_metrics(two))
    ours, theirs = (load_encoder(path).state_dict() for path in (out, two))
    assert all(torch.equal(tensor, theirs[key]) for key, tensor in ours.items())


def wait_for_step(process: subprocess.Popen[bytes], run: Path, step: int, rank: int = 1) -> int:
    """A process of the run, once it has come so far."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    for _ in range(2400):
        assert process.poll() is None
        metrics = run / "metrics.jsonl"
        if metrics.exists() and len(metrics.read_bytes().splitlines()) >= step:
            return int(children.read_text().split()[rank])
        time.sleep(0.1)
    raise AssertionError("it never came so far")


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
