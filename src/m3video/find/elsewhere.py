"""Embedding on a cluster: ranges of units, each a job that leaves a part.

- Ranges begin and end where batches do, so a part holds the rows that one process would compute.
- A part that is there is not made again; the chain of parts is joined as ever.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import torch

from m3video.config import EmbedConfig
from m3video.errors import RunFailedError
from m3video.find.clips import WindowBatches
from m3video.find.held import Held, no_rows, part_of
from m3video.find.parts import Parts
from m3video.find.windows import Windows
from m3video.jobs import run_jobs
from m3video.model.checkpoint import load_encoder
from m3video.model.vit import VisionTransformer
from m3video.train.step import choose_device
from m3video.video.manifest import Video
from m3video.video.walk import absolute

RANGE_BATCHES = 4
"""Batches of a part that another process makes."""


@dataclass(frozen=True)
class _Range:
    """The units first … last − 1 as a job of their own, which leaves a part."""

    first: int
    last: int
    videos: Sequence[Video]
    """Those that the units are of."""
    before: int
    """Units of the videos before these."""
    config: EmbedConfig
    folder: Path


def compute_elsewhere(
    windows: Windows, parts: Parts, config: EmbedConfig, device: torch.device
) -> None:
    """As `_compute`, by processes that each have the encoder.

    Raises:
        RunFailedError: a process was lost over the same videos again and again.
    """
    step = RANGE_BATCHES * (config.batch // windows.each)
    edges = {parts.done(), *range(0, len(windows), step), len(windows)}
    ends = sorted(edge for edge in edges if edge >= parts.done())
    ranges = []
    for first, last in pairwise(ends):
        if not parts.has(first, last):
            start, stop = windows.video_of(first), windows.video_of(last - 1) + 1
            videos, before = windows.videos[start:stop], windows.first_of(start)
            folder = Path(absolute(parts.folder))
            ranges.append(_Range(first, last, videos, before, config, folder))
    failed = run_jobs(
        _embed_range,
        ranges,
        crashed=lambda units: units,
        workers=config.workers,
        title="embed",
        engine=config.engine,
        gpus=1 if device.type == "cuda" else 0,
    )
    lost = next((units for units in failed if units is not None), None)
    if lost is not None:
        raise RunFailedError(
            f"the process that read {lost.videos[0].path} … {lost.videos[-1].path} ended each "
            "time; what is done is kept: leave out the video at fault, or give it more memory"
        )


def _embed_range(units: _Range) -> _Range | None:
    """Write the part of a range; None, as it is done."""
    config = units.config
    device = choose_device(config.device)
    encoder = _encoder(config.model, device)
    windows = Windows(units.videos, encoder.clip, config)
    size = config.batch // windows.each
    source = WindowBatches(windows, first=units.first - units.before, batch=size)
    held = Held()
    for number in range(math.ceil((units.last - units.first) / size)):
        held.add(source.clip(number, 0, torch.Generator()), encoder, windows, config, device)
    source.close()
    table = part_of(windows, held, no_rows(encoder, config))
    Parts(units.folder, {}).write(units.first, units.last, table, held.unreadable)
    return None


@lru_cache(maxsize=1)
def _encoder(model: Path, device: torch.device) -> VisionTransformer:
    """The encoder, loaded once a process."""
    return load_encoder(model).to(device)
