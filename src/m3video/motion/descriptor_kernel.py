"""Compiled histograms for the CPU: the numbers of `descriptor`'s torch functions.

The cell around a point is sampled, oriented and voted in small buffers that stay in the first
cache. All loops are free of branches and scatters, so that they are vectorised: a bin is one pass
over the cell's pixels, each with its share of that bin. Pixels are addressed by unsigned indices
without slicing: a slice counts references and a signed index may wrap, and both cost more than the
arithmetic.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from m3video.compiled import compiled

_HALF_TURN = np.float32(np.pi)
_QUARTER_TURN = np.float32(np.pi / 2)


@compiled
def _orient(x: Any, y: Any, bins: int, signed: bool, magnitude: Any, position: Any) -> None:
    """Magnitude of each vector, and its angle in bins; position b + 1 is the centre of bin b."""
    scale = np.float32(bins / (2 * np.pi if signed else np.pi))
    below = _HALF_TURN if signed else np.float32(0)
    centre = np.float32(1 if signed else 0.5)
    for i in range(x.shape[0]):
        down = y[i]
        right = -x[i] if down < 0 else x[i]
        magnitude[i] = np.sqrt(right * right + down * down)
        across = abs(right)
        up = abs(down)
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
        angle = _QUARTER_TURN - angle if up > across else angle
        angle = _HALF_TURN - angle if right < 0 else angle
        angle = angle + below if down < 0 else angle
        position[i] = angle * scale + centre


@compiled
def _stand_still(magnitude: Any, still: Any) -> Any:
    """Take the pixels' votes for standing still out of the magnitudes; the sum of those votes."""
    votes = np.float32(0)
    for i in range(magnitude.shape[0]):
        length = magnitude[i]
        votes += max(still - length, np.float32(0))
        magnitude[i] = length * min(length / still, np.float32(1))
    return votes


@compiled
def _vote(magnitude: Any, position: Any, votes: Any) -> None:
    """Share each magnitude between the two nearest bins; entry b + 1 of `votes` is bin b."""
    for b in range(votes.shape[0]):
        centre = np.float32(b)
        total = np.float32(0)
        for i in range(magnitude.shape[0]):
            share = max(np.float32(1) - abs(position[i] - centre), np.float32(0))
            total += share * magnitude[i]
        votes[b] = total
    # close the circle
    votes[-2] += votes[0]
    votes[1] += votes[-1]


@compiled
def _cut(planes: Any, step: int, f: int, x0: int, y0: int, columns: Any, patch: Any) -> None:
    """Fill `patch` [1, side, side · step] from pixel (x0, y0) on; the image's border continues.

    `columns` [side · step] is scratch: where in a row of `planes` a row of the patch comes from.
    """
    height, width = planes.shape[1], planes.shape[2] // step
    side = patch.shape[1]
    for i in range(side):
        for channel in range(step):
            columns[i * step + channel] = min(max(x0 + i, 0), width - 1) * step + channel
    plane = np.uintp(f)
    for j in range(side):
        y = np.uintp(min(max(y0 + j, 0), height - 1))
        for i in range(side * step):
            patch[0, j, i] = planes[plane, y, columns[i]]


@compiled
def _gradients(
    planes: Any,
    step: int,
    channel: int,
    corner: Any,
    shares: Any,
    cell: int,
    values: Any,
    changes: Any,
    gx: Any,
    gy: Any,
) -> None:
    """Central differences of one channel at cell × cell points.

    `corner` is (f, y, x) of the pixel above left of the cell. Each row of pixels is interpolated
    in x, its values and their differences in x; these [(cell + 3) · cell] are interpolated in y.
    """
    right, down = shares
    c, s = np.uintp(cell), np.uintp(step)
    f, y0 = np.uintp(corner[0]), np.uintp(corner[1])
    x0 = np.uintp(corner[2]) * s + np.uintp(channel)
    for j in range(c + np.uintp(3)):
        y = y0 + j
        for i in range(c):
            x = x0 + i * s
            here = np.float32(planes[f, y, x + s])
            after = np.float32(planes[f, y, x + s + s])
            change = after - np.float32(planes[f, y, x])
            next_change = np.float32(planes[f, y, x + s + s + s]) - here
            values[j * c + i] = here + right * (after - here)
            changes[j * c + i] = change + right * (next_change - change)
    for k in range(c * c):
        change = changes[k + c]
        gx[k] = change + down * (changes[k + c + c] - change)
        change = values[k + c + c] - values[k]
        next_change = values[k + c + c + c] - values[k + c]
        gy[k] = change + down * (next_change - change)


@compiled
def _clear_border(x0: int, y0: int, width: int, height: int, cell: int, gx: Any, gy: Any) -> None:
    """No gradient across the border of the image; the cell's first pixel is (x0, y0)."""
    for j in range(cell):
        for i in range(cell):
            if x0 + i == 0 or x0 + i == width - 1:
                gx[j * cell + i] = 0
            if y0 + j == 0 or y0 + j == height - 1:
                gy[j * cell + i] = 0


