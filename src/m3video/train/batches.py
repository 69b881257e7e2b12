"""What a run reads: its data, its next batch, and the cores that data workers leave it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from m3video.video.columns import Videos
from m3video.video.loader import Clips, ClipSource, Prepare
from m3video.video.manifest import Manifest
from m3video.video.walk import absolute as whole_path


@dataclass(frozen=True)
class Data:
    """What a run trains on.

    Attributes:
        source: its clips.
        prepare: what a data worker does with each.
        manifest: its videos; None where the clips are rendered, or listed elsewhere.
        files: how many files the clips are read from; None: one each.
        ahead: whether batches are copied to a GPU ahead; not where a step reads them on the host.
    """

    source: ClipSource
    prepare: Prepare
    manifest: Manifest | None
    files: int | None = None
    ahead: bool = True


def absolute(manifest: Manifest) -> Manifest:
    """Paths as they are from anywhere: a resumed run must know an unreadable video again."""
    return Manifest(
        Videos(replace(video, path=Path(whole_path(video.path))) for video in manifest.videos),
        tuple(replace(entry, path=Path(whole_path(entry.path))) for entry in manifest.unreadable),
    )


@contextmanager
def cores_shared(device: torch.device, workers: int, before: int | None) -> Iterator[None]:
    """On a CPU, leave a core to each data worker: more threads than cores wait for each other.

    A resumed run keeps the number it had `before`: sums are rounded otherwise with another one.
    """
    threads = torch.get_num_threads()
    if device.type == "cpu":
        cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
        torch.set_num_threads(before or min(threads, max(1, cores - workers)))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


SMALL = 2**22
"""Products a step, below which one thread takes less than a millisecond."""


@contextmanager
def threads_for(products: int) -> Iterator[None]:
    """One thread for thousands of small steps; for others as many as there were.

    After each operation its threads wait for each other: of a small one that is most of the time,
    and ten times the work where other processes want the cores.
    """
    threads = torch.get_num_threads()
    if products < SMALL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def next_batch(batches: Iterator[Clips]) -> Clips:
    """The next batch.

    Raises:
        ConfigError: frames that do not suit what finds the motion.
        VideoError: a clip and those that could take its place cannot be read.
        RunFailedError: workers were killed, or stall; a server does not answer.
    """
    return next(batches)
