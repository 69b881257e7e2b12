"""Clips and configs for the target tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from m3video.config import PretrainConfig
from m3video.targets import ClipView
from m3video.video.sampling import plan_run
from tests.motion.textures import panned


def settings(**changes: Any) -> PretrainConfig:
    """A config on 32 × 48 clips of 4 frames with stride 4; L = 3, K = 4."""
    base: dict[str, Any] = {
        "data": "moving-shapes",
        "out": Path("run"),
        "clip": {"frames": 4, "stride": 4, "size": (32, 48)},
        "motion": {"length": 3},
        "targets": {"pixel": {"weight": 1}},
    }
    return PretrainConfig.model_validate({**base, **changes})


def view_of(config: PretrainConfig, frames: Tensor, real: Tensor | None = None) -> ClipView:
    """A view of rows [B, R, H, W, 3], all real unless given."""
    plan = plan_run(config)
    assert frames.shape[1] == len(plan.offsets)
    known = torch.ones(frames.shape[:2], dtype=torch.bool) if real is None else real
    return ClipView(frames, known, plan, config.clip, config.motion)


def moving_view(config: PretrainConfig, velocity: tuple[float, float], seed: int = 0) -> ClipView:
    """A view of one clip of a texture that moves by `velocity` a raw frame."""
    plan = plan_run(config)
    frames = panned(plan.span, *config.clip.size, velocity, seed)[list(plan.offsets)]
    return view_of(config, frames[None])


def noise_view(config: PretrainConfig, batch: int = 2, seed: int = 0) -> ClipView:
    """A view of clips of random pixels."""
    plan = plan_run(config)
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, len(plan.offsets), *config.clip.size, 3)
    return view_of(config, torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator))
