"""The pixel target: the frames of the tubelet themselves (VideoMAE, arXiv 2203.12602, 3.1)."""

from __future__ import annotations

import torch

from m3video.config import PretrainConfig
from m3video.targets.base import ClipView, Target
from m3video.video.sampling import row_index


class PixelTarget:
    """Intensities in [0, 1]; with `normalise` z-scores over a token's pixels, for each channel.

    The D = tubelet · patch² · 3 numbers are ordered (frame, row, column, channel).
    """

    def __init__(self, config: PretrainConfig) -> None:
        self.normalise = config.targets.pixel.normalise
        self.tubelet, self.patch = config.clip.tubelet, config.clip.patch
        self.dim = self.tubelet * self.patch**2 * 3

    def __call__(self, view: ClipView) -> Target:
        """Always valid: a repeated last frame is what the encoder sees, too."""
        time, rows, columns = view.clip.tokens
        frames = view.frames.index_select(1, row_index(view.plan.inputs, view.frames.device))
        batch = len(frames)
        split = frames.reshape(
            batch, time, self.tubelet, rows, self.patch, columns, self.patch, 3
        ).permute(0, 1, 3, 5, 2, 4, 6, 7)
        values = split.reshape(batch, time * rows * columns, -1, 3).float() / 255
        if self.normalise:
            variance, mean = torch.var_mean(values, dim=-2, keepdim=True)
            values = (values - mean) / (variance.sqrt() + 1e-6)
        valid = torch.ones(*values.shape[:2], 1, dtype=torch.bool, device=values.device)
        return Target(values.flatten(2), valid)
