"""From tokens to grids: the inverse of `by_patch`, for one clip."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


def on_grid(values: Tensor, tokens: tuple[int, int, int]) -> NDArray[Any]:
    """Undo `by_patch` for one clip: [N, K, ...] → [t, h, w, ...]; K is a square number."""
    time, rows, columns = tokens
    side = round(values.shape[1] ** 0.5)
    split = values.reshape(time, rows, columns, side, side, *values.shape[2:])
    grid = split.transpose(2, 3).reshape(time, rows * side, columns * side, *values.shape[2:])
    return np.asarray(grid.numpy())


def per_seed(patches: NDArray[Any], height: int) -> NDArray[Any]:
    """What holds for patches [t, rows, columns], for each cell of a grid [t, height, w]."""
    side = height // patches.shape[1]
    return patches.repeat(side, axis=1).repeat(side, axis=2)
