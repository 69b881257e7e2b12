"""A file that crashes or hangs its decoder costs that file, not the run.

- Data workers note in shared memory which file they read since when (`reading`, in `VideoReader`).
- When one crashes, or reads a file for too long, the file is refused from that batch on, and the
  loader starts again at the batch that is due; workers hold no state, so nothing else changes.
- A worker that is killed from outside condemns no file: it is replaced once, a second time ends it.
- Without workers a file that hangs is named, and no more can be done in the same process.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self, cast

from torch.utils.data import DataLoader, Dataset, get_worker_info
from torch.utils.data._utils import signal_handling

from m3video.errors import (
    ConfigError,
    M3VideoError,
    RunFailedError,
    UnreachableError,
    VideoError,
)
from m3video.patience import outage, unlimited

STALL_SECONDS = 600.0
"""How long a batch may be waited for."""
LONGEST = 4095
"""Bytes of a path, as of Linux; those of videos in shards could be longer."""
CRASHED = "the decoder crashed on it"
HUNG = "reading it had not ended"
"""What the reasons begin with for which files are refused."""
CRASHES = frozenset({"SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE", "SIGABRT", "SIGSYS", "SIGTRAP"})
"""What a process brings upon itself; other signals come from outside."""


class _Note(ctypes.Structure):
    """What a worker does: the file it reads (empty: none), since when, and for which batch."""

    _fields_ = (
        ("batch", ctypes.c_int64),
        ("since", ctypes.c_double),
        ("path", ctypes.c_char * (LONGEST + 1)),
    )


@dataclass(frozen=True)
class Loss:
    """A file that cost a worker: refused from this batch on."""

    path: str
    batch: int
    reason: str


class _WorkersEndedError(Exception):
    """No batch comes any more.

    Attributes:
        losses: the files that are to blame; none: the workers were ended from outside.
        final: whether to start them again is no use.
    """

    def __init__(self, line: str, losses: Sequence[Loss] = (), *, final: bool = False) -> None:
        super().__init__(line)
        self.losses, self.final = losses, final


_begin: ContextVar[Callable[[str], None] | None] = ContextVar("_begin", default=None)


def reading(path: Path) -> None:
    """Note that this process is about to read from a file; nothing where no loader watches.

    Raises:
        VideoError: the file has cost a worker.
    """
    begin = _begin.get()
    if begin is not None:
        begin(str(path))


@contextmanager
def waiting(path: Path) -> Iterator[None]:
    """In here a file's server is waited for: that has limits of its own, and condemns no file."""
    note = _begin.get() or str
    note("")
    with unlimited():
        yield
    note(str(path))


def lost(unreadable: Mapping[str, str]) -> dict[str, str]:
    """Those of the unreadable files (path → reason) that have cost a worker."""
    return {
        path: reason for path, reason in unreadable.items() if reason.startswith((CRASHED, HUNG))
    }


class Watched(Dataset[Any]):
    """Items by (number of their batch, key), with notes of what is read for them.

    Args:
        items: the items by key.
        notes: one for each worker, in memory that they share with the training process.
        refused: files that have cost a worker.
        stall_seconds: how long a batch may be waited for; a server may be away for half of it, so
            that this is told before.
    """

    def __init__(
        self,
        items: Dataset[Any],
        notes: Any,
        refused: Iterable[Loss],
        stall_seconds: float = STALL_SECONDS,
    ) -> None:
        self._items, self._stall_seconds = items, stall_seconds
        self._notes = notes
        self._refused = {loss.path: loss for loss in refused}

    def __getitem__(self, place: tuple[int, Any]) -> Any:
        batch, key = place
        worker = get_worker_info()
        note = self._notes[0 if worker is None else worker.id]

        def begin(path: str) -> None:
            loss = self._refused.get(path)
            if loss is not None and loss.batch <= batch:
                raise VideoError(f"{path}: {loss.reason}")
            name = os.fsencode(path)
            if len(name) > LONGEST:
                raise VideoError(f"{path}: the path is longer than {LONGEST} bytes")
            note.batch, note.since, note.path = batch, time.monotonic(), name

        before = _begin.set(begin)
        try:
            with outage(self._stall_seconds / 2):
                return self._items[key]
        finally:
            _begin.reset(before)
            note.path = b""


