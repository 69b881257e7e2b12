"""Decode the frames of a span once, and cut everything out of them that is wanted."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from m3video.errors import VideoError
from m3video.video.augment import Crop
from m3video.video.reader import VideoReader

Crops = Callable[[int, int], list[Crop]]
"""Height and width of a video → what is cut out of it."""


class UnreadableError(VideoError):
    """Which video cannot be read, and why; a path may hold any text, also ": "."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.named = path, reason


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors of a video become those of one that cannot be read, which data workers tell.

    Raises:
        UnreadableError: in place of a VideoError.
    """
    try:
        yield
    except VideoError as error:
        raise UnreadableError(str(path), str(error).removeprefix(f"{path}: ")) from error


@dataclass(frozen=True)
class Span:
    """Frames of a video, and how they were cut.

    Attributes:
        frames: uint8 [crops, T, H, W, 3].
        crops: what was cut out.
        size: height and width of the video.
    """

    frames: NDArray[np.uint8]
    crops: list[Crop]
    size: tuple[int, int]


def cut_span(reader: VideoReader, rows: list[int], crops_of: Crops) -> Span:
    """Decode frames once and cut all crops out of them; no whole frame is copied.

    Args:
        reader: of the video.
        rows: numbers of the frames, ascending, one or more; the same may come again: [T].
        crops_of: what is cut out.
    """
    out: NDArray[np.uint8] | None = None
    crops: list[Crop] = []
    size = (0, 0)
    for index, image in reader.images(rows):
        if out is None:
            size = (image.shape[0], image.shape[1])
            crops = crops_of(*size)
            out = np.empty((len(crops), len(rows), *crops[0].size, 3), np.uint8)
        first, end = bisect_left(rows, index), bisect_right(rows, index)
        for crop, frames in zip(crops, out, strict=True):
            crop.into(image, frames[first])
            frames[first + 1 : end] = frames[first]
    assert out is not None
    return Span(out, crops, size)
