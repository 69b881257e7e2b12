"""Open videos in parallel, and say of each what it is or why it cannot be read."""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from dataclasses import dataclass, field
from multiprocessing import Pipe, Process
from multiprocessing.connection import Connection
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from m3video.errors import VideoError
from m3video.video.patience import limited
from m3video.video.reader import VideoReader

PATIENCE = 60.0
"""Seconds without a packet after which a process that scans gives a file up."""
_AHEAD = 64  # files a process that wait for it, so that it is never idle


@dataclass(frozen=True)
class Video:
    """A readable video."""

    path: Path
    frames: int
    fps: float
    """Frames per second on average."""
    width: int
    """Pixels, as displayed."""
    height: int
    """Pixels, as displayed."""
    duration: float
    """Seconds."""
    label: str | None = None
    extra: dict[str, str] = field(default_factory=dict)
    """Other columns of the list the video came from, such as a split."""


@dataclass(frozen=True)
class Unreadable:
    """A file that cannot be read as a video."""

    path: Path
    reason: str


def scan_video(path: Path, decode: bool) -> Video | Unreadable:
    """Open one video; with `decode`, decode every frame, else all packets and the first frame."""
    try:
        with VideoReader(path) as reader:
            width, height = reader.width, reader.height
            if decode:
                reader.verify()
            return Video(path, len(reader), reader.fps, width, height, reader.duration)
    except VideoError as error:
        return Unreadable(path, str(error).removeprefix(f"{path}: "))


def unopened(path: Path) -> Video:
    """A video of which nothing is known yet but where it is: its numbers are 0."""
    return Video(path, frames=0, fps=0, width=0, height=0, duration=0)


def scan_videos(
    paths: Sequence[Path], *, workers: int, decode: bool, progress: bool
) -> list[Video | Unreadable]:
    """Scan many videos, in order.

    Args:
        paths: the files.
        workers: processes; 0 scans in this one, which a file can then crash or hold up.
        decode: as for `scan_video`.
        progress: show a bar on the error stream.
    """
    if not paths:
        return []
    bar = Progress(
        TextColumn("scanning videos"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    found: list[Video | Unreadable] = []
    results = _in_processes(paths, workers, decode) if workers else _in_turn(paths, decode)
    with bar if progress else nullcontext():
        task = bar.add_task("scan", total=len(paths))
        for result in results:
            found.append(result)
            bar.advance(task)
    return found


def _scan_limited(path: Path, decode: bool) -> Video | Unreadable:
    """As `scan_video`, in a process that may die of it."""
    with limited(PATIENCE):
        return scan_video(path, decode)


def _in_turn(paths: Sequence[Path], decode: bool) -> Iterator[Video | Unreadable]:
    return (scan_video(path, decode) for path in paths)


def _in_processes(
    paths: Sequence[Path], workers: int, decode: bool
) -> Iterator[Video | Unreadable]:
    """Scan in processes, a bounded number of files ahead: lists may hold hundreds of thousands."""
    workers = min(workers, len(paths))
    pool = ProcessPoolExecutor(workers)
    waiting: deque[tuple[Path, Future[Video | Unreadable]]] = deque()
    try:
        for path in paths:
            if len(waiting) >= _AHEAD * workers:
                yield _result(*waiting.popleft(), decode)
            try:
                future = pool.submit(_scan_limited, path, decode)
            except BrokenProcessPool:  # a file before this one ended a process
                pool = ProcessPoolExecutor(workers)
                future = pool.submit(_scan_limited, path, decode)
            waiting.append((path, future))
        while waiting:
            yield _result(*waiting.popleft(), decode)
        # Nothing is left to do; without waiting, an exit soon after meets a pipe half closed.
        pool.shutdown()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _result(path: Path, future: Future[Video | Unreadable], decode: bool) -> Video | Unreadable:
    try:
        return future.result()
    except BrokenProcessPool:
        # One file ended a process, which ends the pool: find out which, one by one.
        return _alone(path, decode)


def _alone(path: Path, decode: bool) -> Video | Unreadable:
    """Scan in a process whose end tells why it came."""
    receiver, sender = Pipe(duplex=False)
    process = Process(target=_send, args=(sender, path, decode), daemon=True)
    process.start()
    sender.close()  # or this process would wait for itself
    with receiver:
        try:
            found: Video | Unreadable = receiver.recv()
        except EOFError:
            found = Unreadable(path, "the decoder crashed on it")
    process.join()
    if process.exitcode == -signal.SIGALRM:
        return Unreadable(path, f"the decoder gave nothing for {PATIENCE:g} seconds")
    return found


def _send(sender: Connection, path: Path, decode: bool) -> None:
    sender.send(_scan_limited(path, decode))
