"""The verb, end to end: the run directory, real files, bad data, divergence, Ctrl-C."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from m3video.config import PretrainAugment, PretrainConfig, load_pretrain_config, save_config
from m3video.errors import (
    ConfigError,
    DivergedError,
    ManifestError,
    RunFailedError,
    StoppedError,
    TooManyUnreadableError,
    VideoError,
)
from m3video.model.checkpoint import load_encoder
from m3video.targets.base import ClipView, Target, TargetMaker
from m3video.train import prepare
from m3video.train.batches import cores_shared
from m3video.train.pretrain import pretrain
from m3video.train.run import RunDirectory
from m3video.train.step import Trainer
from m3video.video.manifest import load_manifest, write_manifest
from tests.train.test_resume import ROOT, assert_same_run, config_of, environment
from tests.train.tiny import TIMES, read_metrics, tiny_config, without_times


def make_videos(folder: Path, count: int) -> list[Path]:
    """Short 64×48 clips of a sliding texture."""
    folder.mkdir(parents=True)
    texture = np.random.default_rng(0).integers(0, 255, (48, 128, 3), dtype=np.uint8)
    paths = [folder / f"clip-{number}.mp4" for number in range(count)]
    for path in paths:
        with av.open(str(path), "w") as container:
            stream = container.add_stream("mpeg4", rate=10)
            stream.width, stream.height = 64, 48
            for shift in range(20):
                frame = av.VideoFrame.from_ndarray(texture[:, shift : shift + 64].copy(), "rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    return paths


def test_a_run_leaves_what_the_design_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_config(tmp_path / "runs" / "a")
    run = pretrain(config)
    assert run == config.out
    names = {path.name for path in run.iterdir()}
    assert names == {
        "config.yaml",
        "environment.json",
        "metrics.jsonl",
        "tensorboard",
        "checkpoints",
        "last",
        "model",
    }
    assert load_pretrain_config(run / "config.yaml") == config
    lines = read_metrics(run)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert lines[3]["epoch"] == 1.0  # 16 clips in batches of 4
    losses = {"loss", "loss/trajectory", "loss/trajectory_hog"}
    assert set(lines[0]) == losses | TIMES | {
        "step",
        "epoch",
        "lr",
        "grad_norm",
        "effective_rank",
        "explained/trajectory",
        "explained/trajectory_hog",
        "bad_steps",
        "unreadable",
    }
    assert lines[-1]["loss"] < 0.7 * lines[0]["loss"]
    assert all(0 <= line["data_wait"] <= 1 and line["clips_per_second"] > 0 for line in lines)
    encoder = load_encoder(run)
    weights = load_file(run / "last" / "model.safetensors")
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, weights[f"encoder.{name}"])
    assert "step 6/6" in capsys.readouterr().err


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Workers leave torch fewer threads, and another number of threads adds up otherwise."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_same_config_same_run_whatever_the_workers(tmp_path: Path) -> None:
    runs = [pretrain(config_of(tmp_path / str(n), workers=n)) for n in (0, 2)]
    assert_same_run(runs[1], runs[0])
    other = pretrain(config_of(tmp_path / "other", seed=1))
    assert read_metrics(other)[0]["loss"] != read_metrics(runs[0])[0]["loss"]


def test_metrics_every_few_steps(tmp_path: Path) -> None:
    every = read_metrics(pretrain(tiny_config(tmp_path / "every")))
    some = read_metrics(pretrain(tiny_config(tmp_path / "some", train={"log_every": 3})))
    assert without_times(some) == without_times([every[2], every[5]])
    odd = read_metrics(pretrain(tiny_config(tmp_path / "odd", train={"log_every": 4})))
    third, last = without_times([every[3], every[5]])
    unmeasured = {k: v for k, v in last.items() if not k.startswith(("explained/", "effective"))}
    assert without_times(odd) == [third, unmeasured], "the last is always logged"


def test_real_files_and_a_broken_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_videos(tmp_path / "videos", 3)
    (tmp_path / "videos" / "broken.mp4").write_bytes(b"not a video")
    run = pretrain(tiny_config(tmp_path / "run", data=str(tmp_path / "videos")))
    assert len(load_manifest(run / "manifest.csv").videos) == 3
    with (run / "unreadable.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["path"] == str(tmp_path / "videos" / "broken.mp4")
    assert row["reason"]
    shown = capsys.readouterr().err
    assert f"unreadable: {row['path']}: {row['reason']}" in shown
    assert "1 unreadable, 3 videos to train on" in shown
    assert read_metrics(run)[-1]["unreadable"] == 0  # found before training, not in it


def test_resume_reads_the_manifest_of_the_run(tmp_path: Path) -> None:
    videos = make_videos(tmp_path / "videos", 4)
    settings: dict[str, Any] = {"data": str(tmp_path / "videos"), "train": {"steps": 8}}
    whole = pretrain(tiny_config(tmp_path / "whole", **settings))
    part = tmp_path / "part"
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            pretrain(tiny_config(part, **settings))
    (tmp_path / "videos" / "new.mp4").write_bytes(videos[0].read_bytes())  # must not count
    pretrain(tiny_config(part, **settings, resume=True))
    assert without_times(read_metrics(part)) == without_times(read_metrics(whole))


@pytest.mark.parametrize("name", ["empty", "nowhere", "broken"])
def test_bad_data_leaves_no_directory(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.mp4").write_bytes(b"not a video")
    with pytest.raises(ManifestError, match=name):
        pretrain(tiny_config(tmp_path / "run", data=str(tmp_path / name)))
    assert not (tmp_path / "run").exists()


def break_after_the_scan(tmp_path: Path, count: int, broken: int) -> Path:
    """A manifest of `count` videos of which `broken` have been damaged since it was written."""
    paths = make_videos(tmp_path / "videos", count)
    write_manifest(load_manifest(tmp_path / "videos"), tmp_path / "videos.csv")
    for path in paths[:broken]:
        path.write_bytes(b"not a video")
    return tmp_path / "videos.csv"


def test_unreadable_while_training_is_named_once_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = str(break_after_the_scan(tmp_path, 4, 1))
    run = pretrain(tiny_config(tmp_path / "run", data=data, train={"max_unreadable": 0.25}))
    assert [line["unreadable"] for line in read_metrics(run)] == [1] * 6
    assert capsys.readouterr().err.count("clip-0.mp4") == 1
    assert "clip-0.mp4" in (run / "unreadable.csv").read_text()
    assert "clip-0.mp4" in (run / "last" / "state.json").read_text()


def test_too_many_unreadable_stop_the_run(tmp_path: Path) -> None:
    data = str(break_after_the_scan(tmp_path, 4, 1))
    with pytest.raises(
        TooManyUnreadableError, match=r"1 of 4 videos .*max_unreadable 0.2 .*clip-0"
    ):
        pretrain(tiny_config(tmp_path / "run", data=data, train={"max_unreadable": 0.2}))
    assert not (tmp_path / "run").exists()


def test_too_many_unreadable_later_keep_what_was_learnt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A video breaks during step 2; the stopped run goes on once more is allowed."""
    paths = make_videos(tmp_path / "videos", 4)
    settings: dict[str, Any] = {"data": str(tmp_path / "videos")}
    step = Trainer.step

    def damage(self: Trainer, clips: Any, number: int, rate: float) -> Any:
        if number == 2:
            paths[0].write_bytes(b"not a video")
        return step(self, clips, number, rate)

    monkeypatch.setattr(Trainer, "step", damage)
    with pytest.raises(TooManyUnreadableError, match="clip-0"):
        pretrain(tiny_config(tmp_path / "run", **settings))
    assert (tmp_path / "run" / "last").readlink() == Path("checkpoints/step-2")
    pretrain(tiny_config(tmp_path / "run", **settings, resume=True, train={"max_unreadable": 0.5}))
    assert [line["unreadable"] for line in read_metrics(tmp_path / "run")] == [0, 0, 1, 1, 1, 1]


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_readable_any_more_is_one_line(tmp_path: Path, workers: int) -> None:
    data = str(break_after_the_scan(tmp_path, 2, 2))
    with pytest.raises(VideoError) as caught:
        pretrain(tiny_config(tmp_path / "run", data=data, train={"workers": workers}))
    assert str(caught.value).startswith(str(tmp_path / "videos"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


class Poisoned:
    """A target whose numbers are NaN for some of the clips it sees (valid ones too)."""

    def __init__(self, maker: TargetMaker, clips: range) -> None:
        self.maker, self.clips, self.seen, self.dim = maker, clips, 0, maker.dim

    def __call__(self, view: ClipView) -> Target:
        target = self.maker(view)
        self.seen += 1
        if self.seen - 1 not in self.clips:
            return target
        return replace(target, values=torch.full_like(target.values, float("nan")))


def poison(monkeypatch: pytest.MonkeyPatch, steps: range) -> None:
    """Make `trajectory` NaN in one clip of these steps (counted from 1, batch 4, workers 0)."""
    build = prepare.build_targets

    def build_poisoned(config: PretrainConfig) -> dict[str, TargetMaker]:
        makers = build(config)
        clips = range(4 * (steps.start - 1), 4 * (steps.stop - 1), 4)
        return {**makers, "trajectory": Poisoned(makers["trajectory"], clips)}

    monkeypatch.setattr(prepare, "build_targets", build_poisoned)


def test_a_bad_step_is_skipped_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    poison(monkeypatch, range(3, 4))
    lines = read_metrics(pretrain(tiny_config(tmp_path / "run", train={"log_every": 2})))
    assert [line["step"] for line in lines] == [2, 3, 4, 6]  # a bad step is always logged
    assert [line["bad_steps"] for line in lines] == [0, 1, 1, 1]
    assert lines[1]["loss"] is lines[1]["grad_norm"] is lines[1]["loss/trajectory"] is None
    assert lines[1]["loss/trajectory_hog"] > 0
    assert all(line["loss"] is not None for line in lines if line["step"] != 3)
    assert "step 3: loss or gradient is not finite; the step is skipped" in capsys.readouterr().err


def test_diverged_run_stops_and_keeps_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = {"max_bad_steps": 3, "checkpoint_every": 2, "steps": 20}
    poison(monkeypatch, range(4, 21))
    with pytest.raises(
        DivergedError, match=r"3 steps in a row, up to step 6; .*step-2 is kept; try"
    ):
        pretrain(tiny_config(tmp_path / "run", train=train))
    # Step 3 may have spoilt the weights that step 4 found no finite loss with.
    assert (tmp_path / "run" / "last").readlink() == Path("checkpoints/step-2")
    weights = load_file(tmp_path / "run" / "last" / "model.safetensors")
    assert all(tensor.isfinite().all() for tensor in weights.values())
    assert [line["bad_steps"] for line in read_metrics(tmp_path / "run")] == [0, 0, 0, 1, 2, 3]


def test_bad_steps_that_are_not_in_a_row_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = {"max_bad_steps": 2, "steps": 8}
    poison(monkeypatch, range(2, 9))
    monkeypatch.setattr(Poisoned, "__call__", _every_other(Poisoned.__call__))
    lines = read_metrics(pretrain(tiny_config(tmp_path / "run", train=train)))
    assert lines[-1]["bad_steps"] == 4
    # Due after step 4, a bad one, and written after step 5.
    places = sorted(place.name for place in (tmp_path / "run" / "checkpoints").iterdir())
    assert places == ["step-5", "step-8"]


def _every_other(call: Any) -> Any:
    """Poison only the even steps."""

    def wrapped(self: Poisoned, view: ClipView) -> Target:
        if (self.seen // 4) % 2 == 0:
            self.seen += 1
            return self.maker(view)
        return call(self, view)  # type: ignore[no-any-return]

    return wrapped


def interrupt_at(
    monkeypatch: pytest.MonkeyPatch, number: int, times: int = 1, sent: int = signal.SIGINT
) -> None:
    """Press Ctrl-C, or send another signal, while a step runs."""
    step = Trainer.step

    def interrupted(self: Trainer, clips: Any, at: int, rate: float) -> Any:
        if at == number:
            for _ in range(times):
                os.kill(os.getpid(), sent)
        return step(self, clips, at, rate)

    monkeypatch.setattr(Trainer, "step", interrupted)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1"])
def test_ctrl_c_finishes_the_step_saves_and_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    number = signal.Signals[name]
    before = signal.getsignal(number)
    whole = pretrain(config_of(tmp_path / "whole"))
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupt_at(patch, 5, 1 if name == "SIGINT" else 2, number)
        with pytest.raises(KeyboardInterrupt) as caught:
            pretrain(config_of(run))
    assert isinstance(caught.value, StoppedError) == (name != "SIGINT")
    assert getattr(caught.value, "number", signal.SIGINT) == number
    assert signal.getsignal(number) is before
    assert (run / "last").readlink() == Path("checkpoints/step-5")
    assert load_encoder(run)
    expected = (
        f"interrupted: saved after step 5 of 9; go on with: m3video pretrain --resume --out {run}"
    )
    assert expected in capsys.readouterr().err
    config = load_pretrain_config(run / "config.yaml").model_copy(update={"resume": True})
    pretrain(config)
    assert_same_run(run, whole)


def test_second_ctrl_c_ends_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt_at(monkeypatch, 5, times=2)
    with pytest.raises(KeyboardInterrupt):
        pretrain(config_of(tmp_path))
    assert (tmp_path / "last").readlink() == Path("checkpoints/step-3")
    assert len(read_metrics(tmp_path)) == 4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_ctrl_c_reaches_the_workers_too_and_does_no_harm(tmp_path: Path, number: int) -> None:
    """A terminal sends SIGINT to the whole process group, a scheduler the others."""
    config = config_of(tmp_path / "run", workers=2, steps=100_000, checkpoint_every=100_000)
    save_config(config, tmp_path / "run.yaml")
    code = (
        "import sys, pathlib, m3video.config as c, m3video.train.pretrain as p\n"
        "p.pretrain(c.load_pretrain_config(pathlib.Path(sys.argv[1])))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "run.yaml")],
        cwd=ROOT,
        env=environment(),
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )
    metrics = tmp_path / "run" / "metrics.jsonl"
    while process.poll() is None and not (
        metrics.exists() and metrics.read_bytes().count(b"\n") > 2
    ):
        time.sleep(0.02)
    os.killpg(process.pid, number)
    shown = process.communicate(timeout=120)[1]
    assert "interrupted: saved after step" in shown
    assert shown.count("Traceback") == 1  # the KeyboardInterrupt that the verb raises
    steps = len(read_metrics(tmp_path / "run"))
    assert (tmp_path / "run" / "last").readlink() == Path(f"checkpoints/step-{steps}")


def test_resume_before_the_first_checkpoint_starts_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, run = pretrain(config_of(tmp_path / "whole")), tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupt_at(patch, 2, times=2)
        with pytest.raises(KeyboardInterrupt):
            pretrain(config_of(run))
    assert not (run / "last").exists()
    pretrain(config_of(run, resume=True))
    assert_same_run(run, whole)


def test_resume_of_a_complete_run_does_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = pretrain(tiny_config(tmp_path))
    before = (run / "metrics.jsonl").read_bytes()
    assert pretrain(tiny_config(tmp_path, resume=True)) == run
    assert (run / "metrics.jsonl").read_bytes() == before
    assert "all 6 steps are done" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="already holds a run"):
        pretrain(tiny_config(tmp_path))


def test_init_starts_from_weights_and_at_step_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = pretrain(tiny_config(tmp_path / "first", train={"steps": 20}))
    second = read_metrics(pretrain(tiny_config(tmp_path / "second", init=str(first))))
    assert [line["step"] for line in second] == [1, 2, 3, 4, 5, 6]
    assert second[0]["loss"] < 0.6 * read_metrics(first)[0]["loss"]
    pixel = {"pixel": {"weight": 1.0}, "trajectory": {"weight": 0}, "trajectory_hog": {"weight": 0}}
    capsys.readouterr()
    pretrain(tiny_config(tmp_path / "third", init=str(first), targets=pixel, train={"steps": 1}))
    assert "not there, so not loaded: heads.pixel" in capsys.readouterr().err


def test_too_little_memory_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def step(self: Trainer, clips: Any, number: int, rate: float) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    monkeypatch.setattr(Trainer, "step", step)
    with pytest.raises(RunFailedError, match=r"step 1 needs more memory .*train.accumulate") as e:
        pretrain(tiny_config(tmp_path / "run"))
    assert "\n" not in str(e.value)


KILLED = """
import multiprocessing, sys
from pathlib import Path
from m3video.errors import RunFailedError
from m3video.train.pretrain import pretrain
from m3video.train.step import Trainer
from tests.train.tiny import tiny_config

step = Trainer.step

def kill(self, clips, number, rate):
    if number in (4, 6):
        for worker in multiprocessing.active_children():
            worker.kill()
    return step(self, clips, number, rate)

Trainer.step = kill
settings = {"workers": 1, "steps": 50, "checkpoint_every": 2}
try:
    pretrain(tiny_config(Path(sys.argv[1]), train=settings))
except RunFailedError as error:
    print(error)
"""


def test_a_worker_that_is_killed_is_one_line_and_the_run_can_go_on(tmp_path: Path) -> None:
    """The first time its place is taken by another; in a process of its own, for its children."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "run")],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.stdout.count("\n") == 1, done.stderr
    assert "data worker ended (SIGKILL)" in done.stdout
    assert done.stderr.count("the data workers start again") == 1
    assert "fewer train.workers" in done.stdout
    checkpoint = (tmp_path / "run" / "last").readlink().name
    assert int(checkpoint.removeprefix("step-")) >= 6  # what was learned until then is saved


def test_a_resumed_run_knows_an_unreadable_video_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by a relative path, and listed by its absolute one when the run goes on."""
    make_videos(tmp_path / "videos", 3)
    monkeypatch.chdir(tmp_path)
    changes = {"steps": 6, "checkpoint_every": 3, "max_unreadable": 0.4}
    config = tiny_config(Path("run"), data="videos", train=changes)
    manifest = load_manifest("videos", decode=False)
    monkeypatch.setattr("m3video.train.pretrain.load_manifest", lambda *a, **k: manifest)
    manifest.videos[1].path.write_text("lost")
    finished = Trainer.step

    def stop(self: Trainer, clips: Any, number: int, rate: float) -> Any:
        if number == 5:
            raise KeyboardInterrupt
        return finished(self, clips, number, rate)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", stop)
        with pytest.raises(KeyboardInterrupt):
            pretrain(config)
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    pretrain(config.model_copy(update={"resume": True}))
    assert read_metrics(tmp_path / "run")[-1]["unreadable"] == 1
    assert (tmp_path / "run" / "unreadable.csv").read_text().count("videos") == 1


def test_settings_reach_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def record(*arguments: Any, **settings: Any) -> Any:
        asked.append(settings)
        raise KeyboardInterrupt

    monkeypatch.setattr("m3video.train.pretrain.MovingShapes", record)
    monkeypatch.setattr("m3video.train.pretrain.VideoClips", record)
    make_videos(tmp_path / "videos", 1)
    augment = {"scales": (1.0, 0.5), "flip": True, "repeats": 2}
    shapes = tiny_config(tmp_path / "a", shapes={"clips": 5, "texture": "photo"})
    videos = tiny_config(tmp_path / "b", data=str(tmp_path / "videos"), augment=augment)
    for config in (shapes, videos):
        with pytest.raises(KeyboardInterrupt):
            pretrain(config)
    assert (asked[0]["clips"], asked[0]["texture"]) == (5, "photo")
    assert asked[1]["augment"] == PretrainAugment(scales=(1.0, 0.5), flip=True, repeats=2)
    assert asked[1]["repeats"] == 2


def test_a_resumed_run_keeps_the_number_of_threads_it_began_with(tmp_path: Path) -> None:
    """Other threads add up in another order: the last bits of a resumed run would differ."""
    run = RunDirectory(tmp_path)
    assert run.threads() is None
    (tmp_path / "environment.json").write_text('{"torch_threads": 3}')
    assert run.threads() == 3
    outside = torch.get_num_threads()
    with cores_shared(torch.device("cpu"), 1, run.threads()):
        assert torch.get_num_threads() == 3
    assert torch.get_num_threads() == outside
    with cores_shared(torch.device("cpu"), 1000, None):
        assert torch.get_num_threads() == 1
