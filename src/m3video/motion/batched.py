"""Optical flow in plain torch operations: whole batches of frame pairs at once, on any device.

Coarse to fine over an image pyramid, as Brox et al. (ECCV 2004), with the flow of each level on a
grid of half that level's resolution:

- Data: constancy of the image *gradient*, which a change of light does not disturb. Each constraint
  is divided by its own slope, so that its error is a distance in pixels (Zimmer et al., IJCV 2011),
  and constraints that are far off (what is hidden, what lies behind an edge) count less.
- Smoothness: neighbours share one motion, less so across jumps of the flow.
- A *warp* moves the second image by the flow so far, builds the 2 × 2 system of each cell, and
  relaxes it with a fixed number of Jacobi steps (Chebyshev's factors). Then a 3 × 3 median of the
  flow (Sun et al., CVPR 2010) takes away what is left of single wrong cells.

Passes over planes the size of the frame, with point-wise operations fused: 24 a warp (warped image,
slopes, five products, their sums, links, median) and 13 / 4 a Jacobi step, on planes that shrink
four times a level. With the default fields 37 + 25 + 10 + 2 for four levels, 10 for pyramid and
result: some 85, or 17 MB a pair of 224 × 224 frames. This is counted by hand, not measured.

Nothing depends on the data but the numbers: the same operations for every pair, no loop over pairs
or points, no waiting for the device; `torch.compile(fullgraph=True)` takes it whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, log2, pi

import torch
from torch import Tensor
from torch.nn import functional

_SMALL = 128  # frames with a shorter side than this are doubled: their things are small
_COARSEST = 16  # pixels of the shorter side of the smallest image of the pyramid, at least
_MOST_STEPS = 16
_RADIUS = 0.97  # of the spectrum of the Jacobi steps that the factors are made for

_AT_ONCE = 512
"""Pairs at a time: at 224² some 5 GB."""


@dataclass(frozen=True)
class BatchedFlow:
    """Variational flow of frame pairs.

    The numbers of the fields are in pixels and grey levels, so they hold for any frame size.
    """

    warps: int = 2
    """Warps a level; the finest level, which has little left to find, has one."""
    steps: int = 4
    """Jacobi steps a warp at the finest level, twice as many at each coarser one, at most 16. A
    power of two."""
    smoothness: float = 0.1
    """Weight of the smoothness next to the data, which at full weight has 1 for each constraint."""
    noise: float = 2.5
    """Second differences of the grey levels (of 255) below which a constraint says little."""
    tolerance: float = 0.03
    """Pixels by which constraints may be off, and neighbours differ, before they count less."""

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """uint8 grey [P, H, W] twice → float32 [P, 2, H, W] on the same device."""
        parts = zip(torch.split(first, _AT_ONCE), torch.split(second, _AT_ONCE), strict=True)
        return torch.cat([self._estimate(*part) for part in parts])

    def _estimate(self, first: Tensor, second: Tensor) -> Tensor:
        pairs, height, width = first.shape
        frames = torch.stack([first, second]).flatten(0, 1)[:, None].float()
        small = min(height, width) < _SMALL
        if small:
            frames, height, width = _twice(frames), 2 * height, 2 * width
        levels = int(log2(max(min(height, width) / _COARSEST, 1))) + 1
        images = _pyramid(frames, levels)
        rows, columns = images[-1].shape[-2:]
        flow = frames.new_zeros(pairs, 2, rows // 2, columns // 2)
        for level in reversed(range(levels)):
            one, two = images[level].tensor_split(2)
            steps = min(self.steps << level, _MOST_STEPS)
            ends = width / 2**level - 0.5, height / 2**level - 0.5
            for _ in range(self.warps if level else 1):
                flow = self._improve(one, two, flow, steps, ends)
            if level:
                flow = 2 * _twice(flow)
        flow = 0.5 * flow if small else _twice(flow)
        return flow[..., : first.shape[-2], : first.shape[-1]].contiguous()

    def _improve(
        self, one: Tensor, two: Tensor, flow: Tensor, steps: int, ends: tuple[float, float]
    ) -> Tensor:
        """One warp: images [P, 1, 2h, 2w] and flow [P, 2, h, w] → flow."""
        warped, seen = _warp(two, _twice(flow), ends)
        xx, xy, yy, xt, yt = self._constraints(one, warped, seen).unsqueeze(2).unbind(1)
        hold = 0.5 * self.smoothness * self._hold(flow)
        links = [hold + near for near in _neighbours(hold)]
        total = links[0] + links[1] + links[2] + links[3]
        u, v = flow[:, :1], flow[:, 1:]
        data = torch.cat([xx * u + xy * v - xt, xy * u + yy * v - yt], dim=1)
        xx, yy = xx + total, yy + total
        scale = (xx * yy - xy * xy).reciprocal()
        xx, xy, yy = xx * scale, xy * scale, yy * scale
        for factor in _factors(steps):
            pull = data
            for link, near in zip(links, _neighbours(flow), strict=True):
                pull = torch.addcmul(pull, link, near)
            a, b = pull[:, :1], pull[:, 1:]
            flow = torch.lerp(flow, torch.cat([yy * a - xy * b, xx * b - xy * a], dim=1), factor)
        return _median(flow)

    def _constraints(self, one: Tensor, two: Tensor, seen: Tensor) -> Tensor:
        """Sums over 2 × 2 pixels of the weighted products of slopes and differences.

        Returns:
            [P, 5, h, w]: xx, xy, yy, xt, yt of images [P, 1, 2h, 2w].
        """
        mean, change = functional.pad(0.5 * (one + two), (2,) * 4, mode="replicate"), two - one
        xx = 0.25 * (_shift(mean, 2, 0, 2) + _shift(mean, -2, 0, 2) - 2 * _shift(mean, 0, 0, 2))
        yy = 0.25 * (_shift(mean, 0, 2, 2) + _shift(mean, 0, -2, 2) - 2 * _shift(mean, 0, 0, 2))
        xy = _shift(mean, 1, 1, 2) + _shift(mean, -1, -1, 2)
        xy = 0.25 * (xy - _shift(mean, 1, -1, 2) - _shift(mean, -1, 1, 2))
        right, left, down, up = _neighbours(change)
        xt, yt = 0.5 * (right - left), 0.5 * (down - up)
        of_x = (xx * xx + xy * xy + self.noise**2).reciprocal()
        of_y = (xy * xy + yy * yy + self.noise**2).reciprocal()
        error = of_x * xt * xt + of_y * yt * yt
        trust = seen * torch.rsqrt(1 + error / self.tolerance**2)
        of_x, of_y = trust * of_x, trust * of_y
        products = [
            of_x * xx * xx + of_y * xy * xy,
            (of_x * xx + of_y * yy) * xy,
            of_x * xy * xy + of_y * yy * yy,
            of_x * xx * xt + of_y * xy * yt,
            of_x * xy * xt + of_y * yy * yt,
        ]
        return functional.avg_pool2d(torch.cat(products, dim=1), 2)

    def _hold(self, flow: Tensor) -> Tensor:
        """How much a cell holds to its neighbours: 1 in even motion, less at jumps. [P, 1, h, w]"""
        right, left, down, up = _neighbours(flow)
        slope = 0.25 * ((right - left).square() + (down - up).square()).sum(dim=1, keepdim=True)
        return torch.rsqrt(1 + slope / self.tolerance**2)


def _pyramid(image: Tensor, levels: int) -> list[Tensor]:
    """Smoothed images of [N, 1, H, W], the finest first.

    They are continued by their border so that every level halves without a rest.
    """
    height, width = image.shape[-2:]
    unit = 1 << levels
    image = functional.pad(image, (0, -width % unit, 0, -height % unit), mode="replicate")
    images = [_smooth(image)]
    for _ in range(levels - 1):
        images.append(_smooth(functional.avg_pool2d(images[-1], 2)))
    return images


def _smooth(image: Tensor) -> Tensor:
    """Binomial 3 × 3."""
    down, up = _neighbours(image)[2:]
    image = 0.5 * image + 0.25 * (down + up)
    right, left = _neighbours(image)[:2]
    return 0.5 * image + 0.25 * (right + left)


def _shift(padded: Tensor, x: int, y: int, pad: int) -> Tensor:
    """The plane inside a padded one, read x further right and y further down."""
    height, width = padded.shape[-2] - 2 * pad, padded.shape[-1] - 2 * pad
    return padded[..., pad + y : pad + y + height, pad + x : pad + x + width]


def _neighbours(plane: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Right, left, lower and upper neighbours of each cell; itself where there is none."""
    padded = functional.pad(plane, (1,) * 4, mode="replicate")
    return (
        _shift(padded, 1, 0, 1),
        _shift(padded, -1, 0, 1),
        _shift(padded, 0, 1, 1),
        _shift(padded, 0, -1, 1),
    )


