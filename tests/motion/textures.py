"""Smooth random textures whose motion is known exactly, for the motion tests."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor


def texture(height: int, width: int, seed: int = 0, smooth: float = 2.0) -> Tensor:
    """A random smooth grey texture, uint8 [H, W]."""
    noise = np.random.default_rng(seed).standard_normal((height, width)).astype(np.float32)
    blurred = cv2.GaussianBlur(noise, (0, 0), smooth)
    return torch.from_numpy(cv2.normalize(blurred, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8))


def panned(
    frames: int, height: int, width: int, velocity: tuple[float, float], seed: int = 0
) -> Tensor:
    """A texture that moves by `velocity` (x, y) pixels a frame, uint8 RGB [S, H, W, 3]."""
    margin = 64
    big = texture(height + 2 * margin, width + 2 * margin, seed).numpy().astype(np.float32)
    out = []
    for time in range(frames):
        # warpAffine with WARP_INVERSE_MAP: output (x, y) reads big at (x, y) + margin − motion
        offset = np.array(
            [[1, 0, margin - velocity[0] * time], [0, 1, margin - velocity[1] * time]], np.float32
        )
        moved = cv2.warpAffine(
            big, offset, (width, height), flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
        )
        out.append(torch.from_numpy(moved.round().clip(0, 255).astype(np.uint8)))
    return torch.stack(out)[..., None].repeat(1, 1, 1, 3)
