"""Open videos in parallel, and say of each what it is or why it cannot be read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from m3video.errors import VideoError
from m3video.jobs import PROCESSES, run_jobs
from m3video.video.reader import VideoReader

PATIENCE = 60.0
"""Seconds without a packet after which a process that scans gives a file up."""


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
    paths: Sequence[Path], *, workers: int, decode: bool, progress: bool, engine: str = PROCESSES
) -> list[Video | Unreadable]:
    """Scan many videos, in order.

    Args:
        paths: the files.
        workers: processes; 0 scans in this one, which a file can then crash or hold up.
        decode: as for `scan_video`.
        progress: show a bar on the error stream.
        engine: see `jobs.check_engine`.
    """
    if not paths:
        return []
    stalled, crashed = crashed_or_stalled(engine)
    return run_jobs(
        partial(scan_video, decode=decode),
        paths,
        crashed=crashed,
        stalled=stalled,
        patience=PATIENCE,
        workers=workers,
        title="scanning videos",
        engine=engine,
        progress=progress,
    )


def crashed_or_stalled(
    engine: str,
) -> tuple[Callable[[Path], Unreadable], Callable[[Path], Unreadable]]:
    """What is said of a file that a process waited for, and of one that ended it.

    Ray does not tell why a process ended.
    """
    return _stalled, _crashed if engine == PROCESSES else _lost


def _crashed(path: Path) -> Unreadable:
    return Unreadable(path, "the decoder crashed on it")


def _lost(path: Path) -> Unreadable:
    return Unreadable(path, f"the decoder crashed on it, or gave nothing for {PATIENCE:g} seconds")


def _stalled(path: Path) -> Unreadable:
    return Unreadable(path, f"the decoder gave nothing for {PATIENCE:g} seconds")
