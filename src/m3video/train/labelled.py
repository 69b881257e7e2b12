"""Labelled clips that are held as pixels: the sets that moving shapes are probed and tuned on.

Training clips mix textures as the study says; the test set of `both` is two sets, one of noise and
one of photographs, so that accuracy is known for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from m3video.config import ClipConfig
from m3video.video.loader import Clips, ClipSource, make_eval_loader
from m3video.video.moving_shapes import CLASSES, MovingShapes
from m3video.video.sampling import plan_clip
from m3video.video.shapes_texture import Texture
from m3video.whole import written_whole

TEST_OFFSET = 1_000_000
"""A moving-shapes test set starts here, so that no clip that is trained on is ever tested."""


@dataclass
class LabelledClips:
    """A `ClipSource` of clips that were read or rendered before.

    Attributes:
        frames: uint8 [V, T, H, W, 3], in memory or mapped from a file.
        targets: int64 [V], positions in `labels`.
        labels: the names of the classes.
        textures: of each clip; empty where nobody asks.
    """

    frames: NDArray[np.uint8]
    targets: NDArray[np.int64]
    labels: tuple[str, ...]
    textures: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.targets)

    def clip(self, index: int, epoch: int, generator: torch.Generator) -> Clips:
        """One clip, without B; always the same."""
        return Clips(
            frames=torch.from_numpy(np.array(self.frames[index])),
            real=torch.ones(self.frames.shape[1], dtype=torch.bool),
            label=torch.tensor(int(self.targets[index])),
            index=torch.tensor(index),
        )

    def first(self, each: int) -> LabelledClips:
        """The first `each` clips of every class; fewer where there are fewer."""
        seen = dict.fromkeys(range(len(self.labels)), 0)
        kept = []
        for row, target in enumerate(self.targets.tolist()):
            seen[target] += 1
            if seen[target] <= each:
                kept.append(row)
        textures = tuple(self.textures[row] for row in kept) if self.textures else ()
        return LabelledClips(self.frames[kept], self.targets[kept], self.labels, textures)


def shapes_train(clip: ClipConfig, count: int, texture: Texture) -> MovingShapes:
    """The labelled training clips of moving shapes: number n is of class n mod 13."""
    return MovingShapes(
        clips=count, clip=clip, plan=plan_clip(clip, 0), texture=texture, fixed=True
    )


def shapes_test(clip: ClipConfig, count: int, texture: Texture) -> list[MovingShapes]:
    """The test clips, a set a texture; that of `both` is half noise and half photographs.

    The larger half is noise; a single clip is.
    """
    if texture != "both":
        counts: list[tuple[Texture, int]] = [(texture, count)]
    else:
        counts = [("noise", count - count // 2), ("photo", count // 2)]
    return [
        MovingShapes(
            clips=share,
            clip=clip,
            plan=plan_clip(clip, 0),
            texture=kind,
            fixed=True,
            # Another stretch of numbers for photographs: the same number has the same motion.
            offset=TEST_OFFSET * (1 + part),
        )
        for part, (kind, share) in enumerate(counts)
        if share
    ]


def rendered(sources: Sequence[MovingShapes], path: Path, *, workers: int = 0) -> LabelledClips:
    """All clips of some sets, one set after another, from `path` or else rendered into it.

    Args:
        sources: of clips of the same shape.
        path: an .npy file of the frames, mapped into memory. Its name must tell the sets; a file
            of another shape, or one cut short, is rendered anew.
        workers: processes that render.
    """
    count = sum(len(source) for source in sources)
    frames = _kept(sources[0], count, path)
    if frames is None:
        with written_whole(path) as aside:
            _render(sources, count, aside, workers)
        frames = np.load(path, mmap_mode="r")
    targets = [(s.offset + n) % len(CLASSES) for s in sources for n in range(len(s))]
    textures = [source.texture for source in sources for _ in range(len(source))]
    return LabelledClips(frames, np.array(targets, np.int64), CLASSES, tuple(textures))


def _kept(source: MovingShapes, count: int, path: Path) -> NDArray[np.uint8] | None:
    """The frames of an earlier call, mapped; None where there are none that can be used."""
    if not path.exists():
        return None
    try:
        frames: NDArray[np.uint8] = np.load(path, mmap_mode="r")
    except (ValueError, EOFError):  # cut short, or no .npy at all
        return None
    shape = (count, len(source.plan.offsets), *source.config.size, 3)
    return frames if frames.dtype == np.uint8 and frames.shape == shape else None


def _render(sources: Sequence[ClipSource], count: int, path: Path, workers: int) -> None:
    frames: np.memmap[Any, np.dtype[np.uint8]] | None = None
    row = 0
    for source in sources:
        for clips in make_eval_loader(source, batch=32, workers=workers):
            if frames is None:
                shape = (count, *clips.frames.shape[1:])
                frames = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
            frames[row : row + len(clips.index)] = clips.frames.numpy()
            row += len(clips.index)
    assert frames is not None
    frames.flush()