@compiled
def _sample(
    planes: Any,
    step: int,
    channel: int,
    corner: Any,
    shares: Any,
    cell: int,
    values: Any,
    out: Any,
) -> None:
    """One channel at cell × cell points; arguments as for `_gradients`."""
    right, down = shares
    c, s = np.uintp(cell), np.uintp(step)
    f, y0 = np.uintp(corner[0]), np.uintp(corner[1]) + np.uintp(1)
    x0 = (np.uintp(corner[2]) + np.uintp(1)) * s + np.uintp(channel)
    for j in range(c + np.uintp(1)):
        y = y0 + j
        for i in range(c):
            x = x0 + i * s
            here = np.float32(planes[f, y, x])
            values[j * c + i] = here + right * (np.float32(planes[f, y, x + s]) - here)
    for k in range(c * c):
        out[k] = values[k] + down * (values[k + c] - values[k])


@compiled
def cells_kernel(
    planes: Any,
    step: int,
    frame: Any,
    points: Any,
    cell: int,
    bins: int,
    signed: bool,
    differentiate: bool,
    closed: bool,
    still: float,
    scale: float,
    out: Any,
) -> None:
    """Fill `out` [M, parts, bins (+ 1)] with the histograms of the cell around each point.

    planes [F, H, W · step], channels interleaved; frame int64 [M]: which plane; points float32
    [M, 2] (x, y). With `differentiate` part p is of the gradients of channel p, and `closed` says
    that they are 0 across the border; without, the one part is of the vectors (channel 0,
    channel 1). `still` > 0 adds the bin of what stands still.
    """
    height, width = planes.shape[1], planes.shape[2] // step
    side = cell + 3
    pixels = cell * cell
    to_corner = np.float32((cell + 1) / 2)
    factor = np.float32(scale / pixels)
    patch = np.empty((1, side, side * step), planes.dtype)
    columns = np.empty(side * step, np.uintp)
    values, changes = np.empty(side * cell, np.float32), np.empty(side * cell, np.float32)
    x, y = np.empty(pixels, np.float32), np.empty(pixels, np.float32)
    magnitude, position = np.empty(pixels, np.float32), np.empty(pixels, np.float32)
    votes = np.empty(bins + 2, np.float32)
    for m in range(points.shape[0]):
        left = points[m, 0] - to_corner
        top = points[m, 1] - to_corner
        x0 = int(np.floor(left))
        y0 = int(np.floor(top))
        shares = (left - np.float32(x0), top - np.float32(y0))
        source, corner = planes, (frame[m], y0, x0)
        inside = x0 >= 0 and y0 >= 0 and x0 + side <= width and y0 + side <= height
        if not inside:
            _cut(planes, step, frame[m], x0, y0, columns, patch)
            source, corner = patch, (0, 0, 0)
        for part in range(out.shape[1]):
            if differentiate:
                _gradients(source, step, part, corner, shares, cell, values, changes, x, y)
                if closed and not inside:
                    _clear_border(x0 + 1, y0 + 1, width, height, cell, x, y)
            else:
                _sample(source, step, 0, corner, shares, cell, values, x)
                _sample(source, step, 1, corner, shares, cell, values, y)
            _orient(x, y, bins, signed, magnitude, position)
            if still > 0:
                out[m, part, bins] = _stand_still(magnitude, np.float32(still)) * factor
            _vote(magnitude, position, votes)
            for b in range(bins):
                out[m, part, b] = votes[b + 1] * factor


def cells_compiled(
    planes: NDArray[np.uint8] | NDArray[np.float32],
    frame: NDArray[np.int64],
    points: NDArray[np.float32],
    *,
    cell: int,
    bins: int,
    signed: bool,
    differentiate: bool = True,
    closed: bool = False,
    still: float = 0,
) -> NDArray[np.float32]:
    """Histograms of the cell around each of M points.

    Args:
        planes: [F, H, W, C], contiguous; uint8 is scaled to [0, 1].
        frame: [M], which of the F a point is in.
        points: [M, 2], (x, y) in pixels.
        cell: side of the cell in pixels.
        bins: orientations over 360° if signed, else over 180°.
        signed: whether opposite vectors differ.
        differentiate: vote with the gradients of each channel; otherwise with the vectors whose
            x and y are the two channels.
        closed: gradients across the image's border are 0; otherwise its border continues.
        still: vectors shorter than this vote for one more bin, the last; 0: there is none.

    Returns:
        [M, C, bins] with `differentiate`, else [M, 1, bins (+ 1)].

    Raises:
        IndexError: a frame that is not one of the F.
    """
    frames, height, width, step = planes.shape
    if len(frame) and not (frame.min() >= 0 and frame.max() < frames):
        raise IndexError(f"frame {frame.min()} to {frame.max()}: use 0 to {frames - 1}")
    parts = step if differentiate else 1
    out = np.empty((len(points), parts, bins + (still > 0)), np.float32)
    cells_kernel(
        planes.reshape(frames, height, width * step),
        step,
        frame,
        points,
        cell,
        bins,
        signed,
        differentiate,
        closed,
        float(still),
        1 / 255 if planes.dtype == np.uint8 else 1.0,
        out,
    )
    return out
