"""One function, many files: in this process, in processes of this machine, or on a Ray cluster.

- Results come in the order of the items, whoever made them.
- What ends a process costs its own item only: `crashed` says what its result is.
- A function may be called again for an item whose process was lost, so what it writes must appear
  whole or not at all, under a name that is the item's own.
"""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext, suppress
from functools import partial
from multiprocessing import Pipe, Process
from multiprocessing.connection import Connection
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from m3video.errors import ConfigError
from m3video.patience import limited

T = TypeVar("T")
R = TypeVar("R")

PROCESSES = "processes"
RAY = "ray"
_AHEAD = 64  # items a process that wait for it, so that it is never idle


def check_engine(engine: str) -> str:
    """The engine, if it is one: `processes`, `ray`, `ray:ADDRESS` or `ray://HOST:PORT`.

    Raises:
        ConfigError: it is not.
    """
    kind, _, address = engine.partition(":")
    if engine in (PROCESSES, RAY) or (kind == RAY and address.strip("/")):
        return engine
    raise ConfigError(
        f"engine {engine!r}: use processes, ray (on this machine), ray:auto (the cluster that this "
        "machine belongs to) or ray:HOST:PORT"
    )


def run_jobs(
    function: Callable[[T], R],
    items: Sequence[T],
    *,
    crashed: Callable[[T], R],
    workers: int,
    title: str,
    engine: str = PROCESSES,
    progress: bool = True,
    gpus: int = 0,
    patience: float = 0,
    stalled: Callable[[T], R] | None = None,
) -> list[R]:
    """Call a function for each item.

    Args:
        function: can be pickled, as can the items and what it returns.
        items: what it is called with.
        crashed: the result of an item that ended the process that worked on it.
        workers: processes of this machine; 0 works in this one. A cluster uses all its cores.
        title: what is being done, for the bar.
        engine: see `check_engine`.
        progress: show a bar on the error stream.
        gpus: that each call needs; for Ray, which hands them out.
        patience: seconds without a packet of a video after which a process that reads it is ended
            (`patience.py`); 0 for none. Not where `workers` is 0.
        stalled: the result of an item that this happened to; `crashed` where it is not known why.

    Raises:
        ConfigError: not an engine, or no Ray, or no cluster at its address.
    """
    if not items:
        return []
    bar = Progress(
        TextColumn(title),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    found: dict[int, R] = {}
    if patience and (workers or engine != PROCESSES):
        function = partial(_patient, function, patience)
    if check_engine(engine) != PROCESSES:
        from m3video.ray_jobs import in_ray

        results = in_ray(function, items, crashed, engine=engine, workers=workers, gpus=gpus)
    elif workers:
        results = enumerate(_in_processes(function, items, crashed, stalled or crashed, workers))
    else:
        results = enumerate(map(function, items))
    with bar if progress else nullcontext():
        task = bar.add_task(title, total=len(items))
        for number, result in results:
            found[number] = result
            bar.advance(task)
    return [found[number] for number in range(len(items))]


def _patient(function: Callable[[T], R], patience: float, item: T) -> R:
    with limited(patience):
        return function(item)


def _in_processes(
    function: Callable[[T], R],
    items: Sequence[T],
    crashed: Callable[[T], R],
    stalled: Callable[[T], R],
    workers: int,
) -> Iterator[R]:
    """A bounded number of items ahead: lists may hold millions."""
    workers = min(workers, len(items))
    pool = ProcessPoolExecutor(workers)
    waiting: deque[tuple[T, Future[R]]] = deque()
    try:
        for item in items:
            if len(waiting) >= _AHEAD * workers:
                yield _result(function, *waiting.popleft(), crashed, stalled)
            try:
                future = pool.submit(function, item)
            except BrokenProcessPool:  # an item before this one ended a process
                pool = ProcessPoolExecutor(workers)
                future = pool.submit(function, item)
            waiting.append((item, future))
        while waiting:
            yield _result(function, *waiting.popleft(), crashed, stalled)
        # Nothing is left to do; without waiting, an exit soon after meets a pipe half closed.
        pool.shutdown()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _result(
    function: Callable[[T], R],
    item: T,
    future: Future[R],
    crashed: Callable[[T], R],
    stalled: Callable[[T], R],
) -> R:
    try:
        return future.result()
    except BrokenProcessPool:
        # One item ended a process, which ends the pool: find out which, one by one.
        return _alone(function, item, crashed, stalled)


def _alone(
    function: Callable[[T], R], item: T, crashed: Callable[[T], R], stalled: Callable[[T], R]
) -> R:
    """Work in a process whose end tells why it came."""
    receiver, sender = Pipe(duplex=False)
    process = Process(target=_send, args=(sender, function, item), daemon=True)
    process.start()
    sender.close()  # or this process would wait for itself
    found: tuple[R, Exception | None] | None = None
    with receiver, suppress(EOFError):
        found = receiver.recv()
    process.join()
    if found is None:
        return stalled(item) if process.exitcode == -signal.SIGALRM else crashed(item)
    value, error = found
    if error is not None:
        raise error
    return value


def _send(sender: Connection, function: Callable[[T], R], item: T) -> None:
    try:
        sender.send((function(item), None))
    except Exception as error:
        sender.send((None, error))
