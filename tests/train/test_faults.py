"""Full disks, places that cannot be written to, clocks that jump, files that crash the decoder."""

from __future__ import annotations

import csv
import errno
import itertools
import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tensorboard.summary.writer.record_writer import RecordWriter

from m3video.cli import main
from m3video.config import PretrainConfig, save_config
from m3video.errors import VideoError
from m3video.model import checkpoint
from m3video.train import run
from m3video.train.checkpoint import Checkpoints
from m3video.train.pretrain import pretrain
from m3video.train.run import MetricsLog
from m3video.video.manifest import load_manifest
from m3video.video.reader import VideoReader
from m3video.video.watch import reading
from tests.train.test_pretrain import interrupt_at, make_videos, one_thread
from tests.train.test_resume import assert_same_run, config_of
from tests.train.tiny import read_metrics, tiny_config, without_times

__all__ = ["one_thread"]  # a fixture

GO_ON = "when that is mended, go on with: m3video pretrain --resume --out"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing happens to."""
    return pretrain(config_of(tmp_path_factory.mktemp("whole") / "run"))


def main_of(config: PretrainConfig, folder: Path) -> int:
    """The verb, by the command line; its exit code."""
    save_config(config, folder / "asked.yaml")
    return main(["pretrain", "--config", str(folder / "asked.yaml")])


def assert_one_line(shown: str, *parts: str) -> None:
    """The error is the last line, and there is no traceback."""
    assert "Traceback" not in shown
    last = shown.splitlines()[-1]
    assert last.startswith("m3video pretrain: ")
    for part in (*parts, GO_ON):
        assert part in last, last


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """18 MB: one checkpoint and the encoder, and not another checkpoint."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=18m", "tmpfs", str(place)]
    if not shutil.which("mount") or subprocess.run(mount, check=False).returncode:
        pytest.skip("no right to mount a file system")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_full_disk(
    small_disk: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = small_disk / "run"
    assert main_of(config_of(out), tmp_path) == 1
    assert_one_line(
        capsys.readouterr().err,
        str(out / "checkpoints"),
        "No space left on device",
        f"stopped after step 6, {out / 'checkpoints' / 'step-3'} is kept",
    )
    assert [place.name for place in (out / "checkpoints").iterdir()] == ["step-3"]
    subprocess.run(["mount", "-o", "remount,size=80m", str(small_disk)], check=True)
    pretrain(config_of(out, resume=True))
    assert_same_run(out, whole)


def test_a_file_that_may_not_grow(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a full disk, by a limit that needs no rights: the optimiser's file is the largest."""
    largest = (whole / "last" / "optimizer.safetensors").stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    out = tmp_path / "run"
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest - 1, before[1]))
    try:
        assert main_of(config_of(out), tmp_path) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert_one_line(
        capsys.readouterr().err,
        "optimizer.safetensors: cannot be written: ",
        "File too large",
        "stopped after step 3, there is no checkpoint yet",
    )
    assert not list((out / "checkpoints").iterdir())
    pretrain(config_of(out, resume=True))
    assert_same_run(out, whole)


Fault = Callable[[pytest.MonkeyPatch], None]


def full_metrics(patch: pytest.MonkeyPatch) -> None:
    """The kernel itself says that there is no space."""
    begin = MetricsLog.__init__

    def __init__(self: MetricsLog, *arguments: Any) -> None:  # noqa: N807
        begin(self, *arguments)
        self._file.close()
        self._file = Path("/dev/full").open("a")  # noqa: SIM115

    patch.setattr(MetricsLog, "__init__", __init__)


def full_tensorboard(patch: pytest.MonkeyPatch) -> None:
    """In TensorBoard's own thread."""
    calls = itertools.count()
    write = RecordWriter.write

    def fail(self: RecordWriter, data: bytes) -> None:
        if next(calls) > 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(self, data)

    patch.setattr(RecordWriter, "write", fail)


def read_only(patch: pytest.MonkeyPatch) -> None:
    """Renaming fails from the second checkpoint on, as on a file system that became read-only."""
    replace = Path.replace

    def fail(self: Path, target: Path) -> Path:
        if Path(target).name == "step-6":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(target))
        return replace(self, target)

    patch.setattr(Path, "replace", fail)


def no_model(patch: pytest.MonkeyPatch) -> None:
    """The encoder's folder may not be written to."""
    write = checkpoint.write_tensors

    def fail(path: Path, tensors: Any) -> None:
        if path.parent.name == "model":  # the second time, when the folder is there
            raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        write(path, tensors)

    patch.setattr(checkpoint, "write_tensors", fail)


