"""The motion between the frames of clips: flow, flow without the camera's, and where it holds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from m3video.config import MotionConfig
from m3video.motion.camera import camera_motion, remove_camera
from m3video.motion.flow import make_flow
from m3video.video.sampling import ClipPlan, row_index


@dataclass(frozen=True)
class Fields:
    """Motion of P pairs of neighbouring rows of B clips."""

    flow: Tensor
    """float32 [B, P, 2, H, W] in pixels: where the content of each pixel goes."""
    camera: Tensor | None = None
    """float32 [B, P, 3, 3]: the camera's motion that is to be removed, a homography from each first
    to each second frame; None: it is kept."""
    consistent: Tensor | None = None
    """bool [B, P, H, W]: the flow back leads to where a pixel came from; None: not checked."""

    @cached_property
    def relative(self) -> Tensor:
        """Flow without the camera's motion, if that is to be removed: float32 [B, P, 2, H, W]."""
        if self.camera is None:
            return self.flow
        still = remove_camera(self.flow.flatten(0, 1), self.camera.flatten(0, 1))
        return still.reshape(self.flow.shape)


def motion_fields(
    grey: Tensor, plan: ClipPlan, motion: MotionConfig, given: Tensor | None = None
) -> Fields:
    """Estimate the flow of the pairs that the plan needs.

    Args:
        grey: uint8 [B, R, H, W], the rows of the plan.
        plan: with a trajectory length of at least 1.
        motion: which estimator, and what is done with its flow.
        given: float [B, P, 2, H, W]: flow that came with the clips, instead of an estimate.

    Raises:
        ConfigError: frames too small for the estimator, or flow that only a source can give.
    """
    batch, _, height, width = grey.shape
    rows = row_index(plan.pairs, grey.device)
    shape = (batch, len(plan.pairs), 2, height, width)
    consistent = None
    if given is not None:
        flow = given.float()
    else:
        estimate = make_flow(motion.flow, motion.weights)
        first, second = (grey.index_select(1, row).flatten(0, 1) for row in (rows, rows + 1))
        flow = estimate(first, second)
        if motion.visibility == "forward-backward":
            consistent = agree(flow, estimate(second, first)).reshape(*shape[:2], height, width)
        flow = flow.reshape(shape)
    camera = camera_motion(flow.flatten(0, 1)).reshape(*shape[:2], 3, 3) if motion.camera else None
    return Fields(flow, camera, consistent)


def agree(forward: Tensor, backward: Tensor) -> Tensor:
    """Where following the flow and then the flow back returns to the same place.

    |f + b|² < 0.01 (|f|² + |b|²) + 0.5 (Sundaram, Brox & Keutzer, ECCV 2010, equation 5), with b at
    the place that f leads to; False where that lies outside the frame.

    Args:
        forward: float32 [P, 2, H, W], first to second frame.
        backward: float32 [P, 2, H, W], second to first.

    Returns:
        bool [P, H, W].
    """
    height, width = forward.shape[-2:]
    y, x = torch.meshgrid(
        torch.arange(height, device=forward.device),
        torch.arange(width, device=forward.device),
        indexing="ij",
    )
    end_x, end_y = x + forward[:, 0], y + forward[:, 1]
    # to [-1, 1] as grid_sample wants it; a side of one pixel has no extent
    scaled = torch.stack(
        [2 * end_x / max(width - 1, 1) - 1, 2 * end_y / max(height - 1, 1) - 1], dim=-1
    )
    back = grid_sample(backward, scaled, align_corners=True, padding_mode="border")
    missed = (forward + back).square().sum(dim=1)
    size = forward.square().sum(dim=1) + back.square().sum(dim=1)
    inside = (end_x >= 0) & (end_x <= width - 1) & (end_y >= 0) & (end_y <= height - 1)
    return (missed < 0.01 * size + 0.5) & inside
