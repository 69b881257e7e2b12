"""The flow target: where the pixels of a patch go next."""

from __future__ import annotations

from torch.nn.functional import avg_pool2d

from m3video.config import PretrainConfig
from m3video.targets.base import ClipView, Target, by_patch


class FlowTarget:
    """Mean flow of the cells of a patch, from its tubelet's first frame one step on.

    The D = (patch / cell)² · 2 numbers are ordered (cell row, cell column, axis), x before y.
    """

    def __init__(self, config: PretrainConfig) -> None:
        self.config = config.targets.flow
        self.dim = (config.clip.patch // self.config.cell) ** 2 * 2

    def __call__(self, view: ClipView) -> Target:
        """Clamp, down-sample, scale; unknown where the next row repeats the video's last frame."""
        moved = view.first_flow.clamp(-self.config.clamp, self.config.clamp)
        cells = avg_pool2d(moved.flatten(0, 1), self.config.cell).movedim(1, -1)
        grid = cells.reshape(*moved.shape[:2], *cells.shape[1:])
        values = by_patch(grid, view.clip.tokens).flatten(2) / self.config.scale
        valid = view.first_valid[..., None]
        return Target(values.masked_fill(~valid, 0), valid)
