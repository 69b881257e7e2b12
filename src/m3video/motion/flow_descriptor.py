"""Histograms of optical flow (HOF) and of motion boundaries (MBH), on a grid and around points.

As in dense trajectories (Wang et al., IJCV 2013): HOF counts the directions of flow, with one more
bin for what stands still; MBH the orientations of the gradients of each component of flow.

- Directions are signed, over 360°: bin i of n is centred at i · 360° / n, from right (bin 0) over
  down and left to up. Each of these four, along which cameras pan, has a bin of its own if 4
  divides n.
- Gradients, shares of votes and means over cells are those of HOG; all numbers are in pixels.

float32 flow on the CPU takes a compiled path with the same numbers; everything else is torch.
Channel-last memory, which OpenCV's estimators give, is read as it is; other flow is copied.
"""

from __future__ import annotations

import torch
from torch import Tensor

from m3video.motion.cells import (
    a_part_at_a_time,
    at_compiled,
    cast_votes,
    cell_means,
    gradients,
    gradients_at,
    grid_compiled,
    is_compiled,
    windows,
)

FLOW_EPSILON = 0.05
"""Norm below which block normalisation of HOF and MBH fades out, in pixels. Noise of 2 grey levels
in frames at rest gives DIS fast flow whose MBH in a patch of four cells has length 0.007 (median);
around moving people it is 0.1 and more."""


def hof_grid(flow: Tensor, *, bins: int = 8, cell: int = 8, still: float = 0.4) -> Tensor:
    """Histograms of optical flow of the cells that flow fields are divided into.

    A pixel of speed v < `still` votes with `still` − v for the last bin and with v² / `still` for
    its direction, a faster one with v for its direction alone. So both kinds of votes are in
    pixels, noise below `still` hardly shows, and nothing jumps when a speed passes `still`. (Dense
    trajectories' code counts pixels below 0.4 in a bin of its own, with a threshold.)

    Args:
        flow: float32 [..., 2, H, W] in pixels.
        bins: directions over 360°.
        cell: side of a cell in pixels; an incomplete cell at the right or bottom is left out.
        still: > 0, in pixels.

    Returns:
        float32 [..., H // cell, W // cell, bins + 1].
    """
    if is_compiled(flow, torch.float32):
        how = {"bins": bins, "signed": True, "differentiate": False, "still": still}
        return grid_compiled(flow.movedim(-3, -1), cell, **how)[..., 0, :]
    x, y = flow.unbind(-3)
    return cell_means(_flow_votes(x, y, bins, still), cell)


def hof_at(
    flow: Tensor,
    frame: Tensor,
    points: Tensor,
    *,
    bins: int = 8,
    cell: int = 8,
    still: float = 0.4,
) -> Tensor:
    """Histogram of optical flow of the cell that is centred at each (sub-pixel) point.

    Flow is sampled bilinearly; outside the field its border continues. At the centre of a cell of
    the grid the numbers are those of `hof_grid`.

    Args:
        flow: float32 [F, 2, H, W] in pixels.
        frame: int64 [M], which field a point is in.
        points: float32 [M, 2], (x, y) in pixels, pixel centres at integers.
        bins: directions over 360°.
        cell: side of the cell in pixels.
        still: as in `hof_grid`.

    Returns:
        float32 [M, bins + 1].
    """
    if is_compiled(flow, torch.float32):
        how = {"bins": bins, "signed": True, "differentiate": False, "still": still}
        return at_compiled(flow.movedim(-3, -1), frame, points, cell, **how)[:, 0]
    parts = []
    for part in a_part_at_a_time(frame, points):
        x, y = (windows(component, *part, cell) for component in flow.unbind(1))
        parts.append(_flow_votes(x, y, bins, still).mean(dim=(1, 2)))
    return torch.cat(parts)


def mbh_grid(flow: Tensor, *, bins: int = 8, cell: int = 8) -> Tensor:
    """Motion boundary histograms of the cells that flow fields are divided into.

    Motion that is the same everywhere, as of a camera that pans, has none. The gradient across
    the border is 0.

    Args:
        flow: float32 [..., 2, H, W] in pixels.
        bins: orientations over 360°.
        cell: side of a cell in pixels; an incomplete cell at the right or bottom is left out.

    Returns:
        float32 [..., H // cell, W // cell, 2, bins]: of the x and of the y component.
    """
    if is_compiled(flow, torch.float32):
        return grid_compiled(flow.movedim(-3, -1), cell, bins=bins, signed=True, closed=True)
    return cell_means(cast_votes(*gradients(flow), bins, signed=True), cell).movedim(-4, -2)


def mbh_at(flow: Tensor, frame: Tensor, points: Tensor, *, bins: int = 8, cell: int = 8) -> Tensor:
    """Motion boundary histograms of the cell that is centred at each (sub-pixel) point.

    Sampled as in `hog_at`.

    Args:
        flow: float32 [F, 2, H, W] in pixels.
        frame: int64 [M], which field a point is in.
        points: float32 [M, 2], (x, y) in pixels, pixel centres at integers.
        bins: orientations over 360°.
        cell: side of the cell in pixels.

    Returns:
        float32 [M, 2, bins]: of the x and of the y component.
    """
    if is_compiled(flow, torch.float32):
        return at_compiled(flow.movedim(-3, -1), frame, points, cell, bins=bins, signed=True)
    parts = []
    for part in a_part_at_a_time(frame, points):
        around = (gradients_at(component, *part, cell) for component in flow.unbind(1))
        votes = [cast_votes(*each, bins, signed=True).mean(dim=(1, 2)) for each in around]
        parts.append(torch.stack(votes, dim=1))
    return torch.cat(parts)


def _flow_votes(x: Tensor, y: Tensor, bins: int, still: float) -> Tensor:
    """Each pixel's votes [..., bins + 1] for flow (x, y): directions, then standing still."""
    speed = torch.hypot(x, y)[..., None]
    moving = cast_votes(x, y, bins, signed=True) * (speed / still).clamp(max=1)
    return torch.cat([moving, (still - speed).clamp(min=0)], dim=-1)
