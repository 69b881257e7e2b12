"""Histograms of the directions of vectors in cells: what HOG, HOF and MBH share.

- Gradients are central differences (next − previous, not halved).
- A pixel votes with its vector's length, shared linearly between the two nearest bins (the circle
  is closed), so a histogram changes smoothly with its image.
- A cell's histogram is the mean over its pixels.

On the CPU a compiled path gives the same numbers as the torch operations here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from m3video.motion.descriptor_kernel import cells_compiled
from m3video.motion.trajectory import seed_grid

Binning = Literal["soft", "hard"]

_AT_ONCE = 1 << 18
"""Points that torch's operations look around at a time: with cells of 8 px some 3 GB."""


def is_compiled(planes: Tensor, dtype: torch.dtype) -> bool:
    """Whether the compiled path reads these planes, of which it can read `dtype`."""
    return planes.device.type == "cpu" and planes.dtype == dtype


def grid_compiled(planes: Tensor, cell: int, **how: Any) -> Tensor:
    """Histograms of the cells of planes [..., H, W, C].

    Args:
        planes: uint8 or float32 [..., H, W, C].
        cell: side of a cell in pixels.
        how: what else `cells_compiled` is told.

    Returns:
        float32 [..., H // cell, W // cell, C or 1, bins (+ 1)].
    """
    *lead, height, width, channels = planes.shape
    planes = planes.reshape(-1, height, width, channels)
    centres = seed_grid(height, width, cell)
    frame = torch.arange(len(planes)).repeat_interleave(centres[..., 0].numel())
    points = centres.reshape(-1, 2).repeat(len(planes), 1)
    histograms = at_compiled(planes, frame, points, cell, **how)
    return histograms.reshape(*lead, *centres.shape[:2], *histograms.shape[1:])


def at_compiled(planes: Tensor, frame: Tensor, points: Tensor, cell: int, **how: Any) -> Tensor:
    """Histograms [M, C or 1, bins (+ 1)] of the cell around points of planes [F, H, W, C]."""
    arrays = (tensor.contiguous().numpy() for tensor in (planes, frame, points.float()))
    return torch.from_numpy(cells_compiled(*arrays, cell=cell, **how))


def intensity(images: Tensor) -> Tensor:
    """uint8 scaled to [0, 1]; floating point as it is."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


def gradients(planes: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients in x and y of planes [..., H, W], 0 across the border."""
    gx, gy = torch.zeros_like(planes), torch.zeros_like(planes)
    gx[..., 1:-1] = planes[..., 2:] - planes[..., :-2]
    gy[..., 1:-1, :] = planes[..., 2:, :] - planes[..., :-2, :]
    return gx, gy


def gradients_at(planes: Tensor, frame: Tensor, points: Tensor, cell: int) -> tuple[Tensor, Tensor]:
    """Gradients in x and y around points of planes [F, H, W] → twice [M, cell, cell]."""
    window = windows(planes, frame, points, cell + 2)
    gx = window[:, 1:-1, 2:] - window[:, 1:-1, :-2]
    gy = window[:, 2:, 1:-1] - window[:, :-2, 1:-1]
    return gx, gy


def a_part_at_a_time(frame: Tensor, points: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Points [M, 2] and their frames [M], in parts whose windows fit into memory."""
    return zip(torch.split(frame, _AT_ONCE), torch.split(points, _AT_ONCE), strict=True)


def cell_means(votes: Tensor, cell: int) -> Tensor:
    """Means of votes [..., H, W, bins] over the whole cells → [..., rows, columns, bins]."""
    *lead, height, width, bins = votes.shape
    rows, columns = height // cell, width // cell
    whole = votes[..., : rows * cell, : columns * cell, :]
    return whole.reshape(*lead, rows, cell, columns, cell, bins).mean(dim=(-4, -2))


def cast_votes(
    x: Tensor, y: Tensor, bins: int, *, signed: bool, binning: Binning = "soft"
) -> Tensor:
    """Each pixel's votes [..., bins] for vectors [...]."""
    magnitude = torch.hypot(x, y)[..., None]
    # mirrored into the upper half plane, so that opposite gradients get equal angles exactly
    below = y < 0
    x, y = torch.where(below, -x, x), y.abs()
    if binning == "hard":
        # double: 45° must fall on the right side of an edge
        index = (torch.atan2(y.double(), x.double()) * (bins / math.pi)).long() % bins
        return one_hot(index, bins) * magnitude
    if signed:
        position = (torch.atan2(y, x) + below * math.pi) * (bins / (2 * math.pi))
    else:
        position = torch.atan2(y, x) * (bins / math.pi) - 0.5
    # a bin's share falls linearly with its distance around the circle: no index is ever looked up,
    # so that the compiler can do all of this in one pass
    away = position[..., None] - torch.arange(bins, device=x.device)
    away = (torch.remainder(away + bins / 2, bins) - bins / 2).abs()
    return (1 - away).clamp(min=0) * magnitude


def windows(images: Tensor, frame: Tensor, points: Tensor, side: int) -> Tensor:
    """Sample side × side pixels, one apart, around points [M, 2] bilinearly → [M, side, side]."""
    height, width = images.shape[-2:]
    corner = points - (side - 1) / 2
    whole = corner.floor()
    steps = torch.arange(side + 1, device=points.device)
    x = (whole[:, 0].long()[:, None] + steps).clamp(0, width - 1)
    y = (whole[:, 1].long()[:, None] + steps).clamp(0, height - 1)
    taken = intensity(images[frame[:, None, None], y[:, :, None], x[:, None, :]])
    share_x, share_y = (corner - whole).to(taken)[:, :, None, None].unbind(dim=1)
    across = torch.lerp(taken[:, :, :-1], taken[:, :, 1:], share_x)
    return torch.lerp(across[:, :-1], across[:, 1:], share_y)
