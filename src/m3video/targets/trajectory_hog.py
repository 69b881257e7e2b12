"""The trajectory-HOG target: what a patch's points carry (Masked Motion Encoding's *shape*)."""

from __future__ import annotations

import torch

from m3video.config import PretrainConfig
from m3video.motion.descriptor import hog_at
from m3video.targets.base import ClipView, Target, by_patch, normalise_cells


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
        settings, channels = self.config, self.channels
        planes = view.frames.movedim(-1, 2) if channels == 3 else view.grey[:, :, None]
        points, frame = view.points_in(tuple(range(planes.shape[1])))
        plane = frame[..., None] * channels + torch.arange(channels, device=frame.device)
        histograms = hog_at(
            planes.flatten(0, 2),
            plane.flatten(),
            points[..., None, :].expand(*plane.shape, 2).reshape(-1, 2),
            bins=settings.bins,
            cell=settings.cell,
        )
        values = histograms.reshape(*plane.shape, settings.bins)
        visible = by_patch(view.tracks.visible[..., :-1], view.clip.tokens)[..., None, None]
        values = torch.where(visible, values, 0)
        values = normalise_cells(values, (-4, -2, -1), settings.normalise)
        return Target(values.flatten(2), visible.expand_as(values).flatten(2))
