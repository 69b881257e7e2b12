"""The trajectory-HOG target: what a patch's points carry (Masked Motion Encoding's *shape*)."""

from __future__ import annotations

import torch
from torch import Tensor

from m3video.config import PretrainConfig
from m3video.motion.descriptor import block_normalise, hog_at
from m3video.targets.base import ClipView, Target, by_patch


class TrajectoryHogTarget:
    """HOG of the cell around each of the first L points of K trajectories (arXiv 2210.06096, 3.2).

    The D = K · L · channels · bins numbers are ordered (point, step, channel, bin), points row by
    row. Those of step l are valid if the point is visible then; `block` normalises the valid points
    of a step together.
    """

    def __init__(self, config: PretrainConfig) -> None:
        self.config = config.targets.trajectory_hog
        self.channels = 3 if self.config.colour == "rgb" else 1
        self.dim = config.motion.seeds * config.motion.length * self.channels * self.config.bins

    def __call__(self, view: ClipView) -> Target:
        """Look only at the cells that points are in, at the time they are there."""
        length = view.plan.length
        points = by_patch(view.tracks.points[..., :length, :], view.clip.tokens)
        visible = by_patch(view.tracks.visible[..., :length], view.clip.tokens)[..., None, None]
        planes, frame = self._planes(view, points)
        histograms = hog_at(
            planes.flatten(0, 2),
            frame.flatten(),
            points[..., None, :].expand(*frame.shape, 2).reshape(-1, 2),
            bins=self.config.bins,
            cell=self.config.cell,
        )
        values = histograms.reshape(*frame.shape, self.config.bins)
        values = torch.where(visible, values, 0)
        if self.config.normalise == "block":
            values = block_normalise(values, (-4, -2, -1))
        return Target(values.flatten(2), visible.expand_as(values).flatten(2))

    def _planes(self, view: ClipView, points: Tensor) -> tuple[Tensor, Tensor]:
        """Planes [B, R, channels, H, W], and which of them [B, N, K, L, channels] points are in."""
        if self.config.colour == "rgb":
            planes = view.frames.movedim(-1, 2)
        else:
            planes = view.grey[:, :, None]
        batch, rows = planes.shape[:2]
        _, down, across = view.clip.tokens
        starts = torch.tensor(view.plan.starts).repeat_interleave(down * across)
        row = starts[:, None] + torch.arange(view.plan.length)
        image = torch.arange(batch)[:, None, None] * rows + row
        plane = image[:, :, None, :, None] * self.channels + torch.arange(self.channels)
        frame = plane.expand(*points.shape[:-1], self.channels)
        return planes, frame.to(points.device)
