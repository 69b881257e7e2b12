"""One function, many files: in this process, in processes of this machine, or on a Ray cluster.

- Results come in the order of the items, whoever made them.
- What ends a process costs its own item only: `crashed` says what its result is.
- Processes end with the one that began them, however that ends; what they were writing is removed.
- A function may be called again for an item whose process was lost, so what it writes must appear
  whole or not at all, under a name that is the item's own.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, nullcontext, suppress
from functools import partial
from multiprocessing import Pipe, Process
from multiprocessing.connection import Connection, wait
from types import FrameType
from typing import NoReturn, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from m3video.errors import ConfigError
from m3video.patience import limited

T = TypeVar("T")
R = TypeVar("R")

PROCESSES = "processes"
RAY = "ray"
_AHEAD = 64  # items a process that wait for it, so that it is never idle
_GRACE = 10.0  # seconds that a process has to remove what it was writing


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
        results = _in_processes(function, items, crashed, stalled or crashed, workers)
    else:
        results = ((number, function(item)) for number, item in enumerate(items))
    with closing(results), bar if progress else nullcontext():
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
) -> Generator[tuple[int, R]]:
    """A bounded number of items ahead: lists may hold millions."""
    workers = min(workers, len(items))
    pool = ProcessPoolExecutor(workers, initializer=_begin)
    waiting: deque[tuple[int, Future[R]]] = deque()

    def first() -> tuple[int, R]:
        number, future = waiting.popleft()
        return number, _result(function, items[number], future, crashed, stalled)

    try:
        for number, item in enumerate(items):
            if len(waiting) >= _AHEAD * workers:
                yield first()
            try:
                future = pool.submit(_ended, function, item)
            except BrokenProcessPool:  # an item before this one ended a process
                pool = ProcessPoolExecutor(workers, initializer=_begin)
                future = pool.submit(_ended, function, item)
            waiting.append((number, future))
        while waiting:
            yield first()
        # Nothing is left to do; without waiting, an exit soon after meets a pipe half closed.
        pool.shutdown()
    finally:
        _end(pool)


def _end(pool: ProcessPoolExecutor) -> None:
    """Have its processes end now, where they have not: nobody waits for what they do."""
    processes = list((pool._processes or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.terminate()
    left = {process.sentinel: process for process in processes}
    deadline = time.monotonic() + _GRACE
    while left and (ended := wait(list(left), max(deadline - time.monotonic(), 0))):
        left = {end: process for end, process in left.items() if end not in ended}
    for process in left.values():
        process.kill()


def _begin() -> None:
    """In a process that works: SIGTERM ends it, and so does the end of the one that began it.

    Ctrl-C, which a terminal sends to all, is for that one alone.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def _end_with_parent() -> None:
    parent, above = multiprocessing.parent_process(), os.getppid()
    # Processes that were forked later hold the sentinel open, too: `getppid` tells at once.
    while parent is not None and parent.is_alive() and os.getppid() == above:
        parent.join(1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE)
    os._exit(1)


def _ended(function: Callable[[T], R], item: T) -> R:
    """The function; SIGTERM, which a pool would take for a result, ends the process."""
    try:
        return function(item)
    except SystemExit:
        os._exit(128 + signal.SIGTERM)


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
    try:
        with receiver, suppress(EOFError):
            found = receiver.recv()
    except BaseException:
        process.terminate()
        process.join(_GRACE)
        process.kill()
        raise
    process.join()
    if found is None:
        return stalled(item) if process.exitcode == -signal.SIGALRM else crashed(item)
    value, error = found
    if error is not None:
        raise error
    return value


def _send(sender: Connection, function: Callable[[T], R], item: T) -> None:
    _begin()
    try:
        sender.send((function(item), None))
    except Exception as error:
        sender.send((None, error))
