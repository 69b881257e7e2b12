"""The grid-HOG target: what the patch looks like, in edges (MaskFeat, arXiv 2112.09133)."""

from __future__ import annotations

import torch

from m3video.config import PretrainConfig
from m3video.motion.descriptor import hog_grid
from m3video.targets.base import ClipView, Target, by_patch, normalise_cells
from m3video.video.sampling import row_index


class HogTarget:
    """HOG of the cells of a patch in its tubelet's first frame; no other frame is looked at.

    The D = channels · (patch / cell)² · bins numbers are ordered (channel, cell row, cell column,
    bin); `block` normalises them together.
    """

    def __init__(self, config: PretrainConfig) -> None:
        self.config = config.targets.hog
        self.channels = 3 if self.config.colour == "rgb" else 1
        cells = (config.clip.patch // self.config.cell) ** 2
        self.dim = self.channels * cells * self.config.bins

    def __call__(self, view: ClipView) -> Target:
        """Always valid: a tubelet's first frame is what the encoder sees, repeated or not."""
        starts = row_index(view.plan.starts, view.frames.device)
        if self.config.colour == "rgb":
            images = view.frames.index_select(1, starts).movedim(-1, 1)
        else:
            images = view.grey.index_select(1, starts)[:, None]
        histograms = hog_grid(images, bins=self.config.bins, cell=self.config.cell)
        values = by_patch(histograms.movedim(1, -2), view.clip.tokens).transpose(-3, -2)
        values = normalise_cells(values, (-3, -2, -1), self.config.normalise)
        valid = torch.ones(*values.shape[:2], 1, dtype=torch.bool, device=values.device)
        return Target(values.flatten(2), valid)
