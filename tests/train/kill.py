"""Run pre-trainings that are killed at a chosen point; `python -m tests.train.kill JOBS.json`.

JOBS is a list of {"config": a YAML file, "kill": null or [function, n]}. Each job is a process of
its own, forked after the imports; it gets SIGKILL when `function` ("module:Class.name") is called
for the n-th time, before the call does anything. Prints the signal that ended each job, 0 for none.
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
    process = os.fork()
    if process == 0:
        if job["kill"]:
            arm(*job["kill"])
        pretrain(load_pretrain_config(Path(job["config"])))
        os._exit(0)
    status = os.waitpid(process, 0)[1]
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else -os.WEXITSTATUS(status)


if __name__ == "__main__":
    jobs = json.loads(Path(sys.argv[1]).read_text())
    print(json.dumps([run(job) for job in jobs]))
