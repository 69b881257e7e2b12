"""Trajectories: points that follow the flow, as in dense trajectories (Wang et al., IJCV 2013).

A note on coordinates: (x right, y down), pixel centres at integers, in pixels of the tensor at
hand, so the frame is [0, W − 1] × [0, H − 1]. Motion is found after crop, resize and flip; nothing
is ever rescaled. Points keep their fractions of a pixel. A point that leaves the frame, or reaches
a row that repeats the last frame, is not visible from there on; its numbers then mean nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn.functional import interpolate

from m3video.config import FlowName, MotionConfig, one_line
from m3video.errors import ConfigError
from m3video.motion.camera import bring_back
from m3video.motion.fields import Fields, motion_fields
from m3video.motion.flow import grey
from m3video.video.augment import check_frames
from m3video.video.sampling import ClipPlan, row_index


@dataclass(frozen=True)
class Tracks:
    """Trajectories of length L; the leading dimensions say whose."""

    points: Tensor
    """float32 [..., L + 1, 2]: (x, y) in pixels, the seed first."""
    displacements: Tensor
    """float32 [..., L, 2]: next point − current point, or relative to the camera, if its motion is
    removed."""
    visible: Tensor
    """bool [..., L + 1]: the point, and all before it, are in the frame and in real frames."""


def seed_grid(height: int, width: int, spacing: int, device: torch.device | None = None) -> Tensor:
    """Centres of the whole spacing × spacing cells of a frame: float32 [h, w, 2] (x, y) in pixels.

    Cell i covers pixels [i · spacing, (i + 1) · spacing), so its centre is
    i · spacing + (spacing − 1) / 2.
    """
    y = torch.arange(height // spacing, device=device) * spacing + (spacing - 1) / 2
    x = torch.arange(width // spacing, device=device) * spacing + (spacing - 1) / 2
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)


def follow(fields: Fields, pair_index: Tensor, seeds: Tensor) -> Tracks:
    """Move seeds through flow fields, sampled bilinearly at each point.

    Points follow the flow, so that they stay with what they started on; displacements are those
    relative to the camera where its motion is removed.

    Args:
        fields: of P pairs of frames.
        pair_index: int64 [n, L]: which pair is step k of start j.
        seeds: float32 [h, w, 2].

    Returns:
        Tracks with leading [B, n, h, w]; visible while in the frame and while the flow is
        consistent, if that was checked.
    """
    batch, pairs, _, height, width = fields.flow.shape
    starts, length = pair_index.shape
    # all pixels of all fields in one list, so that a step gathers four of them a point, not fields
    pixels = fields.flow.permute(0, 1, 3, 4, 2).reshape(-1, 2)
    back = None if fields.camera is None else torch.linalg.inv(fields.camera).flatten(0, 1)
    clip = torch.arange(batch, device=pixels.device)[:, None, None, None] * pairs
    pair_index, seeds = pair_index.to(pixels.device), seeds.to(pixels)
    point = seeds.expand(batch, starts, *seeds.shape)
    points, displacements = [point], []
    consistent = []
    for step in range(length):
        field = clip + pair_index[:, step][None, :, None, None]
        reached = point + _sample(pixels, field, point, height, width)
        own = reached if back is None else bring_back(reached, back[field])
        displacements.append(own - point)
        if fields.consistent is not None:
            consistent.append(_nearest(fields.consistent, field, point))
        point = reached
        points.append(point)
    path = torch.stack(points, dim=-2)
    visible = in_frame(path, (height, width))
    if consistent:
        visible[..., 1:] &= torch.stack(consistent, dim=-1)
    return Tracks(path, torch.stack(displacements, dim=-2), visible.cummin(dim=-1).values)


def clip_tracks(
    fields: Fields, plan: ClipPlan, real: Tensor, *, spacing: int, upsample: int = 1
) -> Tracks:
    """Follow the seeds of each tubelet.

    Args:
        fields: motion of the pairs of the plan.
        plan: with a trajectory length of at least 1.
        real: bool [B, R]: False where a row repeats the video's last frame.
        spacing: pixels from seed to seed.
        upsample: only a grid this many times coarser is followed, see `refine`.

    Returns:
        Tracks with leading [B, T / tubelet, h, w].
    """
    height, width = fields.flow.shape[-2:]
    device = fields.flow.device
    pair_index = step_places(plan, plan.pairs, device)
    tracks = follow(fields, pair_index, seed_grid(height, width, spacing * upsample, device))
    if upsample > 1:
        tracks = refine(tracks, seed_grid(height, width, spacing, device), (height, width))
    return while_real(tracks, plan, real)


def window_rows(plan: ClipPlan, device: torch.device) -> Tensor:
    """The rows that trajectories pass: int64 [T / tubelet, L + 1]."""
    steps = torch.arange(plan.length + 1, device=device)
    return row_index(plan.starts, device)[:, None] + steps


@lru_cache(maxsize=64)
def step_places(plan: ClipPlan, rows: tuple[int, ...], device: torch.device) -> Tensor:
    """Where among `rows` each step of a trajectory begins: int64 [T / tubelet, L]; made once.

    Args:
        plan: with a trajectory length of at least 1.
        rows: rows of the plan, ascending, among which are those of all steps.
        device: where the index is wanted.
    """
    places = [rows.index(start + step) for start in plan.starts for step in range(plan.length)]
    return row_index(tuple(places), device).view(-1, plan.length)


def while_real(tracks: Tracks, plan: ClipPlan, real: Tensor) -> Tracks:
    """Tracks [B, T / tubelet, h, w] that end where rows [B, R] begin to repeat the last frame."""
    rows = window_rows(plan, real.device)
    lasting = real[:, rows].cummin(dim=-1).values
    visible = tracks.visible & lasting[:, :, None, None, :]
    return Tracks(tracks.points, tracks.displacements, visible)


def refine(tracks: Tracks, seeds: Tensor, size: tuple[int, int]) -> Tracks:
    """Interpolate the motion of a coarse grid of points for a finer one (TrackMAE's up-sampling).

    Displacements are bilinear between the four coarse seeds around a fine one, and those of the
    nearest beyond the outermost; coarse points that are not visible have no share in them. A fine
    point is visible while it is in the frame and the coarse one whose cell it is in is visible.

    Args:
        tracks: with leading [B, n, h, w], of a `seed_grid` that covers the same frame.
        seeds: float32 [h · k, w · k, 2], a `seed_grid` k times finer.
        size: height and width of the frame in pixels.

    Returns:
        Tracks with leading [B, n, h · k, w · k].
    """
    factor = seeds.shape[0] // tracks.points.shape[2]
    seen = tracks.visible[..., 1:, None]
    share = _finer(seen.float(), factor).clamp(min=1e-6)
    moved, going = (
        _finer(torch.where(seen, steps, 0), factor) / share
        for steps in (tracks.displacements, tracks.points.diff(dim=-2))
    )
    first = seeds.to(going).expand(*going.shape[:4], 2)[..., None, :]
    points = torch.cat([first, first + going.cumsum(dim=-2)], dim=-2)
    visible = tracks.visible.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    visible = (visible & in_frame(points, size)).cummin(dim=-1).values
    return Tracks(points, moved, visible)


def _finer(values: Tensor, factor: int) -> Tensor:
    """[B, n, h, w, L, C] → [B, n, h · factor, w · factor, L, C], bilinear."""
    batch, starts, height, width, *rest = values.shape
    planes = values.movedim((2, 3), (-2, -1)).flatten(0, 1).flatten(1, 2)
    fine = interpolate(planes, scale_factor=factor, mode="bilinear", align_corners=False)
    split = fine.reshape(batch, starts, *rest, height * factor, width * factor)
    return split.movedim((-2, -1), (2, 3))


def in_frame(points: Tensor, size: tuple[int, int]) -> Tensor:
    """Which points [..., 2] lie in a frame of a height and a width: bool [...]."""
    height, width = size
    x, y = points.unbind(-1)
    return (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)


def track(
    frames: Tensor,
    *,
    length: int = 6,
    spacing: int = 8,
    starts: Sequence[int] | None = None,
    flow: FlowName = "dis",
    camera: bool = False,
    visibility: Literal["frame", "forward-backward"] = "frame",
    weights: Path | None = None,
) -> Tracks:
    """Follow a grid of points through a video.

    Args:
        frames: uint8 [S, H, W, 3].
        length: L, steps of a trajectory.
        spacing: pixels from point to point.
        starts: frames in which trajectories start; by default 0, L, 2L, … while L more follow.
        flow: the estimator's name.
        camera: take the camera's motion out of the displacements.
        visibility: see `MotionConfig`.
        weights: the file of RAFT's state dict, for `raft`.

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
    try:
        motion = MotionConfig(flow=flow, camera=camera, visibility=visibility, weights=weights)
    except ValidationError as error:
        raise ConfigError(one_line(error)) from None
    fields = motion_fields(grey(frames)[None], plan, motion)
    tracks = clip_tracks(fields, plan, real, spacing=spacing)
    return Tracks(tracks.points[0], tracks.displacements[0], tracks.visible[0])


def _nearest(holds: Tensor, field: Tensor, point: Tensor) -> Tensor:
    """What bool [B, P, H, W] says at the pixels nearest to points [B, n, h, w, 2]."""
    height, width = holds.shape[-2:]
    x = point[..., 0].round().long().clamp(0, width - 1)
    y = point[..., 1].round().long().clamp(0, height - 1)
    return holds.flatten()[(field * height + y) * width + x]


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
