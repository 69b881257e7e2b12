"""Clips around key frames, and their boxes in the coordinates of the crop.

training     1 random crop that shows a person              frames [T, H, W, 3]
evaluation   3 crops along the longer side, which together show all of a frame of up to three
             times the aspect; a box is judged in the crop that shows most of it
                                                            frames [3, T, H, W, 3]
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from m3video.config import AugmentConfig, ClipConfig
from m3video.errors import VideoError
from m3video.video.augment import Crop, multi_scale_crop
from m3video.video.datasets.boxes import KeyFrame
from m3video.video.loader import Clips
from m3video.video.packets import PacketScan
from m3video.video.reader import VideoReader
from m3video.video.spans import Crops, Span, cut_span, naming
from m3video.video.views import view_crops

BOXES = "boxes"
"""The extra float32 [M, 4]: x1, y1, x2, y2 as fractions of the crop; 0 where there is none."""
PRESENT = "present"
"""The extra bool [M]: which of them there are."""
ACTIONS = "actions"
"""The extra float32 [M, C]: 1 for each action of a box."""
VIEW = "view"
"""The extra int64 [M]: the crop that a box is judged in."""
VISIBLE = 0.25
"""Least share of a box in a training crop, but for the person that the crop was drawn for."""
VIEWS = 3
KNOWN_FILMS = 512
"""Films whose packets a process keeps in mind; AVA has 299, a cut of which takes 0.2 MB."""

Boxes = NDArray[np.float32]


def key_row(reader: VideoReader, seconds: float) -> int:
    """The frame of a video shown at `seconds`; less than a second behind its end.

    Raises:
        VideoError: the video ends more than a second before.
    """
    row = reader.frame_at(seconds)
    if row >= len(reader) + reader.fps:
        raise VideoError(
            f"key frame at {seconds:g} s, and the video ends after {reader.duration:.1f} s; are "
            "the films whole or cut, as index was told?"
        )
    return row


def key_rows(row: int, count: int, clip: ClipConfig) -> list[int]:
    """Frames of a clip whose frame T / 2 is `row`; the ends of a video of `count` repeat: [T]."""
    first = row - clip.frames // 2 * clip.stride
    return [min(max(first + step * clip.stride, 0), count - 1) for step in range(clip.frames)]


def read_span(frame: KeyFrame, films: Films, clip: ClipConfig, crops_of: Crops) -> Span:
    """Decode a clip around a key frame once, and cut all crops out of it.

    Raises:
        UnreadableError: the video cannot be read, or has no such key frame.
    """
    with naming(frame.path), films.open(frame.path) as reader:
        rows = key_rows(key_row(reader, frame.seconds), len(reader), clip)
        return cut_span(reader, rows, crops_of)


class Films:
    """Opens films; what their packets tell is read once, for a film has hundreds of key frames."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[PacketScan, int]] = {}

    def open(self, path: Path) -> VideoReader:
        """A reader of the film.

        Raises:
            VideoError: it cannot be opened.
        """
        scan, frames = self._known.get(path, (None, None))
        reader = VideoReader(path, scan=scan, frames=frames)
        if len(self._known) < KNOWN_FILMS:
            self._known[path] = reader.scan, len(reader)
        return reader


def boxes_in(crop: Crop, boxes: Boxes, height: int, width: int) -> tuple[Boxes, Boxes]:
    """Boxes of a frame in a crop of it.

    Args:
        crop: what is cut out of the frame, and whether it is mirrored.
        boxes: [n, 4], x1, y1, x2, y2 as fractions of the frame.
        height: of the frame in pixels.
        width: of the frame in pixels.

    Returns:
        [n, 4] as fractions of the crop, cut at its edges, and [n]: the share of each box that is
        inside, 0 to 1.
    """
    top, left, rows, columns = crop.box
    scale = np.array([width, height, width, height], np.float32)
    start = np.array([left, top, left, top], np.float32)
    size = np.array([columns, rows, columns, rows], np.float32)
    whole = (boxes * scale - start) / size
    inside = whole.clip(0, 1)
    area, seen = ((found[:, 2:] - found[:, :2]).prod(1) for found in (whole, inside))
    share = np.divide(seen, area, out=np.zeros_like(area), where=area > 0)
    if crop.flip:
        inside = np.stack([1 - inside[:, 2], inside[:, 1], 1 - inside[:, 0], inside[:, 3]], axis=1)
    return inside, share


def crop_with_person(
    height: int,
    width: int,
    size: tuple[int, int],
    box: Boxes,
    augment: AugmentConfig,
    generator: torch.Generator,
) -> Crop:
    """Draw a crop and flip, then shift it as little as it takes to hold the centre of a box [4]."""
    top, left, rows, columns = multi_scale_crop(height, width, size, augment.scales, generator)
    y, x = (box[1] + box[3]) / 2 * height, (box[0] + box[2]) / 2 * width
    top = _shifted(top, rows, float(y), height)
    left = _shifted(left, columns, float(x), width)
    flip = augment.flip and bool(torch.randint(2, (), generator=generator))
    return Crop((top, left, rows, columns), size, flip)


