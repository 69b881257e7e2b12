"""What all targets share: the clip they read, what they give, and the order of tokens and seeds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

import torch
from torch import Tensor

from m3video.config import ClipConfig, MotionConfig
from m3video.motion.descriptor import EPSILON, block_normalise
from m3video.motion.fields import Fields, motion_fields
from m3video.motion.flow import grey
from m3video.motion.tracker import tracker_tracks
from m3video.motion.trajectory import Tracks, clip_tracks, step_places
from m3video.video.sampling import ClipPlan, row_index


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
    given: Tensor | None = None
    """float [B, P, 2, H, W]: flow of the plan's pairs that came with the clips."""

    @cached_property
    def grey(self) -> Tensor:
        """Luma, uint8 [B, R, H, W]."""
        return grey(self.frames)

    @cached_property
    def fields(self) -> Fields:
        """Motion of the pairs of the plan."""
        return motion_fields(self.grey, self.plan, self.motion, self.given)

    @cached_property
    def first_flow(self) -> Tensor:
        """Flow from each tubelet's first frame, without the camera's motion if that is removed:
        float32 [B, T / tubelet, 2, H, W]."""
        relative = self.fields.relative
        firsts = tuple(self.plan.pairs.index(row) for row in self.plan.starts)
        return relative.index_select(1, row_index(firsts, relative.device))

    @cached_property
    def first_valid(self) -> Tensor:
        """Whether that flow is known: bool [B, N], False where the next row repeats a frame."""
        following = row_index(self.plan.starts, self.real.device) + 1
        known = self.real.index_select(1, following)
        _, rows, columns = self.clip.tokens
        return known.repeat_interleave(rows * columns, dim=1)

    @cached_property
    def tracks(self) -> Tracks:
        """K trajectories a patch from each tubelet's first frame: [B, T / tubelet, h, w, …]."""
        spacing = self.clip.patch // round(self.motion.seeds**0.5)
        if self.motion.tracker is not None:
            return tracker_tracks(self.frames, self.plan, self.real, self.motion, spacing)
        return clip_tracks(
            self.fields, self.plan, self.real, spacing=spacing, upsample=self.motion.upsample
        )

    def points_in(self, rows: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Where the first L points of the trajectories of each token are, and in which of `rows`.

        Args:
            rows: rows of the plan, ascending, among which are those of all points.

        Returns:
            Points float32 [B, N, K, L, 2], and int64 [B, N, K, L]: clip · len(rows) + position.
        """
        points = by_patch(self.tracks.points[..., :-1, :], self.clip.tokens)
        _, down, across = self.clip.tokens
        place = step_places(self.plan, rows, points.device)
        place = place.repeat_interleave(down * across, dim=0)
        batch = torch.arange(len(points), device=points.device)[:, None, None]
        frame = (batch * len(rows) + place)[:, :, None]
        return points, frame.expand(points.shape[:-1])

    @cached_property
    def motion_energy(self) -> Tensor:
        """How far the points of each token go, in pixels a step: float32 [B, N]."""
        steps = by_patch(self.tracks.displacements, self.clip.tokens).norm(dim=-1)
        seen = by_patch(self.tracks.visible, self.clip.tokens)[..., 1:]
        travelled = torch.where(seen, steps, 0).sum(dim=(-2, -1))
        return travelled / seen.sum(dim=(-2, -1)).clamp(min=1)


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


def normalise_cells(
    histograms: Tensor,
    dims: tuple[int, ...],
    kind: Literal["none", "block", "l2-hys"],
    *,
    epsilon: float = EPSILON,
) -> Tensor:
    """Normalise the histograms along `dims` together, as `CellSettings.normalise` says."""
    if kind == "none":
        return histograms
    return block_normalise(
        histograms, dims, epsilon=epsilon, clip=0.2 if kind == "l2-hys" else None
    )