class _Numbered:
    """Lists of keys, each key with the number of its list."""

    def __init__(self, keys: Iterable[list[Any]], first: int) -> None:
        self._keys, self._first = keys, first

    def __iter__(self) -> Iterator[list[tuple[int, Any]]]:
        for batch, keys in enumerate(self._keys, self._first):
            yield [(batch, key) for key in keys]


class WatchedBatches(Iterable[Any]):
    """The batches of a loader that outlives its workers.

    Args:
        items: a data set.
        keys: the keys of its batches, from the one of a number on.
        load: a loader of such batches.
        batches: their numbers.
        workers: of the loader.
        stall_seconds: how long a batch may be waited for.
        refused: path → reason of files that have cost a worker before.

    Raises:
        RunFailedError: while iterating, if workers die or stall and no file is to blame.
    """

    def __init__(
        self,
        items: Dataset[Any],
        keys: Callable[[int], Iterable[list[Any]]],
        load: Callable[[Dataset[Any], Iterable[list[Any]]], DataLoader[Any]],
        *,
        batches: range,
        workers: int,
        stall_seconds: float = STALL_SECONDS,
        refused: Mapping[str, str] | None = None,
    ) -> None:
        self._items, self._keys, self._load = items, keys, load
        self._batches, self._workers, self._stall_seconds = batches, workers, stall_seconds
        self._refused = refused or {}

    def __iter__(self) -> Iterator[Any]:
        due, killed = self._batches.start, False
        refused = [Loss(path, due, reason) for path, reason in self._refused.items()]
        while True:
            notes = multiprocessing.RawArray(_Note, max(self._workers, 1))
            items = Watched(self._items, notes, refused, self._stall_seconds)
            loader = self._load(items, _Numbered(self._keys(due), due))
            with _Watchdog(notes, self._workers, self._stall_seconds) as watchdog:
                try:
                    for batch in watchdog.batches(loader):
                        due += 1
                        yield batch
                    return
                except _WorkersEndedError as error:
                    ended = error
            if due == self._batches.stop:
                return
            if ended.final:
                raise RunFailedError(str(ended))
            if killed and not ended.losses:
                raise RunFailedError(
                    f"{ended}, again: use fewer train.workers or a smaller train.batch"
                )
            killed = killed or not ended.losses
            refused += ended.losses
            _tell(f"{ended}; the data workers start again")


