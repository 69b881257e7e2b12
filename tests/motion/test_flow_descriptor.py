"""HOF and MBH: against numpy and OpenCV, compiled against torch, and exact cases."""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from m3video.motion.descriptor import block_normalise
from m3video.motion.flow import make_flow
from m3video.motion.flow_descriptor import FLOW_EPSILON, hof_at, hof_grid, mbh_at, mbh_grid
from m3video.motion.trajectory import seed_grid
from tests.motion.textures import texture

STILL = 0.4


def smooth_flow(fields: int, height: int, width: int, seed: int = 0, speed: float = 2.0) -> Tensor:
    """Random flow with structure of a few pixels, float32 [F, 2, H, W]."""
    noise = np.random.default_rng(seed).standard_normal((fields * 2, height, width))
    planes = [cv2.GaussianBlur(plane.astype(np.float32), (0, 0), 1.5) for plane in noise]
    flow = torch.from_numpy(np.stack(planes)).reshape(fields, 2, height, width)
    return flow * (speed / flow.std())


def constant(x: float, y: float, height: int = 24, width: int = 40) -> Tensor:
    return torch.tensor([x, y])[:, None, None].expand(2, height, width)


def shares_by_numpy(angle: np.ndarray, weight: np.ndarray, bins: int) -> np.ndarray:
    """Soft votes by numpy's histogram: at a hundredth of a bin, then folded with a hat."""
    fine, _ = np.histogram(angle, bins=100 * bins, range=(0, 360), weights=weight)
    at = (np.arange(100 * bins) + 0.5) / 100
    distance = np.abs(at[:, None] - np.arange(bins + 1))
    votes = (fine[:, None] * np.clip(1 - distance, 0, None)).sum(axis=0)
    votes[0] += votes[bins]
    return np.asarray(votes[:bins])


def angles(x: Tensor, y: Tensor) -> tuple[np.ndarray, np.ndarray]:
    magnitude, degrees = cv2.cartToPolar(
        x.double().contiguous().numpy(), y.double().contiguous().numpy(), angleInDegrees=True
    )
    return magnitude, degrees % 360


@pytest.mark.parametrize("bins", [4, 8, 9])
def test_hof_is_that_of_numpy(bins: int) -> None:
    """Angles by OpenCV, bins by numpy, on a frame that is not a multiple of the cell."""
    flow = smooth_flow(1, 29, 45)[0]
    ours = hof_grid(flow, bins=bins, cell=8, still=STILL)
    assert ours.shape == (3, 5, bins + 1)
    for row in range(3):
        for column in range(5):
            inside = flow[:, row * 8 : row * 8 + 8, column * 8 : column * 8 + 8]
            speed, degrees = angles(*inside)
            weight = speed * np.minimum(speed / STILL, 1)
            votes = shares_by_numpy(degrees, weight, bins) / 64
            np.testing.assert_allclose(ours[row, column, :bins].numpy(), votes, atol=0.01)
            quiet = np.clip(STILL - speed, 0, None).mean()
            assert float(ours[row, column, bins]) == pytest.approx(quiet, abs=1e-5)


@pytest.mark.parametrize("bins", [4, 8, 9])
def test_mbh_is_that_of_numpy(bins: int) -> None:
    """Gradients by OpenCV's filter, which leaves the border out of this test."""
    flow = smooth_flow(1, 29, 45, seed=1)[0]
    ours = mbh_grid(flow, bins=bins, cell=8)
    assert ours.shape == (3, 5, 2, bins)
    kernel = np.array([[-1.0, 0.0, 1.0]])
    for component in range(2):
        plane = flow[component].double().numpy()
        gx, gy = cv2.filter2D(plane, -1, kernel), cv2.filter2D(plane, -1, kernel.T)
        for row, column in ((1, 1), (1, 2), (1, 3)):
            inside = np.s_[row * 8 : row * 8 + 8, column * 8 : column * 8 + 8]
            magnitude, degrees = angles(torch.from_numpy(gx[inside]), torch.from_numpy(gy[inside]))
            votes = shares_by_numpy(degrees, magnitude, bins) / 64
            np.testing.assert_allclose(ours[row, column, component].numpy(), votes, atol=0.01)