def _twice(flow: Tensor) -> Tensor:
    """The same flow on a grid of twice the resolution, bilinear."""
    return functional.interpolate(flow, scale_factor=2.0, mode="bilinear", align_corners=False)


def _warp(image: Tensor, flow: Tensor, ends: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Images [P, 1, h, w] read at x + flow, bilinear; and 1 where that is in the frame, else 0."""
    height, width = image.shape[-2:]
    x = torch.arange(width, device=flow.device) + flow[:, 0]
    y = torch.arange(height, device=flow.device)[:, None] + flow[:, 1]
    # of pixel centres: the frame ends half a pixel of the finest level beyond the last centre
    seen = (x > -0.5) & (x < ends[0]) & (y > -0.5) & (y < ends[1])
    grid = torch.stack([(x + 0.5) * (2 / width) - 1, (y + 0.5) * (2 / height) - 1], dim=-1)
    warped = functional.grid_sample(image, grid, padding_mode="border", align_corners=False)
    return warped, seen[:, None].float()


def _factors(steps: int) -> list[float]:
    """Chebyshev's relaxation factors, in Lebedev and Finogenov's order, which stays stable."""
    order = [1]
    while len(order) < steps:
        order = [place for i in order for place in (i, 2 * len(order) + 1 - i)]
    return [1 / (1 - _RADIUS * cos(pi * (2 * i - 1) / (2 * steps))) for i in reversed(order)]


def _median(plane: Tensor) -> Tensor:
    """3 × 3 median: columns sorted, then the median of highest low, middle middle, lowest high."""
    down, up = _neighbours(plane)[2:]
    least, most = torch.minimum(up, down), torch.maximum(up, down)
    low, high = torch.minimum(least, plane), torch.maximum(most, plane)
    middle = torch.maximum(least, torch.minimum(most, plane))
    right, left = _neighbours(low)[:2]
    low = torch.maximum(torch.maximum(left, right), low)
    right, left = _neighbours(high)[:2]
    high = torch.minimum(torch.minimum(left, right), high)
    right, left = _neighbours(middle)[:2]
    return _middle(low, _middle(left, middle, right), high)


def _middle(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    return torch.maximum(torch.minimum(a, b), torch.minimum(torch.maximum(a, b), c))
