"""Random erasing (arXiv 1708.04896): a box of a clip is replaced by noise, in all its frames.

The box is drawn with the sample; the noise is drawn where the clip is normalised.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

SHARES = (0.02, 1 / 3)
"""Smallest and largest area, as a share of the frame."""
ASPECTS = (0.3, 1 / 0.3)
"""Smallest and largest height over width; drawn evenly in its logarithm."""
ATTEMPTS = 10
"""How often a box is drawn until one fits the frame."""


def draw_box(size: tuple[int, int], chance: float, generator: torch.Generator) -> Tensor:
    """Draw what is erased: int64 [4], top, left, height and width in pixels; zeros for nothing.

    Args:
        size: height and width of the frame.
        chance: that anything is.
        generator: that of the sample.
    """
    height, width = size
    nothing = torch.zeros(4, dtype=torch.int64)
    if float(torch.rand((), generator=generator)) >= chance:
        return nothing
    for _ in range(ATTEMPTS):
        draw, aspect = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        area = (SHARES[0] + draw * (SHARES[1] - SHARES[0])) * height * width
        low, high = (math.log(value) for value in ASPECTS)
        ratio = math.exp(low + aspect * (high - low))
        rows, columns = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < rows < height and 0 < columns < width:
            top = int(torch.randint(height - rows + 1, (), generator=generator))
            left = int(torch.randint(width - columns + 1, (), generator=generator))
            return torch.tensor([top, left, rows, columns])
    return nothing


def erase(clips: Tensor, boxes: list[list[int]], seeds: list[int]) -> None:
    """Replace boxes by noise of mean 0 and deviation 1, in place.

    Args:
        clips: float [B, 3, T, H, W], normalised.
        boxes: B of `draw_box`.
        seeds: of the noise of each clip.
    """
    generator = torch.Generator(clips.device)
    for clip, (top, left, rows, columns), seed in zip(clips, boxes, seeds, strict=True):
        if rows:
            box = clip[:, :, top : top + rows, left : left + columns]
            noise = torch.empty(box.shape, dtype=box.dtype, device=box.device)
            box.copy_(noise.normal_(generator=generator.manual_seed(seed)))