def no_appearance(patch: pytest.MonkeyPatch) -> None:
    """A checkpoint in parts is written, and its last file cannot be."""
    calls = itertools.count()
    appear = Checkpoints.appear

    def fail(self: Checkpoints, *, wait: bool = False) -> None:
        if next(calls) == 7:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "parts/state.json")
        appear(self, wait=wait)

    patch.setattr(Checkpoints, "appear", fail)


@pytest.mark.parametrize(
    ("fault", "named", "cause"),
    [
        (full_metrics, "metrics.jsonl", "No space left"),
        (full_tensorboard, "tensorboard", "No space left"),
        (read_only, "checkpoints/step-6", "Read-only file system"),
        (no_appearance, "state.json", "No space left"),
        (no_model, "model/model.safetensors", "Permission denied"),
    ],
)
def test_what_cannot_be_written_ends_the_run_in_one_line(
    fault: Fault,
    named: str,
    cause: str,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        fault(patch)
        assert main_of(config_of(out), tmp_path) == 1
    assert_one_line(capsys.readouterr().err, f"{named}: cannot be written: {cause}")
    pretrain(config_of(out, resume=True))
    assert_same_run(out, whole)


def test_the_list_of_unreadable_videos_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_videos(tmp_path / "videos", 4)
    write = run.write_whole

    def fail(path: Path, data: bytes) -> None:
        if path.name == "unreadable.csv" and b"clip-2" in data:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write(path, data)

    scanned = load_manifest(tmp_path / "videos", decode=False)
    monkeypatch.setattr("m3video.train.pretrain.load_manifest", lambda *a, **k: scanned)
    monkeypatch.setattr(run, "write_whole", fail)
    monkeypatch.setattr(VideoReader, "_decode", crash_at("clip-2.mp4", kill=False))
    config = tiny_config(
        tmp_path / "run", data=str(tmp_path / "videos"), train={"max_unreadable": 0.5}
    )
    assert main_of(config, tmp_path) == 1
    assert_one_line(capsys.readouterr().err, "unreadable.csv: cannot be written: No space left")


def crash_at(name: str, *, kill: bool) -> Any:
    """A decoder that one file kills, or that finds it broken."""
    decode = VideoReader._decode

    def crash(self: VideoReader, wanted: Any) -> Any:
        reading(self.path)
        if self.path.name == name:
            if not kill:
                raise VideoError(f"{self.path}: broken")
            os.kill(os.getpid(), signal.SIGSEGV)
        return decode(self, wanted)

    return crash


@pytest.mark.usefixtures("one_thread")
def test_a_file_that_crashes_the_decoder_costs_that_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scan opens it and reads its packets; the data workers decode it."""
    make_videos(tmp_path / "videos", 6)
    settings: dict[str, Any] = {
        "data": str(tmp_path / "videos"),
        "train": {"workers": 1, "steps": 6, "checkpoint_every": 9, "max_unreadable": 0.5},
    }
    scanned = load_manifest(tmp_path / "videos", decode=False)
    monkeypatch.setattr("m3video.train.pretrain.load_manifest", lambda *a, **k: scanned)
    monkeypatch.setattr(VideoReader, "_decode", crash_at("clip-2.mp4", kill=True))
    reference = pretrain(tiny_config(tmp_path / "reference", **settings))
    lines = read_metrics(reference)
    assert lines[-1]["unreadable"] == 1
    with (reference / "unreadable.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["path"].endswith("clip-2.mp4")
    assert row["reason"] == "the decoder crashed on it (signal 11, SIGSEGV)"
    part = tmp_path / "part"
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            pretrain(tiny_config(part, **settings))
    pretrain(tiny_config(part, resume=True, **settings))
    assert without_times(read_metrics(part)) == without_times(lines)
    name = "last/model.safetensors"
    assert (part / name).read_bytes() == (reference / name).read_bytes()


@pytest.mark.parametrize("jump", [-3600.0, 3600.0])
def test_clocks_that_jump_change_no_number(
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    jump: float,
) -> None:
    """Each clock by an hour each time it is looked at, back or forth."""
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        for name in ("time", "perf_counter", "monotonic"):
            looks, clock = itertools.count(1), getattr(time, name)
            patch.setattr(time, name, lambda looks=looks, clock=clock: clock() + jump * next(looks))
        pretrain(config_of(out))
    assert_same_run(out, whole)
    for line in read_metrics(out):
        assert line["time"] >= 0
        assert line["clips_per_second"] >= 0
        assert 0 <= line["data_wait"] <= 1
    shown = capsys.readouterr().err
    assert "step 9/9" in shown
    assert " -" not in shown
