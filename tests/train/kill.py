"""Run pre-trainings that are killed at a chosen point; `python -m tests.train.kill JOBS.json`.

JOBS is a list of {"config": a YAML file, "kill": null or [function, n]}. Each job is a process of
its own, forked after the imports; it gets SIGKILL when `function` ("module:Class.name") is called
for the n-th time, before the call does anything; with `EVENT` as function, at the n-th call or
return of any function since the first step. Prints the signal that ended each job, 0 for none.

Beside each config, <name>.left lists the hidden files and folders that its run then has, and
<name>.counts how many `EVENT` and `FSYNC` there are in a run that is not killed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import torch._dynamo  # noqa: F401 - any optimiser imports it; once is enough

from m3video.config import load_pretrain_config
from m3video.train.pretrain import pretrain
from m3video.train.run import MetricsLog

EVENT = "event"
FSYNC = "m3video.whole:os.fsync"


def arm_event(count: int, counts: dict[str, int]) -> None:
    """Have the n-th event of the interpreter since the loop began kill this process."""
    enter = MetricsLog.__enter__

    def event(frame: Any, what: str, argument: Any) -> None:
        counts[EVENT] += 1
        if counts[EVENT] == count:
            os.kill(os.getpid(), signal.SIGKILL)

    def begin(self: MetricsLog) -> MetricsLog:
        sys.setprofile(event)
        return enter(self)

    MetricsLog.__enter__ = begin  # type: ignore[method-assign]


def count_fsyncs(counts: dict[str, int]) -> None:
    """Count them."""
    fsync = os.fsync

    def counted(handle: int) -> None:
        counts[FSYNC] += 1
        fsync(handle)

    os.fsync = counted


def arm(target: str, count: int) -> None:
    """Have the n-th call of a function kill this process."""
    module, _, name = target.partition(":")
    holder: Any = import_module(module)
    *path, last = name.split(".")
    for part in path:
        holder = getattr(holder, part)
    function, calls = getattr(holder, last), 0

    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)

    setattr(holder, last, call)


def run(job: dict[str, Any]) -> int:
    """The signal that ended a job."""
    path = Path(job["config"])
    config = load_pretrain_config(path)
    process = os.fork()
    if process == 0:
        counts = {EVENT: 0, FSYNC: 0}
        function, number = job["kill"] or (None, 0)
        if function == EVENT:
            arm_event(number, counts)
        elif function:
            arm(function, number)
        elif job.get("count"):
            arm_event(0, counts)
            count_fsyncs(counts)
        pretrain(config)
        sys.setprofile(None)
        path.with_suffix(".counts").write_text(json.dumps(counts))
        os._exit(0)
    status = os.waitpid(process, 0)[1]
    left = [str(place.relative_to(config.out)) for place in config.out.rglob(".*")]
    path.with_suffix(".left").write_text(json.dumps(left))
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else -os.WEXITSTATUS(status)


if __name__ == "__main__":
    jobs = json.loads(Path(sys.argv[1]).read_text())
    print(json.dumps([run(job) for job in jobs]))
