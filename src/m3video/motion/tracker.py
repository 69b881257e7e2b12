"""Point trackers of others in the place of following the flow.

A tracker is a function that is named in the config, `motion.tracker: "my_module:my_tracker"`:

    def my_tracker(frames, seeds):
        # frames: uint8 [M, L + 1, H, W, 3], M windows that begin where trajectories begin
        # seeds:  float32 [h, w, 2], (x, y) in pixels of a window's first frame
        return points, visible   # float [M, h, w, L + 1, 2], bool [M, h, w, L + 1]

It is called in the data workers (or in the training step, with `motion.where: step`), with tensors
on the device at hand, and without gradient.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Protocol, cast

import torch
from torch import Tensor

from m3video.config import MotionConfig, PretrainConfig
from m3video.errors import ConfigError
from m3video.motion.flow import make_flow
from m3video.motion.trajectory import Tracks, in_frame, refine, seed_grid, while_real, window_rows
from m3video.video.sampling import ClipPlan


class PointTracker(Protocol):
    """Follows points through windows of frames."""

    def __call__(self, frames: Tensor, seeds: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 [M, L + 1, H, W, 3], float32 [h, w, 2] → points float [M, h, w, L + 1, 2] and
        visible bool [M, h, w, L + 1]."""


@cache
def load_tracker(name: str) -> PointTracker:
    """Import the tracker "module:function".

    Raises:
        ConfigError: no such module or function.
    """
    module, _, function = name.partition(":")
    try:
        tracker = getattr(import_module(module), function)
    except Exception as error:  # whatever a module of the user's raises when it is read
        raise ConfigError(
            f"motion.tracker {name!r} cannot be imported: {error}; give module:function of a "
            "module on the Python path"
        ) from error
    if not callable(tracker):
        raise ConfigError(f"motion.tracker {name!r} is not a function, but {tracker!r}")
    return cast(PointTracker, tracker)


def tracker_tracks(
    frames: Tensor, plan: ClipPlan, real: Tensor, motion: MotionConfig, spacing: int
) -> Tracks:
    """Let the tracker follow the seeds of each tubelet.

    Args:
        frames: uint8 [B, R, H, W, 3], the rows of the plan.
        plan: with a trajectory length of at least 1.
        real: bool [B, R]: False where a row repeats the video's last frame.
        motion: names the tracker, and how much coarser a grid it is given.
        spacing: pixels from seed to seed.

    Returns:
        Tracks with leading [B, T / tubelet, h, w].

    Raises:
        ConfigError: the tracker cannot be imported, or gives tensors of other shapes.
    """
    batch, _, height, width, _ = frames.shape
    rows = window_rows(plan, frames.device)
    windows = frames[:, rows].flatten(0, 1)
    seeds = seed_grid(height, width, spacing * motion.upsample, frames.device)
    given: object = load_tracker(motion.tracker or "")(windows, seeds)
    match given:
        case (Tensor() as points, Tensor() as visible):
            pass
        case _:
            raise ConfigError(
                f"motion.tracker {motion.tracker!r} gave {type(given).__name__}: it must give two "
                "torch tensors, the points and whether each is visible"
            )
    shape = (len(windows), *seeds.shape[:2], plan.length + 1)
    if points.shape != (*shape, 2) or visible.shape != shape or visible.dtype != torch.bool:
        raise ConfigError(
            f"motion.tracker {motion.tracker!r} gave points {list(points.shape)} and visible "
            f"{list(visible.shape)} of {visible.dtype}; they must be {[*shape, 2]} and "
            f"{list(shape)} of torch.bool"
        )
    points = points.float()
    if not points[visible].isfinite().all():
        raise ConfigError(
            f"motion.tracker {motion.tracker!r} gave points that are visible and not finite; say "
            "that they are not visible"
        )
    visible = visible & in_frame(points, (height, width))
    points = points.reshape(batch, -1, *points.shape[1:])
    visible = visible.reshape(batch, -1, *visible.shape[1:])
    tracks = Tracks(points, points.diff(dim=-2), visible.cummin(dim=-1).values)
    if motion.upsample > 1:
        tracks = refine(tracks, seed_grid(height, width, spacing, points.device), (height, width))
    return while_real(tracks, plan, real)


def check_motion(config: PretrainConfig) -> None:
    """Make what finds the motion once, so that what is missing is said before anything is read.

    Raises:
        ConfigError: as `load_tracker` and `make_flow`.
    """
    motion = config.motion
    if motion.tracker is not None and config.needs_tracks:
        load_tracker(motion.tracker)
    if config.needs_flow and motion.flow != "exact":
        make_flow(motion.flow, motion.weights)
