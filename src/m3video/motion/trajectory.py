"""Trajectories: points that follow the flow, as in dense trajectories (Wang et al., IJCV 2013).

A note on coordinates: (x right, y down), pixel centres at integers, in pixels of the tensor at
hand, so the frame is [0, W − 1] × [0, H − 1]. Motion is found after crop, resize and flip; nothing
is ever rescaled. Points keep their fractions of a pixel. A point that leaves the frame, or reaches
a row that repeats the last frame, is not visible from there on; its numbers then mean nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from m3video.config import FlowName
from m3video.errors import ConfigError
from m3video.motion.flow import FlowEstimator, grey, make_flow
from m3video.video.augment import check_frames
from m3video.video.sampling import ClipPlan


@dataclass(frozen=True)
class Tracks:
    """Trajectories of length L; the leading dimensions say whose."""

    points: Tensor
    """float32 [..., L + 1, 2]: (x, y) in pixels, the seed first."""
    displacements: Tensor
    """float32 [..., L, 2]: next point − current point."""
    visible: Tensor
    """bool [..., L + 1]: the point, and all before it, are in the frame and in real frames."""


def seed_grid(height: int, width: int, spacing: int) -> Tensor:
    """Centres of the whole spacing × spacing cells of a frame: float32 [h, w, 2] (x, y) in pixels.

    Cell i covers pixels [i · spacing, (i + 1) · spacing), so its centre is
    i · spacing + (spacing − 1) / 2.
    """
    y = torch.arange(height // spacing) * spacing + (spacing - 1) / 2
    x = torch.arange(width // spacing) * spacing + (spacing - 1) / 2
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)


def follow(flow: Tensor, pair_index: Tensor, seeds: Tensor) -> Tracks:
    """Move seeds through flow fields, sampled bilinearly at each point.

    Args:
        flow: float32 [B, P, 2, H, W], of P pairs of frames.
        pair_index: int64 [n, L]: which pair is step k of start j.
        seeds: float32 [h, w, 2].

    Returns:
        Tracks with leading [B, n, h, w]; visible while in the frame.
    """
    batch, pairs, _, height, width = flow.shape
    starts, length = pair_index.shape
    # all pixels of all fields in one list, so that a step gathers four of them a point, not fields
    pixels = flow.permute(0, 1, 3, 4, 2).reshape(-1, 2)
    clip = torch.arange(batch, device=flow.device)[:, None, None, None] * pairs
    seeds = seeds.to(flow)
    point = seeds.expand(batch, starts, *seeds.shape)
    points, displacements = [point], []
    for step in range(length):
        field = clip + pair_index[:, step].to(flow.device)[None, :, None, None]
        displacement = _sample(pixels, field, point, height, width)
        point = point + displacement
        points.append(point)
        displacements.append(displacement)
    path = torch.stack(points, dim=-2)
    last = torch.tensor([width - 1, height - 1], device=flow.device)
    inside = ((path >= 0) & (path <= last)).all(dim=-1)
    return Tracks(path, torch.stack(displacements, dim=-2), inside.cummin(dim=-1).values)


def clip_tracks(
    grey: Tensor, plan: ClipPlan, real: Tensor, flow: FlowEstimator, spacing: int
) -> Tracks:
    """Follow the seeds of each tubelet; flow is estimated only for the pairs that a step needs.

    Args:
        grey: uint8 [B, R, H, W], the rows of the plan.
        plan: with a trajectory length of at least 1.
        real: bool [B, R]: False where a row repeats the video's last frame.
        flow: the estimator.
        spacing: pixels from seed to seed.

    Returns:
        Tracks with leading [B, T / tubelet, h, w].
    """
    batch, _, height, width = grey.shape
    rows = torch.tensor(plan.pairs, device=grey.device)
    first, second = (grey.index_select(1, row).flatten(0, 1) for row in (rows, rows + 1))
    fields = flow(first, second).reshape(batch, len(rows), 2, height, width)
    steps = torch.tensor(plan.starts)[:, None] + torch.arange(plan.length + 1)
    pair_index = torch.searchsorted(torch.tensor(plan.pairs), steps[:, :-1].contiguous())
    tracks = follow(fields, pair_index, seed_grid(height, width, spacing))
    lasting = real[:, steps.to(real.device)].cummin(dim=-1).values
    visible = tracks.visible & lasting[:, :, None, None, :]
    return Tracks(tracks.points, tracks.displacements, visible)


def track(
    frames: Tensor,
    *,
    length: int = 6,
    spacing: int = 8,
    starts: Sequence[int] | None = None,
    flow: FlowName = "dis-fast",
) -> Tracks:
    """Follow a grid of points through a video.

    Args:
        frames: uint8 [S, H, W, 3].
        length: L, steps of a trajectory.
        spacing: pixels from point to point.
        starts: frames in which trajectories start; by default 0, L, 2L, … while L more follow.
        flow: the estimator's name.

    Returns:
        Tracks with leading [n, h, w]: n starts, an h × w grid of points.

    Raises:
        ConfigError: too few frames, or a start, length or spacing that does not fit.
    """
    check_frames(frames)
    count, height, width, _ = frames.shape
    if length < 1 or count <= length:
        raise ConfigError(
            f"length {length} with {count} frames: use 1 to {count - 1}, or more frames"
        )
    if not 1 <= spacing <= min(height, width):
        raise ConfigError(f"spacing {spacing}: use 1 to {min(height, width)} for {height}×{width}")
    begins = tuple(range(0, count - length, length)) if starts is None else tuple(starts)
    if not begins or min(begins) < 0 or max(begins) + length >= count:
        raise ConfigError(
            f"starts {list(begins)}: use frames 0 to {count - length - 1}, so that {length} follow"
        )
    plan = ClipPlan(offsets=tuple(range(count)), inputs=begins, starts=begins, length=length)
    real = torch.ones(1, count, dtype=torch.bool, device=frames.device)
    tracks = clip_tracks(grey(frames)[None], plan, real, make_flow(flow), spacing)
    return Tracks(tracks.points[0], tracks.displacements[0], tracks.visible[0])


def _sample(pixels: Tensor, field: Tensor, point: Tensor, height: int, width: int) -> Tensor:
    """Flow at points [B, n, h, w, 2], bilinear, border values outside.

    pixels [fields · H · W, 2]; field int64, broadcast to [B, n, h, w]: which one a point is in.
    """
    x = point[..., 0].clamp(0, width - 1)
    y = point[..., 1].clamp(0, height - 1)
    left, top = x.floor().clamp(max=max(width - 2, 0)), y.floor().clamp(max=max(height - 2, 0))
    share_x, share_y = (x - left)[..., None], (y - top)[..., None]
    right, down = min(width - 1, 1), min(height - 1, 1) * width
    corner = ((field * height + top.long()) * width + left.long()).flatten()
    upper_left, upper_right, lower_left, lower_right = (
        pixels.index_select(0, corner + offset).view(point.shape)
        for offset in (0, right, down, down + right)
    )
    upper = torch.lerp(upper_left, upper_right, share_x)
    lower = torch.lerp(lower_left, lower_right, share_x)
    return torch.lerp(upper, lower, share_y)
