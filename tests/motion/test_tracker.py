"""Point trackers that users plug in."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from m3video.config import ClipConfig, MotionConfig
from m3video.errors import ConfigError
from m3video.motion.tracker import load_tracker, tracker_tracks
from m3video.recipes import recipe_config
from m3video.train.pretrain import pretrain
from m3video.video.sampling import plan_clip

PLAN = plan_clip(ClipConfig(frames=4, stride=4, size=(32, 48)), 3)
NUMBERS = torch.arange(len(PLAN.offsets), dtype=torch.uint8)


def drift(frames: Tensor, seeds: Tensor) -> tuple[Tensor, Tensor]:
    """Moves by as many pixels a step to the right as the number of the window's first frame."""
    speed = frames[:, 0, 0, 0, 0].float()[:, None, None, None]
    steps = torch.arange(frames.shape[1]).float()
    points = seeds[None, :, :, None].repeat(len(frames), 1, 1, frames.shape[1], 1)
    points[..., 0] += speed * steps
    return points, torch.ones(points.shape[:-1], dtype=torch.bool)


def wrong(frames: Tensor, seeds: Tensor) -> tuple[Tensor, Tensor]:
    """Gives points [M, L + 1, h, w, 2]."""
    points, visible = drift(frames, seeds)
    return points.movedim(3, 1), visible.movedim(3, 1)


def lost(frames: Tensor, seeds: Tensor) -> tuple[Tensor, Tensor]:
    """The first point of each window is NaN, and said to be visible."""
    points, visible = drift(frames, seeds)
    points[:, 0, 0] = torch.nan
    return points, visible


def lost_and_said(frames: Tensor, seeds: Tensor) -> tuple[Tensor, Tensor]:
    """The same, and said to be invisible."""
    points, visible = lost(frames, seeds)
    visible[:, 0, 0] = False
    return points, visible


def nothing(frames: Tensor, seeds: Tensor) -> None:
    """A function without a return."""


NUMBER = 3


def numbered(batch: int = 2) -> Tensor:
    """Frames whose grey value is their row, uint8 [B, R, H, W, 3]."""
    return NUMBERS[None, :, None, None, None].expand(batch, -1, 32, 48, 3).contiguous()


def settings(function: str, upsample: int = 1) -> MotionConfig:
    return MotionConfig.model_validate(
        {"tracker": f"{__name__}:{function}", "length": 3, "upsample": upsample}
    )


def test_a_tracker_gets_the_window_of_each_tubelet() -> None:
    real = torch.ones(2, len(PLAN.offsets), dtype=torch.bool)
    tracks = tracker_tracks(numbered(), PLAN, real, settings("drift"), 8)
    assert tracks.points.shape == (2, 2, 4, 6, 4, 2)
    for tubelet, row in enumerate(PLAN.starts):
        moved = tracks.displacements[:, tubelet]
        assert (moved == torch.tensor([float(row), 0.0])).all()
    # by 5 px a step the points of the right half leave the frame of 48
    assert tracks.visible[0, 1, 0, :, -1].tolist() == [True, True, True, True, False, False]
    assert tracks.visible[0, 1, 0, 4].tolist() == [True, True, True, False]


def test_windows_end_where_the_video_ends() -> None:
    real = torch.ones(2, len(PLAN.offsets), dtype=torch.bool)
    real[1, PLAN.starts[1] + 2 :] = False
    visible = tracker_tracks(numbered(), PLAN, real, settings("drift"), 8).visible
    assert visible[0, 1, 0, 0].all()
    assert visible[1, 1, 0, 0].tolist() == [True, True, False, False]


def test_a_coarser_grid_can_be_asked_for() -> None:
    real = torch.ones(2, len(PLAN.offsets), dtype=torch.bool)
    fine = tracker_tracks(numbered(), PLAN, real, settings("drift"), 8)
    coarse = tracker_tracks(numbered(), PLAN, real, settings("drift", upsample=2), 8)
    assert coarse.points.shape == fine.points.shape
    both = coarse.visible & fine.visible
    assert both.float().mean() > 0.8
    torch.testing.assert_close(coarse.points[both], fine.points[both])


def test_what_is_not_visible_has_no_share_in_what_is_interpolated() -> None:
    real = torch.ones(2, len(PLAN.offsets), dtype=torch.bool)
    fine = tracker_tracks(numbered(), PLAN, real, settings("lost_and_said", upsample=2), 8)
    assert fine.displacements[fine.visible[..., 1:]].isfinite().all()
    for tubelet, row in enumerate(PLAN.starts):
        seen = fine.visible[:, tubelet, ..., 1:]
        moved = fine.displacements[:, tubelet][seen]
        torch.testing.assert_close(moved, torch.tensor([float(row), 0.0]).expand_as(moved))
    assert not fine.visible[:, :, :2, :2].any()


def test_visible_points_that_are_nowhere_are_refused() -> None:
    real = torch.ones(2, len(PLAN.offsets), dtype=torch.bool)
    with pytest.raises(ConfigError, match="visible and not finite"):
        tracker_tracks(numbered(), PLAN, real, settings("lost"), 8)
    with pytest.raises(ConfigError, match="gave NoneType: it must give two torch tensors"):
        tracker_tracks(numbered(), PLAN, real, settings("nothing"), 8)


@pytest.mark.parametrize("name", ["no_such_module:follow", f"{__name__}:no_such_function"])
def test_a_tracker_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match=f"motion.tracker '{name}' cannot be imported"):
        load_tracker(name)


def test_what_is_not_a_function_is_not_a_tracker() -> None:
    with pytest.raises(ConfigError, match="is not a function, but 3"):
        load_tracker(f"{__name__}:NUMBER")


def test_tensors_of_other_shapes_are_refused() -> None:
    real = torch.ones(1, len(PLAN.offsets), dtype=torch.bool)
    with pytest.raises(ConfigError, match=r"they must be \[2, 4, 6, 4, 2\] and \[2, 4, 6, 4\]"):
        tracker_tracks(numbered(1), PLAN, real, settings("wrong"), 8)


def test_what_finds_the_motion_is_made_before_anything_is_read(tmp_path: Path) -> None:
    """A run with a tracker or weights that are not there leaves nothing behind."""
    weights = tmp_path / "raft.pth"
    for motion, words in (
        ({"tracker": "no_such_module:follow"}, "cannot be imported"),
        ({"flow": "raft", "weights": weights}, "torchvision|raft.pth"),
    ):
        changes = {"motion": motion, "train": {"steps": 1}}
        config = recipe_config(
            "mme-tiny", data="moving-shapes", out=tmp_path / "run", changes=changes
        )
        with pytest.raises(ConfigError, match=words):
            pretrain(config)
        assert not (tmp_path / "run").exists()
