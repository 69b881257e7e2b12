"""Videos per second of `embed` against decoding alone, on one core.

- Both sides read the same frames of the same files with the same reader: two clips a video.
- Decoding: frames to RGB, nothing kept.
- Embed: crop, resize, batch, encoder and mean, as `embed` does in one process; a nano and a small
  encoder with fresh weights (weights do not change the time), 16 frames of 224×224.
- The sides take turns batch by batch; rates are from the sums of one run.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import torch
from rich.console import Console
from rich.table import Table

from m3video.benchmark import loader
from m3video.config import ClipConfig, EmbedConfig
from m3video.errors import ConfigError, VideoError
from m3video.find.clips import WindowBatches
from m3video.find.held import encode
from m3video.find.windows import Windows
from m3video.model.vit import build_encoder
from m3video.video.manifest import load_manifest
from m3video.video.reader import VideoReader
from m3video.video.sampling import sample_generator

_CLIP = ClipConfig(frames=16, stride=4, size=(224, 224))
SIZES = ("nano", "s")
_BATCH = 2  # videos


def benchmark_embed(videos: Path | None = None, *, count: int = 8) -> dict[str, Any]:
    """Time decoding, and embedding with each encoder, in turn.

    Args:
        videos: a folder or list of videos; None makes clips on the spot.
        count: videos that each side reads, after a batch for warming up; they are repeated where
            there are fewer.

    Returns:
        decoding: videos per second; embed: the same for each encoder; share: of decoding; videos;
        made: whether videos were made.

    Raises:
        ManifestError: no readable videos.
        VideoError: one of them cannot be read.
        ConfigError: count is not positive.
    """
    if count < 1:
        raise ConfigError(f"count {count} must be at least 1")
    threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            if videos is None:
                loader.make_clips(Path(folder), count=4)
            found = load_manifest(videos or folder, decode=False).videos
            repeated = [found[place % len(found)] for place in range(count + _BATCH)]
            settings = {"videos": "", "model": ".", "out": "f.npz", "batch": 2 * _BATCH}
            windows = Windows(repeated, _CLIP, EmbedConfig.model_validate(settings))
            seconds = _time(windows)
    finally:
        torch.set_num_threads(threads[0])
        cv2.setNumThreads(threads[1])
    decoding = seconds.pop("decoding")
    return {
        "decoding": count / decoding,
        "embed": {size: count / spent for size, spent in seconds.items()},
        "share": {size: decoding / spent for size, spent in seconds.items()},
        "videos": count,
        "made": videos is None,
    }


def _time(windows: Windows) -> dict[str, float]:
    """Seconds of each side for all units but those of the first batch."""
    encoders = {size: build_encoder(_CLIP, size).eval() for size in SIZES}
    source = WindowBatches(windows, first=0, batch=_BATCH)
    seconds = dict.fromkeys(["decoding", *SIZES], 0.0)
    for number in range(len(source)):
        begin = time.perf_counter()
        for unit in range(number * _BATCH, min((number + 1) * _BATCH, len(windows))):
            _decode(windows, unit)
        spent = {"decoding": time.perf_counter() - begin}
        for size, encoder in encoders.items():
            source.close()  # opening the file is a part of it
            begin = time.perf_counter()
            clips = source.clip(number, 0, sample_generator(0, 0, 0))
            encode(encoder, clips.frames, tokens=False, device=torch.device("cpu"))
            spent[size] = time.perf_counter() - begin
            if clips.unreadable:
                raise VideoError(": ".join(clips.unreadable[0]))
        if number:
            seconds = {side: seconds[side] + spent[side] for side in seconds}
    return seconds


def _decode(windows: Windows, unit: int) -> None:
    """Read a unit's frames and keep none."""
    video = windows.videos[windows.video_of(unit)]
    rows = [row for window in windows.of(unit) for row in window.rows]
    with VideoReader(video.path, frames=video.frames) as reader:
        for _ in reader.images(rows):
            pass


def print_table(result: dict[str, Any]) -> None:
    """Show what `benchmark_embed` found."""
    videos = "made 340×256 H.264 videos" if result["made"] else "your videos"
    table = Table(title=f"2 clips of 16 frames a video, one core, {result['videos']} of {videos}")
    for column in ("", "videos / s", "share of decoding"):
        table.add_column(column, justify="right" if column else "left")
    table.add_row("decode the same frames", f"{result['decoding']:.2f}", "1")
    for size, rate in result["embed"].items():
        share = f"{result['share'][size]:.3f}"
        table.add_row(f"embed, {size} encoder, 224×224", f"{rate:.2f}", share)
    Console().print(table)
