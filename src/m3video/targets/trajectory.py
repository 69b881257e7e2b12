"""The trajectory target: where the points of a patch go (Masked Motion Encoding's *position*)."""

from __future__ import annotations

import torch
from torch import Tensor

from m3video.config import PretrainConfig, TrajectoryConfig
from m3video.errors import ConfigError
from m3video.targets.base import ClipView, Target, by_patch


class TrajectoryTarget:
    """Displacements of K points over L raw-rate steps (MME, arXiv 2210.06096, 3.2).

    The D = K · L · 2 numbers are ordered (point, step, axis), points row by row, x before y. Step l
    of a point is valid if the point is still visible after it.
    """

    def __init__(self, config: PretrainConfig) -> None:
        self.config = config.targets.trajectory
        if self.config.normalise == "patch-std" and config.motion.seeds == 1:
            raise ConfigError(
                "targets.trajectory.normalise 'patch-std' compares the points of a patch, and "
                "motion.seeds is 1: use 4 or 16 seeds, or another normalisation"
            )
        self.dim = config.motion.seeds * config.motion.length * 2

    def __call__(self, view: ClipView) -> Target:
        """Clamp, normalise, and set what is not valid to 0."""
        displacements = by_patch(view.tracks.displacements, view.clip.tokens)
        valid = by_patch(view.tracks.visible, view.clip.tokens)[..., 1:, None]
        moved = displacements.clamp(-self.config.clamp, self.config.clamp)
        values, valid = normalise_displacements(moved, valid, self.config)
        values = torch.where(valid, values, 0)
        return Target(values.flatten(2), valid.expand_as(values).flatten(2))


def normalise_displacements(
    moved: Tensor, valid: Tensor, config: TrajectoryConfig
) -> tuple[Tensor, Tensor]:
    """Bring displacements to a size that a model can predict; only valid ones count.

    `floor` keeps every divisor above the estimator's noise: the z-score of a patch that moves as
    one would be 0 / 0, and noise of 0.001 px would come out as large as motion.

    Args:
        moved: float32 [B, N, K, L, 2] in pixels.
        valid: bool [B, N, K, L, 1].
        config: which normalisation, and its numbers.

    Returns:
        Normalised displacements, and where they are known: a z-score needs two points.
    """
    if config.normalise == "none":
        return moved / config.scale, valid
    moved = torch.where(valid, moved, 0)
    if config.normalise == "patch-std":
        # clamped pixels / scale, then z-scores: the scale cancels but for the floor, which is in px
        count = valid.sum(dim=2, keepdim=True)
        centred = torch.where(valid, moved - moved.sum(dim=2, keepdim=True) / count.clamp(min=1), 0)
        variance = centred.square().sum(dim=2, keepdim=True) / (count - 1).clamp(min=1)
        return centred / variance.sqrt().clamp(min=config.floor), valid & (count > 1)
    if config.normalise == "clip-std":
        # the deviation from standing still: about the mean it would be 0 under a steady camera pan
        count = valid.sum(dim=(1, 2, 3, 4), keepdim=True) * 2
        energy = moved.square().sum(dim=(1, 2, 3, 4), keepdim=True) / count.clamp(min=1)
        return moved / energy.sqrt().clamp(min=config.floor), valid
    travelled = moved.norm(dim=-1, keepdim=True).sum(dim=-2, keepdim=True)
    return moved / travelled.clamp(min=config.floor), valid
