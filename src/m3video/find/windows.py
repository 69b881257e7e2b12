"""Which frames of which videos become a row of features.

- A *window* is one clip of a video: its T frame numbers, and the seconds it covers.
- A *unit* is what becomes one row: one window (`per clip`), or the evenly spaced windows of a video
  whose features are averaged (`per video`).
- Units are numbered over all videos, so a number says where an interrupted run goes on. Nothing is
  listed: a video's units are counted from its length.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from m3video.config import ClipConfig, EmbedConfig
from m3video.video.manifest import Video
from m3video.video.sampling import segment_starts


@dataclass(frozen=True)
class Window:
    """One clip of a video."""

    rows: tuple[int, ...]
    """[T] frame numbers, ascending; the last frame is repeated where the video is shorter."""
    start: float
    """Seconds."""
    end: float
    """Seconds; where the next clip starts if they follow each other."""


def frame_offsets(clip: ClipConfig, fps: float, seconds: float | None) -> tuple[int, ...]:
    """[T] frames of a clip from its first: `stride` apart, or spread evenly over `seconds`."""
    step = clip.stride if seconds is None else seconds * fps / clip.frames
    return tuple(math.floor(frame * step + 0.5) for frame in range(clip.frames))


def sliding_starts(count: int, reach: int, length: float, hop: float) -> list[int]:
    """First frames of clips that slide over `count` frames.

    Args:
        count: frames of the video.
        reach: frames from the first to the last that a clip reads, both included.
        length: frames that a clip covers, those after its last included.
        hop: frames from one clip to the next, at least 1.

    Returns:
        0, hop, 2·hop … while a clip fits; one more, that ends with the video, where at least half
        a hop would be left out; 0 alone where none fits.
    """
    last = max(count - reach, 0)
    starts = [math.floor(number * hop) for number in range(int(last // hop) + 1)]
    if count - (starts[-1] + length) >= hop / 2 and starts[-1] < last:
        starts.append(last)
    return starts


class Windows:
    """The units of some videos, by number.

    Args:
        videos: in their order.
        clip: T, stride and size of the model.
        config: per, segments, window and hop.
    """

    def __init__(self, videos: Sequence[Video], clip: ClipConfig, config: EmbedConfig) -> None:
        self.videos = videos
        self.clip = clip
        self._config = config
        self.each = config.segments if config.per == "video" else 1
        """Windows of a unit."""
        counts = (1 if config.per == "video" else len(self._starts(video)) for video in videos)
        self._ends = array("q", accumulate(counts))  # data workers share it as it is not written

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def video_of(self, unit: int) -> int:
        """The position of a unit's video."""
        return bisect_right(self._ends, unit)

    def first_of(self, number: int) -> int:
        """The first unit of a video."""
        return self._ends[number - 1] if number else 0

    def of(self, unit: int) -> list[Window]:
        """The windows of a unit."""
        number = self.video_of(unit)
        video = self.videos[number]
        starts = self._starts(video)
        if self._config.per == "clip":
            place = unit - self.first_of(number)
            starts = starts[place : place + 1]
        offsets = frame_offsets(self.clip, video.fps, self._config.window)
        last = video.frames - 1
        return [
            Window(
                rows=tuple(min(start + offset, last) for offset in offsets),
                start=start / video.fps,
                end=min(start + self._length(video), video.frames) / video.fps,
            )
            for start in starts
        ]

    def seconds(self, unit: int) -> tuple[float, float]:
        """What a row is about: start and end of its clip, or of the whole video."""
        if self._config.per == "video":
            video = self.videos[self.video_of(unit)]
            return 0.0, video.frames / video.fps
        (window,) = self.of(unit)
        return window.start, window.end

    def _length(self, video: Video) -> float:
        """Frames that a clip covers."""
        if self._config.window is not None:
            return self._config.window * video.fps
        return float(self.clip.frames * self.clip.stride)

    def _starts(self, video: Video) -> list[int]:
        reach = frame_offsets(self.clip, video.fps, self._config.window)[-1] + 1
        if self._config.per == "video":
            return segment_starts(video.frames, reach, self._config.segments)
        length = self._length(video)
        hop = length if self._config.hop is None else self._config.hop * video.fps
        return sliding_starts(video.frames, reach, length, max(hop, 1.0))