@pytest.mark.parametrize("bins", [4, 8, 12])
@pytest.mark.parametrize("double", [False, True], ids=["compiled", "torch"])
def test_motion_in_one_direction_votes_in_its_bin(bins: int, double: bool) -> None:
    """Bin 0 is right, a quarter further is down; speed is the vote. MBH of it is 0 everywhere."""
    for number in range(bins):
        angle = 2 * math.pi * number / bins
        flow = constant(3 * math.cos(angle), 3 * math.sin(angle))
        flow = flow.double() if double else flow
        expected = torch.zeros(bins + 1, dtype=flow.dtype)
        expected[number] = 3
        histograms = hof_grid(flow, bins=bins)
        torch.testing.assert_close(histograms, expected.expand_as(histograms), atol=1e-5, rtol=0)
        assert (mbh_grid(flow, bins=bins) == 0).all()
        points = torch.tensor([[0.0, 0.0], [17.3, 9.8], [60.0, -9.0]]).to(flow)
        frame = torch.zeros(3, dtype=torch.long)
        around = hof_at(flow[None], frame, points, bins=bins)
        torch.testing.assert_close(around, expected.expand_as(around), atol=1e-5, rtol=0)
        assert (mbh_at(flow[None], frame, points, bins=bins) == 0).all()


@pytest.mark.parametrize("double", [False, True], ids=["compiled", "torch"])
def test_what_stands_still_fades_into_what_moves(double: bool) -> None:
    """Continuous in the speed; noise below the threshold does not choose a direction."""
    speeds = torch.linspace(0, 1, 101)
    flow = torch.stack([-speeds, torch.zeros(101)], dim=1)[..., None, None].expand(-1, -1, 8, 8)
    votes = hof_grid(flow.double() if double else flow, still=STILL)[:, 0, 0].float()
    torch.testing.assert_close(votes[:, -1], (STILL - speeds).clamp(min=0), atol=1e-6, rtol=0)
    moving = torch.where(speeds < STILL, speeds**2 / STILL, speeds)
    torch.testing.assert_close(votes[:, 4], moving, atol=1e-6, rtol=0)
    assert votes.diff(dim=0).abs().max() < 0.025
    quiet = smooth_flow(1, 32, 48, speed=0.03)[0]
    unit = block_normalise(hof_grid(quiet, still=STILL), (-1,), epsilon=FLOW_EPSILON)
    assert (unit[..., -1] > 0.98).all()
    assert (unit[..., :-1] < 0.05).all()


def test_the_components_of_mbh_are_not_swapped() -> None:
    """x flow that grows to the right, y flow that shrinks downwards, on a wide frame."""
    y, x = torch.meshgrid(torch.arange(24.0), torch.arange(56.0), indexing="ij")
    flow = torch.stack([0.5 * x, -0.25 * y])
    votes = mbh_grid(flow)[1, 1:-1]
    expected = torch.zeros(2, 8)
    expected[0, 0] = 1.0  # central difference of two pixels
    expected[1, 6] = 0.5
    torch.testing.assert_close(votes, expected.expand_as(votes), atol=1e-5, rtol=0)


@pytest.mark.parametrize("double", [False, True], ids=["compiled", "torch"])
def test_a_turn_by_90_degrees_permutes_the_bins(double: bool) -> None:
    """Turned clockwise as seen, right becomes down: bin i becomes bin i + n / 4."""
    flow = smooth_flow(1, 24, 40, seed=3)[0]
    flow = flow.double() if double else flow
    x, y = (torch.rot90(component, -1, (-2, -1)) for component in flow)
    turned = torch.stack([-y, x])
    places = torch.rot90(hof_grid(flow), -1, (0, 1))
    expected = torch.cat([places[..., :-1].roll(2, dims=-1), places[..., -1:]], dim=-1)
    torch.testing.assert_close(hof_grid(turned), expected, atol=1e-5, rtol=0)
    along_x, along_y = torch.rot90(mbh_grid(flow), -1, (0, 1)).unbind(-2)
    after = mbh_grid(turned)
    # the new x component is −y: its gradients are opposite as well as turned
    torch.testing.assert_close(after[..., 0, :], along_y.roll(2 + 4, dims=-1), atol=1e-5, rtol=0)
    torch.testing.assert_close(after[..., 1, :], along_x.roll(2, dims=-1), atol=1e-5, rtol=0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([2, 8, 9]), st.sampled_from([2, 5, 8]))
