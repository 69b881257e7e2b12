"""The motion of a video of any length, a few frames at a time.

    frame      0   1   2   3   4   5   6   7   8
    flow         0   1   2   3   4   5   6   7       pair t leads from frame t to frame t + 1
    tracks     o───────────▸ ◦   ◦                   length 3: starts 0, 3, 6, …
                           o───────────▸ ◦   ◦       (the end of one is the start of the next)

A step of a trajectory needs the flow of one pair and where the points are, so only a few pairs and
one window of points are held. The numbers are those of `m3video.track` on the whole video.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from m3video.config import MotionConfig
from m3video.motion.fields import Fields, motion_fields
from m3video.motion.flow import grey, make_flow
from m3video.motion.trajectory import Tracks, follow, seed_grid
from m3video.video.augment import Crop
from m3video.video.reader import VideoReader
from m3video.video.sampling import ClipPlan
from m3video.video.vector_reader import VectorReader

_PIXELS = 1 << 22
"""About how many pixels of flow are held at a time."""
_MOST_PAIRS = 8
_BLOCK = 129
"""Frames whose vectors are held at a time."""

Frame = NDArray[np.uint8]


@dataclass(frozen=True)
class Moment:
    """One frame, and what moves from it to the next."""

    index: int
    """0 at the first frame that is shown."""
    frame: Frame
    """uint8 [H, W, 3]."""
    fields: list[Fields] | None
    """Of each estimator, one pair of one clip, in pixels of the frame; None at the last frame."""


class PairMotion:
    """What one estimator says of neighbouring frames of a video.

    `codec` reads the vectors of the file itself; `m3video.track`, which has no file, encodes pairs.

    Args:
        video: the file.
        motion: the estimator, and what is done with its flow.
        small: height and width of the frames that flow is found in.
        place: the torch device that it is found on.

    Raises:
        ConfigError: the estimator is not available.
        VideoError: `codec`, and the file has no vectors.
    """

    def __init__(
        self, video: Path, motion: MotionConfig, small: tuple[int, int], place: str
    ) -> None:
        self._motion, self._small, self._place = motion, small, place
        self._vectors = VectorReader(video) if motion.flow == "codec" else None
        self._held = range(0)
        if self._vectors is None:
            make_flow(motion.flow, motion.weights)

    def close(self) -> None:
        """Let go of the file."""
        if self._vectors is not None:
            self._vectors.close()

    def fields(self, first: int, frames: list[Frame]) -> Fields:
        """Motion between neighbouring frames, in pixels of the size `small`; on the CPU.

        Args:
            first: number of the first frame.
            frames: two or more, each uint8 [H, W, 3].
        """
        starts = tuple(range(len(frames) - 1))
        plan = ClipPlan(offsets=(*starts, len(starts)), inputs=starts, starts=starts, length=1)
        given = None if self._vectors is None else self._flow_of_file(first, frames)
        small = [_shrunk(frame, self._small) for frame in frames]
        rows = grey(torch.from_numpy(np.stack(small)))[None]
        found = motion_fields(rows.to(self._place), plan, self._motion, given)
        camera, consistent = found.camera, found.consistent
        return Fields(
            found.flow.cpu(),
            None if camera is None else camera.cpu(),
            None if consistent is None else consistent.cpu(),
        )

    def _flow_of_file(self, first: int, frames: list[Frame]) -> Tensor:
        vectors = self._vectors
        assert vectors is not None
        last = first + len(frames) - 1
        if first not in self._held or last not in self._held:
            # Many at a time, because each time begins with a seek; the pictures are not needed.
            self._held = range(first, min(first + _BLOCK, len(vectors)))
            for _ in vectors.images(self._held):
                pass
        crop = Crop((0, 0, *frames[0].shape[:2]), self._small, flip=False)
        pairs = [(number, number + 1) for number in range(first, last)]
        return torch.from_numpy(vectors.flow(pairs, crop))[None].to(self._place)


def moments(
    reader: VideoReader, span: range, sources: list[PairMotion], small: tuple[int, int]
) -> Iterator[Moment]:
    """Go through a part of a video once.

    Args:
        reader: the open video.
        span: numbers of at least two neighbouring frames.
        sources: the estimators.
        small: height and width of the frames that they look at.
    """
    pairs = max(1, min(_PIXELS // (small[0] * small[1]), _MOST_PAIRS))
    kept: list[Frame] = []
    index = 0
    for number, image in reader.images(span):
        kept.append(image.copy())
        if len(kept) <= pairs and number < span[-1]:
            continue
        found = [source.fields(span[index], kept) for source in sources]
        for pair in range(len(kept) - 1):
            one = [_pair(fields, pair, kept[pair].shape[:2]) for fields in found]
            yield Moment(index, kept[pair], one)
            index += 1
        kept = kept[-1:]
    yield Moment(index, kept[0], None)


def working_size(height: int, width: int, size: int | None) -> tuple[int, int]:
    """The size with `size` pixels on the shorter side; never larger than it was."""
    if size is None or size >= min(height, width):
        return height, width
    share = size / min(height, width)
    return round(height * share), round(width * share)


def _shrunk(frame: Frame, size: tuple[int, int]) -> Frame:
    if frame.shape[:2] == size:
        return frame
    return np.asarray(cv2.resize(frame, size[::-1], interpolation=cv2.INTER_AREA), np.uint8)


def enlarge_fields(fields: Fields, size: tuple[int, int]) -> Fields:
    """Fields of small frames as those of frames of another size.

    A pixel x of the small frame lies at (x + ½) s − ½ of the large one, and its displacement is s
    times as long.
    """
    height, width = fields.flow.shape[-2:]
    if (height, width) == size:
        return fields
    down, right = size[0] / height, size[1] / width
    scale = torch.tensor([right, down])[:, None, None]
    flow = interpolate(fields.flow[0], size=size, mode="bilinear", align_corners=False) * scale
    camera = fields.camera
    if camera is not None:
        to_large = torch.tensor(
            [[right, 0, (right - 1) / 2], [0, down, (down - 1) / 2], [0, 0, 1.0]],
            dtype=torch.float64,
        )
        camera = (to_large @ camera.double() @ torch.linalg.inv(to_large)).float()
    consistent = fields.consistent
    if consistent is not None:
        whole = interpolate(consistent.float(), size=size, mode="nearest-exact")
        consistent = whole > 0
    return Fields(flow[None], camera, consistent)


def _pair(fields: Fields, pair: int, size: tuple[int, ...]) -> Fields:
    camera, consistent = fields.camera, fields.consistent
    one = Fields(
        fields.flow[:, pair : pair + 1],
        None if camera is None else camera[:, pair : pair + 1],
        None if consistent is None else consistent[:, pair : pair + 1],
    )
    return enlarge_fields(one, (size[0], size[1]))


@dataclass
class Window:
    """Trajectories that start in one frame, as far as they have come: s steps."""

    points: list[Tensor]
    """s + 1 times float32 [h, w, 2]."""
    displacements: list[Tensor] = field(default_factory=list)
    """s times float32 [h, w, 2]."""
    visible: list[Tensor] = field(default_factory=list)
    """s + 1 times bool [h, w]."""

    @property
    def steps(self) -> int:
        """Steps that are over."""
        return len(self.displacements)

    def step(self, fields: Fields) -> None:
        """Follow the flow of one pair."""
        tracks = follow(fields, torch.zeros(1, 1, dtype=torch.int64), self.points[-1])
        going = self.visible[-1] & tracks.visible[0, 0, ..., 1]
        self.points.append(tracks.points[0, 0, ..., 1, :])
        self.displacements.append(tracks.displacements[0, 0, ..., 0, :])
        self.visible.append(going)

    def tracks(self) -> Tracks:
        """All steps so far, with leading [h, w]."""
        return Tracks(
            torch.stack(self.points, dim=-2),
            torch.stack(self.displacements, dim=-2),
            torch.stack(self.visible, dim=-1),
        )


class Follower:
    """Windows of L steps, one after the other.

    Args:
        height, width: of the frames.
        spacing: pixels from point to point.
        length: L.
    """

    def __init__(self, height: int, width: int, spacing: int, length: int) -> None:
        self._seeds = seed_grid(height, width, spacing)
        self._length = length
        self.current = self._new()
        self.previous: Window | None = None

    def _new(self) -> Window:
        seen = torch.ones(self._seeds.shape[:2], dtype=torch.bool)
        return Window([self._seeds], visible=[seen])

    def step(self, fields: Fields) -> Tracks | None:
        """Follow one pair; the tracks of the window, with leading [h, w], if it is over."""
        self.current.step(fields)
        if self.current.steps < self._length:
            return None
        self.previous, self.current = self.current, self._new()
        return self.previous.tracks()
