"""Clips per second of the loader against plain decoding, on one core.

- Both sides open the same files, decode with one thread and read the same 64 consecutive frames (16
  frames at stride 4 whose trajectories have 7 steps need every frame of their span).
- Plain: the usual loop with PyAV: seek to the keyframe, decode on, turn each frame of the span into
  an RGB array. It is given the times of the frames, so it need not find them.
- Ours: the whole loader in this process: count the frames exactly, draw the span, seek, decode and
  check the order, convert, draw the crop, resize to 224×224, collate into a batch. On the way to
  the span it leaves out frames that no other frame refers to.
- Without videos of your own, 340×256 H.264 clips of 300 frames are made, a usual size of Kinetics.
- The sides take turns clip by clip; the ratio is of the medians.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import skimage.data
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from m3video.config import AugmentConfig, ClipConfig
from m3video.errors import ConfigError, VideoError
from m3video.video.loader import VideoClips, make_loader
from m3video.video.manifest import Manifest, Video, load_manifest
from m3video.video.sampling import ClipPlan, plan_clip, random_start, sample_generator

_CLIP = ClipConfig(frames=16, stride=4, size=(224, 224))
_LENGTH = 7
_SEED = 0


def benchmark_loader(videos: Path | None = None, *, clips: int = 40) -> dict[str, Any]:
    """Time the loader and plain decoding, clip by clip in turn.

    Args:
        videos: a folder or list of videos, as for `load_manifest`, which must store when each frame
            is shown (raw streams do not); None makes clips on the spot.
        clips: clips that each side loads, after one for warming up.

    Returns:
        share_of_decoding: clips per second of the loader over those of plain decoding;
        loader, plain: clips per second; span, rows: frames; clips; made: whether clips were made.

    Raises:
        ManifestError: no readable videos.
        VideoError: one of them cannot be read, or does not store the times of its frames.
        ConfigError: no clips.
    """
    if clips < 1:
        raise ConfigError(f"clips {clips} must be at least 1")
    threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            if videos is None:
                make_clips(Path(folder), count=4)
            manifest = load_manifest(videos or folder, decode=False)
            plan = plan_clip(_CLIP, _LENGTH)
            ours, plain = _time_both(manifest, plan, clips)
    finally:
        torch.set_num_threads(threads[0])
        cv2.setNumThreads(threads[1])
    return {
        "share_of_decoding": statistics.median(plain) / statistics.median(ours),
        "loader": 1 / statistics.median(ours),
        "plain": 1 / statistics.median(plain),
        "span": plan.span,
        "rows": len(plan.offsets),
        "clips": clips,
        "made": videos is None,
    }


def _time_both(manifest: Manifest, plan: ClipPlan, clips: int) -> tuple[list[float], list[float]]:
    """Seconds per clip of the loader and of plain decoding."""
    source = VideoClips(manifest, clip=_CLIP, plan=plan, augment=AugmentConfig())
    times = [_frame_times(video) for video in manifest.videos]
    loader = make_loader(source, batch=1, seed=_SEED, first_step=0, last_step=clips + 1, workers=0)
    batches = iter(loader)
    ours, plain = [], []
    for step in range(clips + 1):
        begin = time.perf_counter()
        batch = next(batches)
        middle = time.perf_counter()
        if batch.unreadable:  # what was read in its place is not what plain decoding would read
            raise VideoError(": ".join(batch.unreadable[0]))
        index = int(batch.index)
        generator = sample_generator(_SEED, step // len(source), index)
        start = random_start(len(times[index]), plan.span, generator)
        span = times[index][start : start + plan.span]
        path = manifest.videos[index].path
        plain_begin = time.perf_counter()
        _plain(path, span)
        plain.append(time.perf_counter() - plain_begin)
        ours.append(middle - begin)
    return ours[1:], plain[1:]


def _plain(path: Path, times: list[int]) -> list[NDArray[np.uint8]]:
    """What is measured against: the frames shown from times[0] to times[-1], as RGB."""
    frames: list[NDArray[np.uint8]] = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        container.seek(times[0], stream=stream)
        for frame in container.decode(stream):
            if frame.pts is None or frame.pts < times[0]:
                continue
            frames.append(frame.to_ndarray(format="rgb24", threads=1))  # type: ignore[arg-type]
            if frame.pts >= times[-1]:
                break
    return frames


def _frame_times(video: Video) -> list[int]:
    """When each frame is shown, in the stream's time base."""
    with av.open(str(video.path)) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
    times = sorted(
        packet.pts for packet in packets if packet.pts is not None and not packet.is_discard
    )
    if len(times) != video.frames:
        raise VideoError(
            f"{video.path}: does not store when each frame is shown, so plain decoding cannot find "
            "its frames; take MP4 or MKV files"
        )
    return times


def make_clips(folder: Path, count: int, frames: int = 300) -> None:
    """Write H.264 clips: a photograph under a moving camera, with a little noise."""
    picture = np.ascontiguousarray(
        skimage.data.astronaut(),  # type: ignore[no-untyped-call]
    )
    random = np.random.default_rng(0)
    for number in range(count):
        angle, speed = random.uniform(0, 2 * np.pi), random.uniform(0.01, 0.03)
        with av.open(str(folder / f"{number}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=30)
            stream.width, stream.height, stream.pix_fmt = 340, 256, "yuv420p"
            for frame in range(frames):
                turn = angle + speed * frame
                x, y = 86 + 80 * np.cos(turn), 128 + 100 * np.sin(turn)
                shift = np.array([[1, 0, -x], [0, 1, -y]])
                image = np.asarray(cv2.warpAffine(picture, shift, (340, 256)), np.uint8) // 2
                image += random.integers(0, 6, image.shape, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
            container.mux(stream.encode(None))


def print_table(result: dict[str, Any]) -> None:
    """Show what `benchmark_loader` found."""
    videos = "made 340×256 H.264 clips" if result["made"] else "your videos"
    table = Table(
        title=f"{result['rows']} frames of {result['span']}, one core, {result['clips']} clips of "
        f"{videos}"
    )
    for column in ("", "clips / s", "share of decoding"):
        table.add_column(column, justify="right" if column else "left")
    table.add_row(
        "loader: crop, 224×224, batch",
        f"{result['loader']:.1f}",
        f"{result['share_of_decoding']:.3f}",
    )
    table.add_row("plain: decode to RGB", f"{result['plain']:.1f}", "1")
    Console().print(table)