def test_compiled_and_torch_give_the_same_numbers(seed: int, bins: int, cell: int) -> None:
    """Planar or interleaved in memory; at points anywhere, outside the frame too."""
    generator = torch.Generator().manual_seed(seed)
    flow = smooth_flow(3, 21, 34, seed)
    flow[1] = flow[1].round()  # many exact zeros and axes
    if seed % 2:
        flow = flow.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    points = torch.rand(60, 2, generator=generator) * torch.tensor([44.0, 31.0]) - 5
    points[:10] = points[:10].round()
    frame = torch.randint(0, 3, (60,), generator=generator)
    for grid, at in ((hof_grid, hof_at), (mbh_grid, mbh_at)):
        torch.testing.assert_close(
            grid(flow, bins=bins, cell=cell),
            grid(flow.double(), bins=bins, cell=cell).float(),
            atol=1e-5,
            rtol=1e-5,
        )
        torch.testing.assert_close(
            at(flow, frame, points, bins=bins, cell=cell),
            at(flow.double(), frame, points.double(), bins=bins, cell=cell).float(),
            atol=1e-5,
            rtol=1e-5,
        )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_gives_the_same_numbers() -> None:
    flow = smooth_flow(3, 21, 34)
    points, frame = torch.rand(40, 2) * 30, torch.randint(0, 3, (40,))
    for grid, at in ((hof_grid, hof_at), (mbh_grid, mbh_at)):
        torch.testing.assert_close(grid(flow.cuda()).cpu(), grid(flow), atol=1e-5, rtol=1e-5)
        there = at(flow.cuda(), frame.cuda(), points.cuda()).cpu()
        torch.testing.assert_close(there, at(flow, frame, points), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("grid", "at"), [(hof_grid, hof_at), (mbh_grid, mbh_at)])
@pytest.mark.parametrize("double", [False, True], ids=["compiled", "torch"])
def test_at_the_centres_of_cells_it_is_the_grid(
    grid: Callable[..., Tensor], at: Callable[..., Tensor], double: bool
) -> None:
    flow = smooth_flow(2, 40, 72)
    flow = flow.double() if double else flow
    seeds = seed_grid(40, 72, 8)[1:-1, 1:-1].reshape(-1, 2).to(flow)
    for frame in range(2):
        around = at(flow, torch.full((len(seeds),), frame), seeds)
        expected = grid(flow)[frame, 1:-1, 1:-1].flatten(0, 1)
        torch.testing.assert_close(around, expected, atol=1e-5, rtol=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.integers(-9, 9), st.integers(-9, 9), st.floats(0, 1), st.floats(0, 1))
def test_a_shifted_field_has_the_same_histograms_at_shifted_points(
    across: int, down: int, x: float, y: float
) -> None:
    flow = smooth_flow(1, 48, 64, seed=5)
    moved = flow.roll((down, across), dims=(-2, -1))
    point = torch.tensor([[28 + x, 23 + y]])
    there = point + torch.tensor([across, down])
    frame = torch.zeros(1, dtype=torch.long)
    for at in (hof_at, mbh_at):
        torch.testing.assert_close(
            at(moved, frame, there), at(flow, frame, point), atol=1e-4, rtol=1e-4
        )


def test_leading_dimensions_stay() -> None:
    flow = smooth_flow(6, 16, 24).reshape(2, 3, 2, 16, 24)
    assert hof_grid(flow).shape == (2, 3, 2, 3, 9)
    assert mbh_grid(flow).shape == (2, 3, 2, 3, 2, 8)
    torch.testing.assert_close(hof_grid(flow)[1, 2], hof_grid(flow[1, 2]))
    torch.testing.assert_close(mbh_grid(flow)[1, 2], mbh_grid(flow[1, 2]))
    none, nowhere = torch.zeros(0, dtype=torch.long), torch.zeros(0, 2)
    assert hof_at(flow[0], none, nowhere).shape == (0, 9)
    assert mbh_at(flow[0], none, nowhere).shape == (0, 2, 8)


def test_the_estimators_noise_stays_small_after_normalisation() -> None:
    """Frames of a scene at rest, with a camera's noise: targets near nothing, not unit length."""
    image = texture(96, 128, smooth=2.0).float()
    noise = torch.randn(2, 96, 128, generator=torch.Generator().manual_seed(0)) * 2
    first, second = (image + noise).clamp(0, 255).round().to(torch.uint8).unbind()
    flow = make_flow("dis-fast")(first[None], second[None])[0]
    unit = block_normalise(mbh_grid(flow), (-2, -1), epsilon=FLOW_EPSILON)
    assert unit.norm(dim=(-2, -1)).mean() < 0.15
    moving = block_normalise(mbh_grid(smooth_flow(1, 96, 128)[0]), (-2, -1), epsilon=FLOW_EPSILON)
    assert moving.norm(dim=(-2, -1)).min() > 0.9
