"""Mixup and CutMix: two clips, and their labels, become one.

Each sample of a batch is mixed with another one, of the next video; a whole batch shares what is
drawn, as in the fine-tuning recipes of video transformers.

    mixup  (arXiv 1710.09412)  x = λ x_i + (1 − λ) x_j            λ of Beta(α, α)
    CutMix (arXiv 1905.04899)  x = x_i with a box of x_j, in all frames; the box has 1 − λ of the
                               area, and what of it lies outside the frame is given back to λ
    both                       y = λ y_i + (1 − λ) y_j
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Mix:
    """What is done to a batch.

    Attributes:
        share: λ, what is left of a sample.
        box: top, left, bottom and right of what CutMix takes from the other; None: mixup.
    """

    share: float = 1.0
    box: tuple[int, int, int, int] | None = None


def draw_mix(
    size: tuple[int, int],
    *,
    mixup: float,
    cutmix: float,
    cutmix_share: float,
    rng: np.random.Generator,
) -> Mix:
    """Draw how a batch is mixed.

    Args:
        size: height and width of the frames.
        mixup: its α; 0 is off.
        cutmix: its α; 0 is off.
        cutmix_share: chance of CutMix where both are on.
        rng: that of the step.
    """
    if not mixup and not cutmix:
        return Mix()
    cut = bool(cutmix) and (not mixup or rng.random() < cutmix_share)
    alpha = cutmix if cut else mixup
    share = float(rng.beta(alpha, alpha))
    if not cut:
        return Mix(share)
    return cut_box(size, share, rng.random(), rng.random())


def cut_box(size: tuple[int, int], share: float, down: float, across: float) -> Mix:
    """The box of CutMix: `share` is λ, its centre is at `down`, `across` of the frame (0 to 1)."""
    height, width = size
    half = (1 - share) ** 0.5 / 2
    top, bottom = (_inside(height * (down + side * half), height) for side in (-1, 1))
    left, right = (_inside(width * (across + side * half), width) for side in (-1, 1))
    return Mix(1 - (bottom - top) * (right - left) / (height * width), (top, left, bottom, right))


def _inside(place: float, end: int) -> int:
    return min(max(round(place), 0), end)


def mix_clips(clips: Tensor, other: Tensor, mix: Mix) -> Tensor:
    """Mix a batch [B, 3, T, H, W] of normalised clips with others."""
    if mix.share == 1:
        return clips
    if mix.box is None:
        return torch.lerp(other, clips, mix.share)
    top, left, bottom, right = mix.box
    mixed = clips.clone()
    mixed[..., top:bottom, left:right] = other[..., top:bottom, left:right]
    return mixed


def mix_labels(truth: Tensor, other: Tensor, mix: Mix) -> Tensor:
    """Mix the labels of a batch, float [B, C], rows that add up to 1, with those of others."""
    return torch.lerp(other, truth, mix.share)
