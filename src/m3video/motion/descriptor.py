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

import torch
from torch import Tensor

from m3video.motion.cells import (
    Binning,
    a_part_at_a_time,
    at_compiled,
    cast_votes,
    cell_means,
    gradients,
    gradients_at,
    grid_compiled,
    intensity,
    is_compiled,
)

EPSILON = 0.01
"""Norm below which block normalisation of HOG fades out: that of gradients of a few grey levels in
a patch of four cells. The noise of a flat patch would otherwise be blown up to unit length."""


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
    if is_compiled(images, torch.uint8) and binning == "soft":
        planes = images[..., None]
        return grid_compiled(planes, cell, bins=bins, signed=False, closed=True)[..., 0, :]
    gx, gy = gradients(intensity(images))
    votes = cast_votes(gx, gy, bins, signed=False, binning=binning)
    return cell_means(votes, cell)


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
    if is_compiled(images, torch.uint8):
        planes = images[..., None]
        return at_compiled(planes, frame, points, cell, bins=bins, signed=False)[:, 0]
    parts = [
        cast_votes(*gradients_at(images, *part, cell), bins, signed=False).mean(dim=(1, 2))
        for part in a_part_at_a_time(frame, points)
    ]
    return torch.cat(parts)


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
        histograms: of any shape, not negative.
        dims: those of a block.
        epsilon: length, in the histograms' unit, below which a block fades out.
        clip: cut what is larger and scale again to the length before the cut; 0.2 is L2-Hys
            (Dalal & Triggs, section 6.4). A block that had faded out stays so.
    """
    unit = histograms / (_energy(histograms, dims) + epsilon**2).sqrt()
    if clip is None:
        return unit
    cut = unit.clamp(max=clip)
    length = _energy(unit, dims).sqrt()
    return cut * (length / (_energy(cut, dims) + 1e-10).sqrt())


def _energy(histograms: Tensor, dims: tuple[int, ...]) -> Tensor:
    return histograms.square().sum(dim=dims, keepdim=True)
