"""The forward-backward check, and flow that came with the clips."""

from __future__ import annotations

import pytest
import torch

from m3video.config import ClipConfig, MotionConfig
from m3video.motion import fields
from m3video.motion.fields import agree, motion_fields
from m3video.video.moving_shapes import sample_scenes
from m3video.video.sampling import plan_clip, sample_generator


def test_flow_back_to_the_start_agrees_and_other_flow_does_not() -> None:
    """Right by 4: the flow back is read where the flow leads to, not where it starts."""
    forward = torch.zeros(1, 2, 12, 20)
    forward[:, 0] = 4.0
    backward = torch.zeros(1, 2, 12, 20)
    backward[:, 0, :, 4:] = -4.0
    backward[:, 0, :, 10] = 1.0
    expected = torch.ones(12, 20, dtype=torch.bool)
    expected[:, 6] = False  # leads to column 10
    expected[:, 16:] = False  # leads out of the frame
    assert torch.equal(agree(forward, backward)[0], expected)


def test_the_tolerance_is_that_of_the_paper() -> None:
    """|f + b|² < 0.01 (|f|² + |b|²) + 0.5."""
    for along, missed, expected in ((0.0, 0.70, True), (0.0, 0.72, False), (6.0, 1.0, True)):
        forward = torch.zeros(1, 2, 8, 24)
        forward[:, 0] = along
        backward = -forward
        backward[:, 1] = missed
        assert bool(agree(forward, backward)[0, 3, 5]) is expected, (along, missed)


def test_what_a_moving_thing_covers_is_found() -> None:
    """On exact motion: a background pixel that an object hides in the next frame comes back with
    the object's motion."""
    generator = sample_generator(0, 0, 3)
    scenes = sample_scenes(
        torch.tensor([1]), frames=8, size=(96, 128), texture="both", generator=generator, duration=8
    )
    y, x = torch.meshgrid(torch.arange(96), torch.arange(128), indexing="ij")
    tracks = scenes.tracks(torch.stack([x, y], dim=-1)[None], 0, 4)
    forward = (tracks.points[..., -1, :] - tracks.points[..., 0, :]).permute(0, 3, 1, 2)
    last = scenes.tracks(torch.stack([x, y], dim=-1)[None], 4, 0).points
    assert last.shape[-2] == 1  # (exact motion backwards is not offered: it is put together here)
    # for each pixel of frame 4, where its content was in frame 0: nearest tracked point wins
    end = tracks.points[0, :, :, -1].reshape(-1, 2)
    start = tracks.points[0, :, :, 0].reshape(-1, 2)
    seen = tracks.visible[0, :, :, -1].reshape(-1)
    pixel = torch.stack([x, y], dim=-1).reshape(-1, 2).float()
    nearest = torch.cdist(pixel, end[seen]).argmin(dim=1)
    backward = (start[seen][nearest] - end[seen][nearest]).T.reshape(1, 2, 96, 128)
    holds = agree(forward, backward)[0]
    hidden = ~tracks.visible[0, :, :, -1]
    assert 0.01 < hidden.float().mean() < 0.5
    assert holds[~hidden].float().mean() > 0.97
    assert holds[hidden].float().mean() < 0.35


def test_flow_that_came_with_the_clips_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(fields, "make_flow")
    plan = plan_clip(ClipConfig(frames=2, stride=2, size=(16, 32)), 2)
    grey = torch.zeros(1, len(plan.offsets), 16, 32, dtype=torch.uint8)
    given = torch.randn(1, len(plan.pairs), 2, 16, 32)
    found = motion_fields(grey, plan, MotionConfig(), given)
    assert torch.equal(found.flow, given)
    half = motion_fields(grey, plan, MotionConfig(), given.half())
    assert half.flow.dtype == torch.float32
