"""Histograms of oriented gradients (Dalal & Triggs, CVPR 2005), on a grid and around points.

- Gradients are central differences (next − previous, not halved) of intensities in [0, 1].
- Orientations are unsigned: bin i of n is centred at (i + ½) · 180° / n; 0° is a gradient along x.
- A pixel votes with its gradient's magnitude, shared linearly between the two nearest bins (the
  circle is closed), so a histogram changes smoothly with the image.
- A cell's histogram is the mean over its pixels: with `binning="hard"` the numbers of
  `skimage.feature.hog` before its block normalisation.

uint8 images on the CPU take a compiled path with the same numbers; everything else is torch.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from m3video.motion.descriptor_kernel import hog_at_compiled, hog_grid_compiled

Binning = Literal["soft", "hard"]

EPSILON = 0.01
"""Norm below which block normalisation fades out: that of gradients of a few grey levels in a patch
of four cells. The noise of a flat patch would otherwise be blown up to unit length."""


def hog_grid(images: Tensor, *, bins: int = 9, cell: int = 8, binning: Binning = "soft") -> Tensor:
    """HOG of the cells that images are divided into; the gradient across an image border is 0.

    Args:
        images: uint8, or float32 in [0, 1], [..., H, W].
        bins: orientations over 180°.
        cell: side of a cell in pixels; an incomplete cell at the right or bottom is left out.
        binning: "soft", or "hard" for all of a vote to the bin that the angle falls in.

    Returns:
        float32 [..., H // cell, W // cell, bins].
    """
    *lead, height, width = images.shape
    rows, columns = height // cell, width // cell
    if images.dtype == torch.uint8 and images.device.type == "cpu" and binning == "soft":
        planes = images.reshape(-1, height, width).contiguous().numpy()
        compiled = torch.from_numpy(hog_grid_compiled(planes, bins, cell))
        return compiled.reshape(*lead, rows, columns, bins)
    intensity = _intensity(images)
    gx, gy = torch.zeros_like(intensity), torch.zeros_like(intensity)
    gx[..., 1:-1] = intensity[..., 2:] - intensity[..., :-2]
    gy[..., 1:-1, :] = intensity[..., 2:, :] - intensity[..., :-2, :]
    votes = _votes(gx, gy, bins, binning)[..., : rows * cell, : columns * cell, :]
    return votes.reshape(*lead, rows, cell, columns, cell, bins).mean(dim=(-4, -2))


def hog_at(
    images: Tensor, frame: Tensor, points: Tensor, *, bins: int = 9, cell: int = 8
) -> Tensor:
    """HOG of the cell that is centred at each (sub-pixel) point.

    The cell and a margin of one pixel are sampled bilinearly, with the same fraction of a pixel
    throughout; outside the image its border continues. At the centre of a cell of the grid that
    does not touch the border the numbers are those of `hog_grid`.

    Args:
        images: uint8, or float32 in [0, 1], [F, H, W].
        frame: int64 [M], which image a point is in.
        points: float32 [M, 2], (x, y) in pixels, pixel centres at integers.
        bins: orientations over 180°.
        cell: side of the cell in pixels.

    Returns:
        float32 [M, bins].
    """
    if images.dtype == torch.uint8 and images.device.type == "cpu":
        arrays = (
            images.contiguous().numpy(),
            frame.contiguous().numpy(),
            points.contiguous().numpy(),
        )
        return torch.from_numpy(hog_at_compiled(*arrays, bins, cell))
    window = _windows(images, frame, points, cell + 2)
    gx = window[:, 1:-1, 2:] - window[:, 1:-1, :-2]
    gy = window[:, 2:, 1:-1] - window[:, :-2, 1:-1]
    return _votes(gx, gy, bins, "soft").mean(dim=(1, 2))


def block_normalise(
    histograms: Tensor,
    dims: tuple[int, ...],
    *,
    epsilon: float = EPSILON,
    clip: float | None = None,
) -> Tensor:
    """Scale histograms so that those along `dims`, together, have unit length (L2).

    MaskFeat (arXiv 2112.09133, section 3) and Dalal & Triggs normalise by the neighbourhood, which
    takes contrast out of the target. The result lies in [0, 1].

    Args:
        histograms: any shape.
        dims: the block.
        epsilon: norm below which the result fades out.
        clip: clip at this value and normalise again (0.2 is L2-Hys).
    """
    energy = histograms.square().sum(dim=dims, keepdim=True)
    scaled = histograms / (energy + epsilon**2).sqrt()
    if clip is None:
        return scaled
    return block_normalise(scaled.clamp(max=clip), dims, epsilon=epsilon)


def _intensity(images: Tensor) -> Tensor:
    return images.float() / 255 if images.dtype == torch.uint8 else images


def _votes(gx: Tensor, gy: Tensor, bins: int, binning: Binning) -> Tensor:
    """Each pixel's votes [..., bins] for gradients [...]."""
    magnitude = torch.hypot(gx, gy)[..., None]
    # mirrored into the upper half plane, so that opposite gradients get equal angles exactly
    x, y = torch.where(gy < 0, -gx, gx), gy.abs()
    if binning == "hard":
        # double: 45° must fall on the right side of an edge
        index = (torch.atan2(y.double(), x.double()) * (bins / math.pi)).long() % bins
        return one_hot(index, bins) * magnitude
    position = torch.atan2(y, x) * (bins / math.pi) - 0.5
    lower = position.floor()
    share = (position - lower)[..., None]
    first = one_hot(lower.long() % bins, bins)
    second = one_hot((lower.long() + 1) % bins, bins)
    return (first * (1 - share) + second * share) * magnitude


def _windows(images: Tensor, frame: Tensor, points: Tensor, side: int) -> Tensor:
    """Sample side × side pixels, one apart, around points [M, 2] bilinearly → [M, side, side]."""
    height, width = images.shape[-2:]
    corner = points - (side - 1) / 2
    whole = corner.floor()
    share_x, share_y = (corner - whole)[:, :, None, None].unbind(dim=1)
    steps = torch.arange(side + 1, device=points.device)
    x = (whole[:, 0].long()[:, None] + steps).clamp(0, width - 1)
    y = (whole[:, 1].long()[:, None] + steps).clamp(0, height - 1)
    taken = _intensity(images[frame[:, None, None], y[:, :, None], x[:, None, :]])
    across = torch.lerp(taken[:, :, :-1], taken[:, :, 1:], share_x)
    return torch.lerp(across[:, :-1], across[:, 1:], share_y)