class _Watchdog:
    """Waits for the batches of a loader, and ends workers that keep it waiting.

    Torch raises in the training process when a worker dies, whatever that process is doing. Here it
    is raised only while a batch is waited for: an update of the weights is never cut in two.
    """

    def __init__(self, notes: Any, workers: int, stall_seconds: float) -> None:
        self._notes, self._workers, self._stall_seconds = notes, workers, stall_seconds
        self._processes: Sequence[BaseProcess] = ()
        self._since: float | None = None  # when the wait for a batch began; None: nobody waits
        self._losses: dict[int, Loss] = {}  # by worker, of those that were ended here
        self._verdict: _WorkersEndedError | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._before: Any = None

    def __enter__(self) -> Self:
        # Other threads may not handle signals; there a dead worker is found within five seconds.
        if threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGCHLD"):
            signal_handling._set_SIGCHLD_handler()  # torch sets it once, so not over ours later
            self._before = signal.signal(signal.SIGCHLD, self._child_ended)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        if self._before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, self._before)

    def batches(self, loader: DataLoader[Any]) -> Iterator[Any]:
        """The batches.

        Raises:
            _WorkersEndedError: a worker died or was ended.
            ConfigError, VideoError, UnreachableError: what a worker raised, without its traceback.
        """
        iterator = iter(loader)
        self._processes = getattr(iterator, "_workers", ())
        while True:
            try:
                self._since = time.monotonic()
                if self._dead:
                    raise EOFError  # it died while the last batch was worked on
                batch = next(iterator)
                self._since = None
            except StopIteration:
                self._since = None
                return
            except (ConfigError, VideoError, UnreachableError) as error:
                self._since = None
                raise _without_traceback(error) from error
            except (RuntimeError, ConnectionError, EOFError) as error:
                # Killed while it handed a batch over, a worker leaves a broken connection behind.
                self._since = None
                if not isinstance(error, RuntimeError) or str(error).startswith(
                    "DataLoader worker"
                ):
                    self._await_a_death()
                if not self._dead:
                    raise
                ended = self._verdict or self._judge()
                for process in self._processes:
                    process.kill()
                iterator._shutdown_workers()  # type: ignore[attr-defined]
                raise ended from error
            yield batch

    def _await_a_death(self) -> None:
        """A pipe breaks a moment before the process at its other end is known to be dead."""
        ends = {process.sentinel: process for process in self._processes}
        if ends:
            for end in wait(list(ends), timeout=5):
                ends[cast(int, end)].join(5)

    @property
    def _dead(self) -> list[int]:
        """Workers that did not end in peace."""
        return [number for number, process in enumerate(self._processes) if process.exitcode]

    def _child_ended(self, number: int, frame: FrameType | None) -> None:
        if self._since is not None and self._dead:
            self._since = None
            raise EOFError

    def _judge(self) -> _WorkersEndedError:
        """What the workers died of."""
        losses, causes = [], []
        for number in self._dead:
            code, note = -(self._processes[number].exitcode or 0), self._notes[number]
            name = signal.Signals(code).name if code > 0 else f"exit code {-code}"
            if number in self._losses:
                losses.append(self._losses[number])
            elif name in CRASHES and note.path:
                path = os.fsdecode(note.path)
                losses.append(Loss(path, note.batch, f"{CRASHED} (signal {code}, {name})"))
            else:
                causes.append(name)
        if losses:
            files = "; ".join(f"{loss.path}: {loss.reason}" for loss in losses)
            return _WorkersEndedError(f"{_rank()}a data worker ended: {files}", losses)
        if causes[0] == "SIGBUS":  # where a batch does not fit in the memory it is sent in
            why, final = "for want of shared memory (/dev/shm) most likely", True
        elif causes[0] in CRASHES:
            why, final = "while it read no file", True
        elif causes[0] == "SIGKILL":
            why, final = "for want of memory most likely", False
        else:
            why, final = "as something outside asked it to", False
        return _WorkersEndedError(f"{_rank()}a data worker ended ({causes[0]}), {why}", final=final)

    def _watch(self) -> None:
        """In a thread: act once when a batch is waited for too long."""
        acted = None
        while not self._over.wait(min(1.0, self._stall_seconds / 10)):
            since = self._since
            if since is None or since == acted:
                continue
            if time.monotonic() - since > self._stall_seconds:
                acted = since
                self._stalled()

    def _stalled(self) -> None:
        now, limit = time.monotonic(), self._stall_seconds
        reads = {
            number: Loss(os.fsdecode(note.path), note.batch, f"{HUNG} after {limit:g} s")
            for number, note in enumerate(self._notes)
            if note.path and now - note.since > limit / 2
        }
        waited = f"{_rank()}no batch for {limit:g} s"
        first = next(iter(reads.values())).path if reads else "no file"
        if not self._workers:
            _tell(f"{waited}: {first} is being read; with train.workers 1 or more it is left out")
            return
        if reads and (len(reads) < self._workers or self._workers == 1):
            self._losses = reads
        elif reads:
            self._verdict = _WorkersEndedError(
                f"{waited}: all data workers wait, the first for {first}; does the storage answer?",
                final=True,
            )
        else:
            self._verdict = _WorkersEndedError(
                f"{waited}, and no file alone is to blame (train.stall_seconds)", final=True
            )
        _tell(f"{waited}: ending data workers; {first} is being read")
        for number, process in enumerate(self._processes):
            if self._verdict or number in reads:
                process.kill()


def _without_traceback(error: M3VideoError) -> M3VideoError:
    """The error of a data worker, to whose message torch adds where it was raised."""
    kind = type(error)
    message = str(error).strip().splitlines()[-1]
    return kind(message.removeprefix(f"m3video.errors.{kind.__name__}: "))


def _rank() -> str:
    """Which of the processes of a distributed run speaks."""
    return f"rank {os.environ.get('RANK', '0')}: "


def _tell(line: str) -> None:
    """On stderr, above a progress bar if there is one."""
    print(line, file=sys.stderr, flush=True)
