"""Batches of windows, read from videos.

- A video's windows of a batch are decoded in one pass: a frame that several of them share is
  decoded and resized once. The file stays open for the next batch.
- The batches depend on nothing but their first unit, so the same units always meet in a batch: a
  run that goes on gives the same bits as one that was never interrupted.
- Memory is that of a batch, however long the videos are.
"""

from __future__ import annotations

import math
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from m3video.errors import VideoError
from m3video.find.windows import Windows
from m3video.video.augment import Crop, largest_crop
from m3video.video.loader import Clips
from m3video.video.manifest import Video
from m3video.video.reader import VideoReader


class WindowBatches:
    """A `ClipSource` whose item is a batch of windows, to be loaded with `batch=1`.

    An item's frames are [C, T, h, w, 3], the windows of the units in `extras["unit"]`, int64 [U],
    one unit after another. Units that cannot be read are left out, and `unreadable` says why.

    Args:
        windows: all units.
        first: the unit to begin with.
        batch: units of an item.
    """

    labels: tuple[str, ...] = ()

    def __init__(self, windows: Windows, *, first: int, batch: int) -> None:
        self._windows = windows
        self._first = first
        self._batch = batch
        self._reader: VideoReader | None = None

    def __len__(self) -> int:
        return math.ceil((len(self._windows) - self._first) / self._batch)

    def clip(self, index: int, epoch: int, generator: torch.Generator) -> Clips:
        """A batch, without B; nothing is drawn."""
        first = self._first + index * self._batch
        units = range(first, min(first + self._batch, len(self._windows)))
        kept: list[int] = []
        frames: list[NDArray[np.uint8]] = []
        unreadable: list[tuple[str, str]] = []
        for number, group in groupby(units, key=self._windows.video_of):
            video = self._windows.videos[number]
            members = list(group)
            clips, whole, reason = self._read(video, members)
            frames.append(clips[np.repeat(whole, self._windows.each)])
            kept += [unit for unit, read in zip(members, whole, strict=True) if read]
            if reason is not None:
                unreadable.append((str(video.path), reason))
        clips = np.concatenate(frames)
        return Clips(
            frames=torch.from_numpy(clips),
            real=torch.ones(clips.shape[:2], dtype=torch.bool),
            label=torch.tensor(-1),
            index=torch.tensor(index),
            extras={"unit": torch.tensor(kept, dtype=torch.int64)},
            unreadable=unreadable,
        )

    def _read(
        self, video: Video, units: list[int]
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_], str | None]:
        """The windows of a video's units [C, T, h, w, 3], which units are whole [U], and why not.

        Up to a frame that cannot be decoded, everything is whole.
        """
        windows = [window for unit in units for window in self._windows.of(unit)]
        T, (height, width) = self._windows.clip.frames, self._windows.clip.size
        out = np.empty((len(windows) * T, height, width, 3), np.uint8)
        seen = np.zeros(len(windows) * T, bool)
        places: dict[int, list[int]] = {}
        for place, row in enumerate(row for window in windows for row in window.rows):
            places.setdefault(row, []).append(place)
        reason = None
        crop: Crop | None = None
        try:
            for row, image in self._open(video).images(list(places)):
                if crop is None:
                    tall, wide, _ = image.shape
                    crop = largest_crop(tall, wide, (height, width))
                first, *rest = places[row]
                crop.into(image, out[first])
                out[rest] = out[first]
                seen[places[row]] = True
        except VideoError as error:
            reason = str(error).removeprefix(f"{video.path}: ")
            self.close()
        whole: NDArray[np.bool_] = np.all(seen.reshape(len(units), -1), axis=1)
        return out.reshape(len(windows), T, height, width, 3), whole, reason

    def _open(self, video: Video) -> VideoReader:
        if self._reader is None or self._reader.path != Path(video.path):
            self.close()
            self._reader = VideoReader(video.path, frames=video.frames)
        if len(self._reader) < video.frames:
            raise VideoError(
                f"{video.path}: has {len(self._reader)} frames, and the list says {video.frames}"
            )
        return self._reader

    def close(self) -> None:
        """Let go of the file that is open."""
        if self._reader is not None:
            self._reader.close()
        self._reader = None
