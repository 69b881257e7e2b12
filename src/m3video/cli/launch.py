"""`--devices N`: the same command in N processes of this machine, by torch's elastic launcher."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from m3video.errors import ConfigError

LOST = 75
"""Exit code of a process that ends because another has: EX_TEMPFAIL, worth another try."""
_LATER = 2.0
"""Seconds that such a process waits: the launcher shall see first what ended the other."""
GRACE = 600
"""Seconds for the step at hand and for saving, when a run is to end."""
RESTARTS = 3
"""How often a run goes on from its last checkpoint after a process was killed."""


def launch(
    devices: int, arguments: Sequence[str], device: str, out: Path | None = None
) -> int | None:
    """Run a command in `devices` processes, if it is to be several and is not one of them yet.

    A process that is ended by a signal, as when it is out of memory, ends the others; the run then
    goes on from its last checkpoint. One that fails by itself ends the run.

    Args:
        devices: how many processes.
        arguments: of `m3video`.
        device: that the command asks for.
        out: the run directory, where the command is one that can be resumed.

    Returns:
        The exit code; None where this process is to do the work.

    Raises:
        ConfigError: not as many GPUs, or one for all.
    """
    if devices == 1 or several():
        return None
    import torch

    if device.startswith("cuda:"):
        raise ConfigError(
            f"--devices {devices} with device {device!r}: use cuda, of which each process takes one"
        )
    count = torch.cuda.device_count() if device in {"auto", "cuda"} else 0
    if 0 < count < devices:
        raise ConfigError(f"--devices {devices}: this machine has {count} GPUs; use {count}")
    if not count:  # the cores are shared out: processes with a thread each do not hinder each other
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // devices)))
    for attempt in range(RESTARTS + 1):
        command = list(arguments)
        if attempt and out is not None and (out / "config.yaml").exists():
            command += [] if "--resume" in command else ["--resume"]
        code = _run(devices, command)
        if code >= 0 and code != LOST:
            return code
        again = out is not None and attempt < RESTARTS
        what = "a process has ended" if code == LOST else f"a process was ended by {_name(-code)}"
        print(
            f"m3video {arguments[0]}: {what}"
            + ("; going on from the last checkpoint" if again else ""),
            file=sys.stderr,
        )
        if not again:
            break
    return 1


def left(code: int) -> int:
    """End the connections of a command whose work is done."""
    if several():
        from m3video.train.world import leave

        leave()
    return code


def ended(code: int) -> int:
    """After a failure, of which other processes may not know: go, and let their connections break.

    Python would wait for them on its way out.
    """
    if several():
        if code == LOST:
            time.sleep(_LATER)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def several() -> bool:
    """Whether this process is one of several of a run."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def main_process() -> bool:
    """Whether this process is the one of a run that talks."""
    return int(os.environ.get("RANK", "0")) == 0


def _run(devices: int, arguments: Sequence[str]) -> int:
    """The exit code of the process that failed first, negative for a signal; 0: all ended well."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=devices,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=0,
        signals_to_handle="SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1",
        shutdown_timeout=GRACE,
    )
    try:
        with _quiet():
            elastic_launch(config, sys.executable)("-m", "m3video", *arguments)
    except ChildFailedError as error:
        return error.get_first_failure()[1].exitcode
    except SignalException as error:
        return 130 if error.sigval == signal.SIGINT else 128 + int(error.sigval)
    return 0


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What the launcher logs of a failure is told in a line here."""
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
