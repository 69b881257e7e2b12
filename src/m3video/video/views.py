"""Labelled videos as several crops of each clip: repeated samples in training, views in testing.

    training   clip = 1 span × `repeats` random crops          frames [repeats, T, H, W, 3]
    testing    clip = 1 of `segments` spans × 1 or 3 crops     frames [crops, T, H, W, 3]

A span is decoded once for all of its crops. Which frames it has is said by `sampling`:

- dense (Kinetics): T frames `stride` apart, from a random start or from evenly spaced ones;
- segment (TSN, arXiv 1608.00859; Something-Something): the video is cut in T equal parts. Training
  takes a random frame of each; clip c of C in testing takes the one at (2c + 1) / 2C of each part,
  which for one clip is the middle.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from m3video.config import AugmentConfig, ClipConfig, Sampling
from m3video.video.augment import Crop, largest_crop, random_crop
from m3video.video.loader import Clips, ClipSource
from m3video.video.manifest import Video
from m3video.video.reader import VideoReader
from m3video.video.sampling import plan_clip, random_start, segment_starts, span_rows
from m3video.video.spans import Crops, cut_span, naming


def dense_rows(clip: ClipConfig, count: int, start: int) -> list[int]:
    """Frames of a span in a video of `count` frames; its last frame is repeated: [T]."""
    return span_rows(plan_clip(clip, 0), start, count)[0]


def random_segment_rows(count: int, frames: int, generator: torch.Generator) -> list[int]:
    """One random frame of each of `frames` equal parts of a video of `count` frames: [T]."""
    places = torch.rand(frames, generator=generator, dtype=torch.float64).tolist()
    return [_in_part(count, frames, part, place) for part, place in enumerate(places)]


def segment_rows(count: int, frames: int, segment: int, segments: int) -> list[int]:
    """The frames of test clip `segment` of `segments`, one of each of `frames` parts: [T]."""
    place = (2 * segment + 1) / (2 * segments)
    return [_in_part(count, frames, part, place) for part in range(frames)]


def _in_part(count: int, parts: int, part: int, place: float) -> int:
    return min(int((part + place) * count / parts), count - 1)


def view_crops(height: int, width: int, size: tuple[int, int], crops: int) -> list[Crop]:
    """The largest crop of `size`'s aspect: in the centre, or also at both ends of the longer side.

    In ascending order of top and left; where the aspects are the same, all are the same.
    """
    centre = largest_crop(height, width, size)
    if crops == 1:
        return [centre]
    _, _, rows, columns = centre.box
    top, left = height - rows, width - columns
    boxes = [(0, 0, rows, columns), centre.box, (top, left, rows, columns)]
    return [Crop(box, size) for box in boxes]


def read_crops(
    video: Video, rows_of: Callable[[int], list[int]], crops_of: Crops
) -> NDArray[np.uint8]:
    """Decode the frames of a span once and cut all crops out of them.

    Args:
        video: where they are.
        rows_of: number of frames of the video → frames of the span, ascending: [T].
        crops_of: what is cut out.

    Returns:
        uint8 [crops, T, H, W, 3].

    Raises:
        UnreadableError: the video cannot be read.
    """
    with naming(video.path), VideoReader(video.path, frames=video.frames) as reader:
        return cut_span(reader, rows_of(len(reader)), crops_of).frames


@dataclass(frozen=True)
class LabelledVideos:
    """Videos with labels, and how clips of them are sampled.

    Attributes:
        videos: each has a label of `labels`.
        labels: the names of the classes.
        clip: T, stride, height and width.
        sampling: dense or segment.
    """

    videos: Sequence[Video]
    labels: tuple[str, ...]
    clip: ClipConfig
    sampling: Sampling

    def label(self, number: int) -> torch.Tensor:
        """Position of a video's label: int64 scalar."""
        return torch.tensor(self.labels.index(str(self.videos[number].label)))


class TrainingViews:
    """A `ClipSource`: a random span of each video, cropped at random `repeats` times.

    Args:
        data: the videos.
        augment: crop and flip.
        repeats: crops of a span.
    """

    def __init__(self, data: LabelledVideos, augment: AugmentConfig, repeats: int) -> None:
        self.labels = data.labels
        self._data = data
        self._augment = augment
        self._repeats = repeats

    def __len__(self) -> int:
        return len(self._data.videos)

    def clip(self, index: int, epoch: int, generator: torch.Generator) -> Clips:
        """One clip, frames [repeats, T, H, W, 3]; the epoch matters only through `generator`."""
        clip = self._data.clip

        def rows(count: int) -> list[int]:
            if self._data.sampling == "segment":
                return random_segment_rows(count, clip.frames, generator)
            span = (clip.frames - 1) * clip.stride + 1
            return dense_rows(clip, count, random_start(count, span, generator))

        def crops(height: int, width: int) -> list[Crop]:
            return [
                random_crop(height, width, clip.size, self._augment, generator)
                for _ in range(self._repeats)
            ]

        frames = read_crops(self._data.videos[index], rows, crops)
        return _clip(frames, self._data.label(index), index)


class EvaluationViews:
    """A `ClipSource`: item i is clip i mod `segments` of video i div `segments`, with its crops.

    Args:
        data: the videos.
        segments: clips of a video, evenly spaced.
        crops: 1 or 3 of each clip.
    """

    def __init__(self, data: LabelledVideos, segments: int, crops: int) -> None:
        self.labels = data.labels
        self._data = data
        self._segments = segments
        self._crops = crops

    def __len__(self) -> int:
        return len(self._data.videos) * self._segments

    def clip(self, index: int, epoch: int, generator: torch.Generator) -> Clips:
        """One clip, frames [crops, T, H, W, 3]; nothing is drawn."""
        number, segment = divmod(index, self._segments)
        clip = self._data.clip

        def rows(count: int) -> list[int]:
            if self._data.sampling == "segment":
                return segment_rows(count, clip.frames, segment, self._segments)
            span = (clip.frames - 1) * clip.stride + 1
            return dense_rows(clip, count, segment_starts(count, span, self._segments)[segment])

        def crops(height: int, width: int) -> list[Crop]:
            return view_crops(height, width, clip.size, self._crops)

        frames = read_crops(self._data.videos[number], rows, crops)
        return _clip(frames, self._data.label(number), index)


class RepeatedCrops:
    """Clips that are rendered, cropped as those of `TrainingViews`; all else is the source's.

    Args:
        source: clips [T, H, W, 3] without extras.
        augment: crop and flip; None is for testing: the whole frame, once.
        repeats: crops of a clip.
    """

    def __init__(self, source: ClipSource, augment: AugmentConfig | None, repeats: int = 1) -> None:
        self.labels = source.labels
        self._source = source
        self._augment = augment
        self._repeats = repeats

    def __len__(self) -> int:
        return len(self._source)

    def clip(self, index: int, epoch: int, generator: torch.Generator) -> Clips:
        """One clip, frames [repeats, T, H, W, 3]."""
        clip = self._source.clip(index, epoch, generator)
        frames = clip.frames.numpy()
        size = (frames.shape[1], frames.shape[2])
        crops: Sequence[Crop] = [
            largest_crop(*size, size)
            if self._augment is None
            else random_crop(*size, size, self._augment, generator)
            for _ in range(self._repeats)
        ]
        return _clip(np.stack([crop(frames) for crop in crops]), clip.label, index)


def _clip(frames: NDArray[np.uint8], label: torch.Tensor, index: int) -> Clips:
    return Clips(
        frames=torch.from_numpy(frames),
        real=torch.ones(frames.shape[1], dtype=torch.bool),
        label=label,
        index=torch.tensor(index),
    )
