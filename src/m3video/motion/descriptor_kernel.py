"""Compiled HOG for the CPU: the numbers of `descriptor`'s torch functions, no dense intermediates.

Each cell is read, differentiated and voted in small buffers that stay in the first cache. The two
loops that take the time (interpolation, angle) are free of branches, so that they are vectorised.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

_SCALE = np.float32(1 / 255)
_QUARTER = np.float32(np.pi / 2)
_HALF = np.float32(np.pi)


def _compiled(function: Callable[..., None]) -> Any:
    """Compile a function; keep the machine code on disk where a folder can be written."""
    options: dict[str, Any] = {"nogil": True, "fastmath": {"contract"}, "error_model": "numpy"}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # neither the package's folder nor the user's cache can be written
        return njit(**options)(function)


@_compiled
def _orient(gx: Any, gy: Any, scale: Any, magnitude: Any, position: Any) -> None:
    """Magnitude of each gradient, and its unsigned angle in bins (`scale` = bins / π)."""
    for i in range(gx.shape[0]):
        x = gx[i]
        y = gy[i]
        magnitude[i] = np.sqrt(x * x + y * y)
        x = -x if y < 0 else x
        across = abs(x)
        up = abs(y)
        large = max(across, up)
        ratio = min(across, up) / (large if large > 0 else np.float32(1))
        t = ratio * ratio
        # arctan on [0, 1]: Abramowitz & Stegun 4.4.49, error below 2e-8
        series = np.float32(0.0028662257)
        series = series * t - np.float32(0.0161657367)
        series = series * t + np.float32(0.0429096138)
        series = series * t - np.float32(0.0752896400)
        series = series * t + np.float32(0.1065626393)
        series = series * t - np.float32(0.1420889944)
        series = series * t + np.float32(0.1999355085)
        series = series * t - np.float32(0.3333314528)
        angle = ratio + ratio * t * series
        angle = _QUARTER - angle if up > across else angle
        angle = _HALF - angle if x < 0 else angle
        position[i] = angle * scale + np.float32(0.5)


@_compiled
def _vote(magnitude: Any, position: Any, votes: Any) -> None:
    """Share each magnitude between the two nearest bins; entry b + 1 of `votes` is bin b."""
    last = votes.shape[0] - 2
    for i in range(magnitude.shape[0]):
        lower = min(np.int32(position[i]), last)
        share = (position[i] - np.float32(lower)) * magnitude[i]
        votes[lower] += magnitude[i] - share
        votes[lower + 1] += share


@_compiled
def _fold(votes: Any, factor: Any, out: Any) -> None:
    """Close the circle (0° is 180°), scale, and clear the votes."""
    bins = out.shape[0]
    votes[bins] += votes[0]
    votes[1] += votes[bins + 1]
    for b in range(bins):
        out[b] = votes[b + 1] * factor
    votes[:] = 0


@_compiled
def grid_kernel(images: Any, cell: int, out: Any) -> None:
    """Fill `out` [F, rows, columns, bins] with the HOG of the cells of uint8 images [F, H, W]."""
    frames, height, width = images.shape
    rows, columns, bins = out.shape[1:]
    factor = _SCALE / np.float32(cell * cell)
    scale = np.float32(bins / np.pi)
    gx = np.zeros(width, np.float32)
    gy = np.zeros(width, np.float32)
    magnitude = np.empty(width, np.float32)
    position = np.empty(width, np.float32)
    votes = np.zeros((columns, bins + 2), np.float32)
    for f in range(frames):
        for row in range(rows):
            for y in range(row * cell, (row + 1) * cell):
                line = images[f, y]
                for x in range(1, width - 1):
                    gx[x] = np.float32(line[x + 1]) - np.float32(line[x - 1])
                if 0 < y < height - 1:
                    above, below = images[f, y - 1], images[f, y + 1]
                    for x in range(width):
                        gy[x] = np.float32(below[x]) - np.float32(above[x])
                else:
                    gy[:] = 0
                _orient(gx, gy, scale, magnitude, position)
                for column in range(columns):
                    inside = slice(column * cell, (column + 1) * cell)
                    _vote(magnitude[inside], position[inside], votes[column])
            for column in range(columns):
                _fold(votes[column], factor, out[f, row, column])


@_compiled
def _cut(image: Any, x0: int, y0: int, patch: Any) -> None:
    """Fill `patch` with the pixels from (x0, y0) on; outside the image its border continues."""
    height, width = image.shape
    side = patch.shape[0]
    if x0 >= 0 and y0 >= 0 and x0 + side <= width and y0 + side <= height:
        for j in range(side):
            line = image[y0 + j, x0 : x0 + side]
            for i in range(side):
                patch[j, i] = line[i]
        return
    for j in range(side):
        line = image[min(max(y0 + j, 0), height - 1)]
        for i in range(side):
            patch[j, i] = line[min(max(x0 + i, 0), width - 1)]


@_compiled
def points_kernel(images: Any, frame: Any, points: Any, cell: int, out: Any) -> None:
    """Fill `out` [M, bins] with the HOG of the cell around each point.

    images uint8 [F, H, W]; frame int64 [M]: which image; points float32 [M, 2] (x, y).
    """
    bins = out.shape[1]
    side = cell + 2
    factor = _SCALE / np.float32(cell * cell)
    scale = np.float32(bins / np.pi)
    corner = np.float32((cell + 1) / 2)
    patch = np.empty((side + 1, side + 1), np.float32)
    blended = np.empty((side + 1, side), np.float32)
    window = np.empty((side, side), np.float32)
    gx = np.empty(cell * cell, np.float32)
    gy = np.empty(cell * cell, np.float32)
    magnitude = np.empty(cell * cell, np.float32)
    position = np.empty(cell * cell, np.float32)
    votes = np.zeros(bins + 2, np.float32)
    for m in range(points.shape[0]):
        left = points[m, 0] - corner
        top = points[m, 1] - corner
        x0 = int(np.floor(left))
        y0 = int(np.floor(top))
        right_share = left - np.float32(x0)
        lower_share = top - np.float32(y0)
        _cut(images[frame[m]], x0, y0, patch)
        for j in range(side + 1):
            for i in range(side):
                blended[j, i] = patch[j, i] + right_share * (patch[j, i + 1] - patch[j, i])
        for j in range(side):
            for i in range(side):
                window[j, i] = blended[j, i] + lower_share * (blended[j + 1, i] - blended[j, i])
        for j in range(cell):
            for i in range(cell):
                gx[j * cell + i] = window[j + 1, i + 2] - window[j + 1, i]
                gy[j * cell + i] = window[j + 2, i + 1] - window[j, i + 1]
        _orient(gx, gy, scale, magnitude, position)
        _vote(magnitude, position, votes)
        _fold(votes, factor, out[m])


def hog_grid_compiled(images: NDArray[np.uint8], bins: int, cell: int) -> NDArray[np.float32]:
    """HOG of all whole cells of uint8 images [F, H, W] → [F, H // cell, W // cell, bins]."""
    frames, height, width = images.shape
    out = np.empty((frames, height // cell, width // cell, bins), np.float32)
    grid_kernel(images, cell, out)
    return out


def hog_at_compiled(
    images: NDArray[np.uint8],
    frame: NDArray[np.int64],
    points: NDArray[np.float32],
    bins: int,
    cell: int,
) -> NDArray[np.float32]:
    """HOG of the cell around points [M, 2] of uint8 images [F, H, W] → [M, bins]."""
    out = np.empty((len(points), bins), np.float32)
    points_kernel(images, frame, points, cell, out)
    return out