def _shifted(start: int, length: int, place: float, whole: int) -> int:
    """The nearest start of a stretch of `length` that holds `place`, within 0 … whole."""
    holding = min(max(start, math.ceil(place) - length), math.floor(place))
    return min(max(holding, 0), whole - length)


class TrainingKeyFrames:
    """A `ClipSource`: a random crop around each key frame that has a box.

    Args:
        frames: key frames with one box or more.
        labels: the names of the actions, all of these key frames'.
        clip: T, stride, height and width.
        augment: crop and flip.
    """

    def __init__(
        self,
        frames: Sequence[KeyFrame],
        labels: tuple[str, ...],
        clip: ClipConfig,
        augment: AugmentConfig,
    ) -> None:
        self.labels = labels
        self._frames = frames
        self._clip = clip
        self._augment = augment
        self._films = Films()
        self._most = max(len(frame.boxes) for frame in frames)

    def __len__(self) -> int:
        return len(self._frames)

    def clip(self, index: int, epoch: int, generator: torch.Generator) -> Clips:
        """One clip, frames [T, H, W, 3]; the epoch matters only through `generator`."""
        frame = self._frames[index]
        chosen = int(torch.randint(len(frame.boxes), (), generator=generator))

        def crops(height: int, width: int) -> list[Crop]:
            box = frame.boxes[chosen]
            size = self._clip.size
            return [crop_with_person(height, width, size, box, self._augment, generator)]

        span = read_span(frame, self._films, self._clip, crops)
        boxes, share = boxes_in(span.crops[0], frame.boxes, *span.size)
        share[chosen] = 1  # a face that is larger than the crop is seen, and rounding hides nobody
        kept = (share >= VISIBLE).nonzero()[0]
        actions = action_matrix(frame.labels, self.labels)
        extras = {
            BOXES: padded(boxes[kept], self._most),
            PRESENT: torch.arange(self._most) < len(kept),
            ACTIONS: padded(actions[kept], self._most),
        }
        return _clip(span.frames[0], index, extras)


class EvaluationKeyFrames:
    """A `ClipSource`: three crops around each key frame, and the boxes to be judged in them.

    Args:
        frames: key frames; their boxes and labels are not read.
        boxes: to be judged in each, one or more.
        clip: T, stride, height and width.
    """

    labels: tuple[str, ...] = ()

    def __init__(
        self, frames: Sequence[KeyFrame], boxes: Sequence[Boxes], clip: ClipConfig
    ) -> None:
        self._frames = frames
        self._boxes = boxes
        self._films = Films()
        self._clip = clip
        self._most = max(map(len, boxes))

    def __len__(self) -> int:
        return len(self._frames)

    def clip(self, index: int, epoch: int, generator: torch.Generator) -> Clips:
        """One clip, frames [3, T, H, W, 3]; nothing is drawn."""
        size, boxes = self._clip.size, self._boxes[index]
        span = read_span(
            self._frames[index],
            self._films,
            self._clip,
            lambda h, w: view_crops(h, w, size, VIEWS),
        )
        found = [boxes_in(crop, boxes, *span.size) for crop in span.crops]
        shares = np.stack([share for _, share in found])
        shares[VIEWS // 2] += 1e-4  # the centre, where all show as much
        view = shares.argmax(0)
        placed = np.stack([inside for inside, _ in found])[view, np.arange(len(boxes))]
        extras = {
            BOXES: padded(placed, self._most),
            PRESENT: torch.arange(self._most) < len(boxes),
            VIEW: padded(view, self._most),
        }
        return _clip(span.frames, index, extras)


def action_matrix(labels: Sequence[Sequence[str]], names: Sequence[str]) -> NDArray[np.float32]:
    """1 for each action of a box: [n, C]; an action that is no name is left out."""
    place = {name: column for column, name in enumerate(names)}
    matrix = np.zeros((len(labels), len(names)), np.float32)
    for row, actions in enumerate(labels):
        for action in actions:
            if action in place:
                matrix[row, place[action]] = 1
    return matrix


def padded(values: NDArray[np.generic], length: int) -> torch.Tensor:
    """[n, …] → [length, …], zeros behind."""
    out = np.zeros((length, *values.shape[1:]), values.dtype)
    out[: len(values)] = values
    return torch.from_numpy(out)


def _clip(frames: NDArray[np.uint8], index: int, extras: dict[str, torch.Tensor]) -> Clips:
    return Clips(
        frames=torch.from_numpy(frames),
        real=torch.ones(frames.shape[-4], dtype=torch.bool),
        label=torch.tensor(-1),
        index=torch.tensor(index),
        extras=extras,
    )
