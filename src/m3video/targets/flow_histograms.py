"""The HOF and MBH targets: how the cells of a patch move, as in dense trajectories.

Wang et al., IJCV 2013, section 4.2: directions of flow (HOF), and orientations of the boundaries
where flow changes (MBH), of which a steady motion of the camera leaves nothing.
"""

from __future__ import annotations

from torch import Tensor

from m3video.config import PretrainConfig
from m3video.config.targets import CellSettings
from m3video.motion.flow_descriptor import FLOW_EPSILON, hof_at, hof_grid, mbh_at, mbh_grid
from m3video.targets.base import ClipView, Target, by_patch, normalise_cells


class HofTarget:
    """HOF of the cells of a patch, from its tubelet's first frame one step on.

    The D = (patch / cell)² · (bins + 1) numbers are ordered (cell row, cell column, bin), the bin
    for what stands still last.
    """

    def __init__(self, config: PretrainConfig) -> None:
        self.config = config.targets.hof
        self.dim = (config.clip.patch // self.config.cell) ** 2 * (self.config.bins + 1)

    def __call__(self, view: ClipView) -> Target:
        """Unknown where the next row repeats the video's last frame."""
        settings = self.config
        values = hof_grid(
            view.first_flow, bins=settings.bins, cell=settings.cell, still=settings.still
        )
        return _on_grid(values, view, settings)


class MbhTarget:
    """MBH of the cells of a patch, from its tubelet's first frame one step on.

    The D = (patch / cell)² · 2 · bins numbers are ordered (cell row, cell column, axis, bin), the
    boundaries of flow in x before those of flow in y.
    """

    def __init__(self, config: PretrainConfig) -> None:
        self.config = config.targets.mbh
        self.dim = (config.clip.patch // self.config.cell) ** 2 * 2 * self.config.bins

    def __call__(self, view: ClipView) -> Target:
        """Unknown where the next row repeats the video's last frame."""
        settings = self.config
        return _on_grid(
            mbh_grid(view.first_flow, bins=settings.bins, cell=settings.cell), view, settings
        )


def _on_grid(histograms: Tensor, view: ClipView, settings: CellSettings) -> Target:
    """Histograms [B, T / tubelet, h, w, …] of cells as the target of tokens."""
    values = by_patch(histograms, view.clip.tokens)
    dims = tuple(range(2, values.dim()))
    values = normalise_cells(values, dims, settings.normalise, epsilon=FLOW_EPSILON)
    valid = view.first_valid[..., None]
    return Target(values.flatten(2).masked_fill(~valid, 0), valid)


class TrajectoryHofTarget:
    """HOF of the cell around each of the first L points of K trajectories.

    The D = K · L · (bins + 1) numbers are ordered (point, step, bin). Those of step l are valid if
    the point is visible then and after it.
    """

    def __init__(self, config: PretrainConfig) -> None:
        self.config = config.targets.trajectory_hof
        self.dim = config.motion.seeds * config.motion.length * (self.config.bins + 1)

    def __call__(self, view: ClipView) -> Target:
        """Look at the flow around the points, at the time they are there."""
        settings = self.config
        flow, frame, points = _windows(view)
        values = hof_at(
            flow, frame, points, bins=settings.bins, cell=settings.cell, still=settings.still
        )
        return _along(values, view, settings)


class TrajectoryMbhTarget:
    """MBH of the cell around each of the first L points of K trajectories.

    The D = K · L · 2 · bins numbers are ordered (point, step, axis, bin). Those of step l are valid
    if the point is visible then and after it.
    """

    def __init__(self, config: PretrainConfig) -> None:
        self.config = config.targets.trajectory_mbh
        self.dim = config.motion.seeds * config.motion.length * 2 * self.config.bins

    def __call__(self, view: ClipView) -> Target:
        """Look at the flow around the points, at the time they are there."""
        settings = self.config
        values = mbh_at(*_windows(view), bins=settings.bins, cell=settings.cell)
        return _along(values, view, settings)


def _windows(view: ClipView) -> tuple[Tensor, Tensor, Tensor]:
    """Flow [F, 2, H, W], which field each of M points is in, and the points [M, 2]."""
    points, frame = view.points_in(view.plan.pairs)
    return view.fields.relative.flatten(0, 1), frame.flatten(), points.flatten(0, -2)


def _along(histograms: Tensor, view: ClipView, settings: CellSettings) -> Target:
    """Histograms [M, …] of points as the target of tokens."""
    visible = by_patch(view.tracks.visible, view.clip.tokens)[..., 1:]
    values = histograms.reshape(*visible.shape, -1)
    values = values.masked_fill(~visible[..., None], 0)
    values = normalise_cells(values, (2, 4), settings.normalise, epsilon=FLOW_EPSILON)
    return Target(values.flatten(2), visible[..., None].expand_as(values).flatten(2))
