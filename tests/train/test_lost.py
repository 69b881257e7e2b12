"""What a process makes of an error that it meets where it needs the others, and of a restart."""

from __future__ import annotations

import errno
import os
import pickle
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from traceback import StackSummary

import pytest
import torch
from torch.distributed.checkpoint.api import CheckpointException

from m3video.cli import main
from m3video.cli.launch import LOST, launch
from m3video.errors import (
    ConfigError,
    LostProcessError,
    NotWrittenError,
    RunFailedError,
    StoppedError,
)
from m3video.train import loop
from m3video.train.interrupt import stoppable
from m3video.train.pretrain import pretrain
from m3video.train.run import RunDirectory, writing
from m3video.train.sharded import ShardedWriter
from m3video.train.step import choose_device
from m3video.train.world import launch_id, told
from m3video.video.loader import Clips
from tests.train.tiny import read_metrics, tiny_config

TIMED = "[unbound_buffer.cc:85] Timed out waiting 1800000ms for recv operation to complete"
RESET = "[pair.cc:534] Connection closed by peer [127.0.0.1]:29500"
GONE = "NCCL error: remote process exited or there was a network error"
MEMORY = "NCCL error: unhandled system error; No space left on device in /dev/shm"


@pytest.mark.parametrize("message", [RESET, GONE, TIMED])
def test_a_process_that_is_gone_is_told_from_others(
    monkeypatch: pytest.MonkeyPatch, message: str
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(LostProcessError, match="another process of the run has ended: "), told():
        raise RuntimeError(message)


def test_what_keeps_them_apart_is_said_by_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with (
        pytest.raises(RunFailedError, match=r"cannot work together: .* /dev/shm") as caught,
        told(),
    ):
        raise RuntimeError(MEMORY)
    assert not isinstance(caught.value, LostProcessError)
    assert caught.value.said is False


def test_errors_of_something_else_stay_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="mat1 and mat2"), told():
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    with pytest.raises(RuntimeError, match="Connection"), told():  # this process is alone
        raise RuntimeError(RESET)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match="mat1 and mat2"), told():
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


@pytest.mark.parametrize(("rank", "told_by"), [("0", True), ("1", False)])
def test_the_first_process_tells_of_a_loss(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], rank: str, told_by: bool
) -> None:
    def lose(arguments: list[str]) -> int:
        with told():
            raise RuntimeError(RESET)

    codes: list[int] = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setitem(main.__globals__["VERBS"], "pretrain", lose)
    monkeypatch.setitem(main.__globals__, "ended", lambda code: codes.append(code) or code)
    assert main(["pretrain"]) == LOST
    assert codes == [LOST]
    assert ("Connection closed by peer" in capsys.readouterr().err) is told_by


def test_after_a_loss_nothing_is_summed_or_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure of the data is saved after; this is none, and saving needs the others."""
    batches, asked = loop.next_batch, 0

    def lose(given: Iterator[Clips]) -> Clips:
        nonlocal asked
        asked += 1
        if asked == 4:
            raise LostProcessError("gone")
        return batches(given)

    monkeypatch.setattr(loop, "next_batch", lose)
    with pytest.raises(LostProcessError, match="gone"):
        pretrain(tiny_config(tmp_path / "run", train={"checkpoint_every": 100}))
    assert len(read_metrics(tmp_path / "run")) == 2
    assert not (tmp_path / "run" / "last").exists()


def test_devices_are_not_one_device() -> None:
    with pytest.raises(ConfigError, match="--devices 2 with device 'cuda:0': use cuda"):
        launch(2, ["pretrain"], "cuda:0")


def test_the_device_that_is_chosen_is_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch, "zeros", lambda *shape, device: None)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    choose_device("cpu")
    assert chosen == [torch.device("cuda", 1)]


def test_only_the_torchrun_that_began_a_run_goes_on_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDirectory(tmp_path / "run")
    config = tiny_config(tmp_path / "run")
    assert launch_id() is None
    for name in ("none", "job 7"):
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", name)
        run.create(config, None, "cpu")
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
        assert run.opened(config).resume
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job 8")
    with pytest.raises(ConfigError, match="already holds a run"):
        run.opened(config)


def test_a_torchrun_without_a_name_is_known_by_its_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    name = launch_id()
    assert name is not None
    assert name.startswith(f"{socket.gethostname()} {os.getppid()}")
    assert launch_id() == name
    monkeypatch.setattr(os, "getppid", os.getpid)
    assert launch_id() != name


def test_exit_codes_of_what_cannot_be_written_are_alike_everywhere() -> None:
    for number, code in ((errno.EACCES, 2), (errno.ENOSPC, 1)):
        with pytest.raises(NotWrittenError) as caught, writing(Path("run")):
            raise OSError(number, os.strerror(number))
        sent = pickle.loads(pickle.dumps(caught.value))
        assert [main.__globals__["_code"](error) for error in (caught.value, sent)] == [code] * 2


@pytest.mark.parametrize(
    ("cause", "kind"),
    [
        (OSError(errno.ENOSPC, "No space left", "/data/peers/a.safetensors"), NotWrittenError),
        (RuntimeError(RESET), LostProcessError),
    ],
)
def test_a_full_disk_is_no_lost_process_whatever_its_path(
    cause: Exception, kind: type[Exception]
) -> None:
    writer, writing = ShardedWriter.__new__(ShardedWriter), Future[None]()
    writer._writing, writer._folder = writing, Path("run")
    writing.set_exception(CheckpointException("write", {0: (cause, StackSummary())}))
    with pytest.raises(kind):
        writer.done(wait=True)


def test_a_second_sigterm_waits_for_what_the_first_removes() -> None:
    removed: list[str] = []

    def work() -> None:
        with stoppable():
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(5)
            finally:
                os.kill(os.getpid(), signal.SIGTERM)
                removed.append("what is half written")

    with pytest.raises(StoppedError):
        work()
    assert removed
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_defect_in_one_of_several_is_shown_and_ends_it_without_waiting_for_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(arguments: list[str]) -> int:
        raise KeyError("a defect")

    codes: list[int] = []
    monkeypatch.setitem(main.__globals__["VERBS"], "pretrain", fail)
    monkeypatch.setitem(main.__globals__, "ended", lambda code: codes.append(code) or code)
    with pytest.raises(KeyError):  # alone, Python shows it
        main(["pretrain"])
    assert codes == []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert main(["pretrain"]) == 1
    assert codes == [1]
    assert "KeyError: 'a defect'" in capsys.readouterr().err
