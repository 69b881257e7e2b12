"""What all targets share: the clip they read, what they give, and the order of tokens and seeds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from torch import Tensor

from m3video.config import ClipConfig, MotionConfig
from m3video.motion.flow import grey, make_flow
from m3video.motion.trajectory import Tracks, clip_tracks
from m3video.video.sampling import ClipPlan


@dataclass(frozen=True)
class Target:
    """What each token must predict."""

    values: Tensor
    """float32 [B, N, D], finite everywhere."""
    valid: Tensor
    """bool [B, N, D] or [B, N, 1]: False where nothing is known and no loss may be taken."""


@dataclass(frozen=True)
class ClipView:
    """A batch of clips as targets read it; what several of them need is computed once."""

    frames: Tensor
    """uint8 [B, R, H, W, 3]: the rows of the plan, after crop and flip."""
    real: Tensor
    """bool [B, R]: False where a row repeats the video's last frame."""
    plan: ClipPlan
    clip: ClipConfig
    motion: MotionConfig

    @cached_property
    def grey(self) -> Tensor:
        """Luma, uint8 [B, R, H, W]."""
        return grey(self.frames)

    @cached_property
    def tracks(self) -> Tracks:
        """K trajectories a patch from each tubelet's first frame: [B, T / tubelet, h, w, …]."""
        spacing = self.clip.patch // round(self.motion.seeds**0.5)
        return clip_tracks(self.grey, self.plan, self.real, make_flow(self.motion.flow), spacing)


class TargetMaker(Protocol):
    """Makes one kind of target."""

    @property
    def dim(self) -> int:
        """D: numbers a token."""

    def __call__(self, view: ClipView) -> Target:
        """Read a batch of clips and say what each of its tokens must predict."""


def by_patch(values: Tensor, tokens: tuple[int, int, int]) -> Tensor:
    """Group a grid of cells or seeds into the patches of tokens.

    Args:
        values: [B, T / tubelet, h, w, ...]; h and w are multiples of the token grid's.
        tokens: the token grid (time, rows, columns).

    Returns:
        [B, N, K, ...]: N in (time, row, column) order, K row by row within a patch.
    """
    batch, _, height, width, *rest = values.shape
    time, rows, columns = tokens
    down, across = height // rows, width // columns
    split = values.reshape(batch, time, rows, down, columns, across, *rest)
    return split.transpose(3, 4).reshape(batch, time * rows * columns, down * across, *rest)
