"""Clips per second of the loader against plain decoding, on one core.

- Both sides open the same files, decode with one thread and read the same 64 consecutive frames (16
  frames at stride 4 whose trajectories have 7 steps need every frame of their span).
- Plain: the usual loop with PyAV: seek to the keyframe, decode on, turn each frame of the span into
  an RGB array. It is given the times of the frames, so it need not find them.
- Ours: the whole loader in this process: count the frames exactly, draw the span, seek, decode and
  check the order, convert, draw the crop, resize to 224×224, collate into a batch. On the way to
  the span it leaves out frames that no other frame refers to.
- Ours, repeated: the same with a batch of four clips of the span, each with a crop of its own.
- decord, where it is installed: open the file, read the same frames, as RGB.
- Without videos of your own, 340×256 H.264 clips of 300 frames are made, a usual size of Kinetics.
- Time is that of the processor, of all threads together: what a core gives to other work meanwhile
  does not count, and neither does waiting for a disk.
- The sides take turns span by span, and who goes first changes; ratios are medians over the turns.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.metadata import version
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
from m3video.video.loader import Clips, VideoClips, make_loader
from m3video.video.manifest import Manifest, Video, load_manifest
from m3video.video.order import TrainingOrder
from m3video.video.sampling import ClipPlan, plan_clip, random_start, sample_generator

_CLIP = ClipConfig(frames=16, stride=4, size=(224, 224))
_LENGTH = 7
_SEED = 0
_REPEATS = 4

Read = Callable[[int, int], object]
"""Read the span of video `index` that begins at frame `start`."""


def benchmark_loader(videos: Path | None = None, *, clips: int = 40) -> dict[str, Any]:
    """Time the loader, plain decoding and decord, span by span in turn.

    Args:
        videos: a folder or list of videos, as for `load_manifest`, which must store when each frame
            is shown (raw streams do not); None makes clips on the spot.
        clips: spans that each side reads, after one for warming up.

    Returns:
        share_of_decoding: clips per second of a core of the loader over those of plain decoding;
        share_of_decord: over those of decord, None where it is not installed; repeated_gain: clips
        per second with `repeats` of each span over those with one; loader, repeated, plain, decord:
        clips per second; span, rows: frames; repeats; clips; made: whether clips were made;
        versions.

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
            seconds = _take_turns(manifest, plan, clips)
    finally:
        torch.set_num_threads(threads[0])
        cv2.setNumThreads(threads[1])
    seconds["repeated"] = [each / _REPEATS for each in seconds["repeated"]]
    rates = {name: 1 / statistics.median(taken) for name, taken in seconds.items()}
    return {
        "share_of_decoding": _ratio(seconds["plain"], seconds["loader"]),
        "share_of_decord": _ratio(seconds["decord"], seconds["loader"])
        if "decord" in seconds
        else None,
        "repeated_gain": _ratio(seconds["loader"], seconds["repeated"]),
        **{name: rates.get(name) for name in ("loader", "repeated", "plain", "decord")},
        "span": plan.span,
        "rows": len(plan.offsets),
        "repeats": _REPEATS,
        "clips": clips,
        "made": videos is None,
        "versions": {
            name: version(name)
            for name in ("av", "opencv-python-headless", "torch", "decord")
            if name != "decord" or "decord" in seconds
        },
    }


def _ratio(theirs: list[float], ours: list[float]) -> float:
    """How many times as fast we are: the median over the turns."""
    return statistics.median(a / b for a, b in zip(theirs, ours, strict=True))


def _take_turns(manifest: Manifest, plan: ClipPlan, clips: int) -> dict[str, list[float]]:
    """Processor seconds per span of each side."""
    times = [_frame_times(video) for video in manifest.videos]
    sides: dict[str, Read] = {
        "loader": _ours(manifest, plan, clips + 1, 1),
        "repeated": _ours(manifest, plan, clips + 1, _REPEATS),
        "plain": lambda index, start: _plain(
            manifest.videos[index].path, times[index][start : start + plan.span]
        ),
    }
    decord = _decord(manifest, plan)
    if decord is not None:
        sides["decord"] = decord
    names = list(sides)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    order = TrainingOrder(len(times), 1, _SEED, 0, clips + 1)
    for turn, ((epoch, index),) in enumerate(order):
        generator = sample_generator(_SEED, epoch, index)
        start = random_start(len(times[index]), plan.span, generator)
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            begin = time.process_time()
            sides[name](index, start)
            seconds[name].append(time.process_time() - begin)
    return {name: taken[1:] for name, taken in seconds.items()}


def _ours(manifest: Manifest, plan: ClipPlan, spans: int, repeats: int) -> Read:
    """The whole loader, with a batch of the clips of one span; it draws the spans itself."""
    source = VideoClips(manifest, clip=_CLIP, plan=plan, augment=AugmentConfig(), repeats=repeats)
    batches: Iterator[Clips] = iter(
        make_loader(source, batch=repeats, seed=_SEED, first_step=0, last_step=spans, workers=0)
    )

    def read(index: int, start: int) -> Clips:
        batch = next(batches)
        if batch.unreadable:  # what was read in its place is not what the others read
            raise VideoError(": ".join(batch.unreadable[0]))
        assert batch.index.tolist() == [index] * repeats
        return batch

    return read


def _decord(manifest: Manifest, plan: ClipPlan) -> Read | None:
    """decord's reader with one thread, where it is installed."""
    try:
        decord = import_module("decord")
    except ImportError:
        return None

    def read(index: int, start: int) -> NDArray[np.uint8]:
        reader = decord.VideoReader(str(manifest.videos[index].path), num_threads=1)
        frames = range(start, min(start + plan.span, len(reader)))
        return np.asarray(reader.get_batch(list(frames)).asnumpy())

    return read


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
        title=f"{result['rows']} frames of {result['span']}, one core, {result['clips']} spans of "
        f"{videos}"
    )
    for column in ("", "clips / s a core", "loader's rate over it"):
        table.add_column(column, justify="right" if column else "left")
    rows = (
        ("loader: crop, 224×224, batch", "loader", 1.0),
        ("plain: decode to RGB", "plain", result["share_of_decoding"]),
        ("decord: decode to RGB", "decord", result["share_of_decord"]),
        (f"loader, {result['repeats']} clips of a span", "repeated", 1 / result["repeated_gain"]),
    )
    for words, name, ratio in rows:
        if ratio is None:
            table.add_row(words, "not measured: not installed", "")
        else:
            table.add_row(words, f"{result[name]:.1f}", f"{ratio:.3f}")
    console = Console()
    console.print(table)
    console.print(
        f"{result['repeats']} clips of a span: {result['repeated_gain']:.2f} × the rate of one"
    )
