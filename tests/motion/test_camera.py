"""The camera's motion: homographies that are known, and rendered clips whose camera sways."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from m3video.config import ClipConfig, MotionConfig
from m3video.motion.camera import camera_motion, remove_camera
from m3video.motion.fields import motion_fields
from m3video.motion.flow import grey
from m3video.video.moving_shapes import CLASSES, Scenes, render, sample_scenes
from m3video.video.sampling import plan_clip, sample_generator

HEIGHT, WIDTH = 72, 112


def homography_flow(matrix: np.ndarray, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    """Flow of a plane under a homography, by OpenCV in float64: [1, 2, H, W]."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    start = np.stack([x, y], axis=-1).reshape(1, -1, 2)
    end = cv2.perspectiveTransform(start, matrix)
    moved = (end - start).reshape(height, width, 2)
    return torch.from_numpy(moved).float().permute(2, 0, 1)[None]


MATRICES = {
    "pan": np.array([[1, 0, 3.25], [0, 1, -1.5], [0, 0, 1.0]]),
    "turn and zoom": np.array([[1.02, -0.03, 1.0], [0.03, 1.02, -2.0], [0, 0, 1.0]]),
    "tilt": np.array([[1.0, 0.01, 0.5], [0.0, 1.0, 0.25], [2e-4, -1e-4, 1.0]]),
}


@pytest.mark.parametrize("name", MATRICES)
def test_a_homography_is_found_and_removed(name: str) -> None:
    matrix = MATRICES[name]
    flow = homography_flow(matrix)
    found = camera_motion(flow)
    assert found.shape == (1, 3, 3)
    torch.testing.assert_close(found[0].double(), torch.from_numpy(matrix), atol=1e-3, rtol=1e-3)
    assert remove_camera(flow, found).abs().max() < 5e-3


@pytest.mark.parametrize("name", MATRICES)
def test_what_moves_by_itself_keeps_its_motion(name: str) -> None:
    """A quarter of the frame moves in the scene by (2, 1), and the camera then moves."""
    matrix = MATRICES[name]
    flow = homography_flow(matrix)
    y, x = np.mgrid[10:50, 20:70].astype(np.float64)
    inside = np.stack([x, y], axis=-1).reshape(1, -1, 2)
    end = cv2.perspectiveTransform(inside + np.array([2.0, 1.0]), matrix)
    flow[0, :, 10:50, 20:70] = torch.from_numpy((end - inside).reshape(40, 50, 2)).permute(2, 0, 1)
    relative = remove_camera(flow, camera_motion(flow))
    own = relative[0, :, 10:50, 20:70]
    assert (own - torch.tensor([2.0, 1.0])[:, None, None]).abs().max() < 0.02
    outside = relative.abs().amax(dim=1)[0]
    outside[10:50, 20:70] = 0
    assert outside.max() < 0.02


def test_fields_are_fitted_one_by_one() -> None:
    flow = torch.cat([homography_flow(matrix) for matrix in MATRICES.values()])
    together = camera_motion(flow)
    for number, field in enumerate(flow):
        assert torch.equal(camera_motion(field[None])[0], together[number])


def test_a_field_without_a_camera_is_left_alone() -> None:
    assert torch.equal(camera_motion(torch.zeros(1, 2, 1, 1)), torch.eye(3)[None])
    still = torch.zeros(2, 2, 20, 36)
    assert remove_camera(still, camera_motion(still)).abs().max() < 1e-5


def test_after_a_cut_there_is_no_camera() -> None:
    """Smooth random fields that no camera makes: nothing is removed that was not there."""
    torch.manual_seed(0)
    coarse = 12 * torch.randn(40, 2, 4, 6)
    flow = torch.nn.functional.interpolate(coarse, (HEIGHT, WIDTH), mode="bicubic")
    found = camera_motion(flow)
    removed = (flow - remove_camera(flow, found)).abs().amax(dim=(1, 2, 3))
    assert removed.max() < WIDTH / 2
    assert (found == torch.eye(3)).all(dim=(1, 2)).float().mean() > 0.5


def swaying(label: int, size: tuple[int, int] = (96, 128)) -> Scenes:
    return sample_scenes(
        torch.tensor([label]),
        frames=9,
        size=size,
        texture="both",
        generator=sample_generator(5, 0, label),
        duration=9,
    )


@pytest.mark.parametrize("label", range(0, len(CLASSES), 3))
def test_exact_on_rendered_clips_whose_camera_is_known(label: int) -> None:
    """Given exact flow, the background stands still to a hundredth of a pixel, and what an object
    does is its motion less that of the camera."""
    scenes = swaying(label)
    plan = plan_clip(ClipConfig(frames=2, stride=2, size=(96, 128)), 6)
    given = torch.cat([scenes.flow(plan.offsets[row]) for row in plan.pairs])
    frames = grey(render(scenes))[:, list(plan.offsets)]
    pan = scenes.pan.diff(dim=1)[0, [plan.offsets[row] for row in plan.pairs]]
    assert pan.norm(dim=-1).max() > 0.1
    found = motion_fields(frames, plan, MotionConfig(camera=True), given[None])
    truth = given - pan[:, :, None, None]
    assert (found.relative[0] - truth).abs().max() < 0.01
    assert torch.equal(found.flow[0], given)


def test_the_camera_is_found_in_estimated_flow() -> None:
    """With DIS, whose own error on these backgrounds is as large as the pan (0.6 px of 0.8)."""
    missed, panned = [], []
    for label in range(0, len(CLASSES), 4):
        scenes = swaying(label, (128, 176))
        plan = plan_clip(ClipConfig(frames=2, stride=2, size=(128, 176)), 6)
        frames = grey(render(scenes))[:, list(plan.offsets)]
        found = motion_fields(frames, plan, MotionConfig(camera=True))
        pan = scenes.pan.diff(dim=1)[0, [plan.offsets[row] for row in plan.pairs]]
        camera = found.flow[0] - found.relative[0]
        missed.append((camera - pan[:, :, None, None]).norm(dim=1).mean())
        panned.append(pan.norm(dim=1).mean())
    assert torch.stack(missed).mean() < 0.3 * torch.stack(panned).mean()
