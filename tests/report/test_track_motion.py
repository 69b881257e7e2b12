"""Motion of small frames in pixels of large ones; windows that are followed pair by pair."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from m3video.config import MotionConfig
from m3video.motion.camera import bring_back
from m3video.motion.fields import Fields
from m3video.motion.trajectory import follow, seed_grid
from m3video.report.track_motion import Follower, PairMotion, enlarge_fields, working_size


@pytest.mark.parametrize(
    ("size", "expected"), [(None, (90, 160)), (45, (45, 80)), (60, (60, 107)), (400, (90, 160))]
)
def test_working_size_keeps_the_aspect_and_never_grows(
    size: int | None, expected: tuple[int, int]
) -> None:
    assert working_size(90, 160, size) == expected
    assert working_size(160, 90, size) == expected[::-1]


@given(
    st.lists(st.floats(-0.2, 0.2), min_size=6, max_size=6),
    st.sampled_from([(24, 40), (30, 50), (18, 27)]),
)
@settings(max_examples=25, deadline=None)
def test_enlarged_flow_is_that_of_the_same_places(
    slopes: list[float], size: tuple[int, int]
) -> None:
    """Linear flow is its own interpolation: what is Ax + b at a small place is s · that here."""
    small = 12, 20
    matrix = np.array(slopes).reshape(2, 3)

    def linear(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.einsum("ij,jhw->ihw", matrix, np.stack([x, y, np.ones_like(x)]))

    y, x = np.mgrid[: small[0], : small[1]].astype(np.float64)
    flow = torch.from_numpy(linear(x, y)).float()[None, None]
    found = enlarge_fields(Fields(flow), size).flow[0, 0].numpy()
    scale = np.array([size[1] / small[1], size[0] / small[0]])
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float64)
    expected = scale[:, None, None] * linear((x + 0.5) / scale[0] - 0.5, (y + 0.5) / scale[1] - 0.5)
    inner = np.s_[:, 3:-3, 3:-3]
    np.testing.assert_allclose(found[inner], expected[inner], atol=1e-4)


@given(st.lists(st.floats(-1, 1), min_size=8, max_size=8), st.floats(0, 19), st.floats(0, 11))
def test_enlarged_camera_leads_from_and_to_the_same_places(
    numbers: list[float], x: float, y: float
) -> None:
    bend = np.array([0.02, 0.02, 2, 0.02, 0.02, 2, 5e-4, 5e-4, 0]).reshape(3, 3)
    camera = np.eye(3) + bend * np.array([*numbers, 0.0]).reshape(3, 3)
    point = torch.tensor([x, y], dtype=torch.float64)
    there = bring_back(point, torch.from_numpy(camera))
    fields = Fields(torch.zeros(1, 1, 2, 12, 20), torch.from_numpy(camera).float()[None, None])
    large = enlarge_fields(fields, (36, 50)).camera
    assert large is not None
    scale = torch.tensor([2.5, 3.0], dtype=torch.float64)
    found = bring_back((point + 0.5) * scale - 0.5, large[0, 0].double())
    np.testing.assert_allclose(found, (there + 0.5) * scale - 0.5, atol=2e-3)


def test_enlarged_agreement_is_that_of_the_nearest_pixel() -> None:
    holds = torch.zeros(1, 1, 2, 3, dtype=torch.bool)
    holds[..., 0, 2] = True
    fields = Fields(torch.zeros(1, 1, 2, 2, 3), None, holds)
    large = enlarge_fields(fields, (4, 9)).consistent
    assert large is not None
    assert large[0, 0].nonzero().tolist() == [[y, x] for y in (0, 1) for x in (6, 7, 8)]


def test_frames_found_small_move_as_far_as_they_do() -> None:
    """A smooth texture that moves by (6, −3) pixels, and flow of half the size."""
    rng = np.random.default_rng(0)
    waves = rng.uniform(-0.25, 0.25, (12, 2))
    phases = rng.uniform(0, 6.28, 12)

    def picture(dx: float, dy: float) -> np.ndarray:
        y, x = np.mgrid[:120, :200]
        bright = sum(
            np.sin(a * (x - dx) + b * (y - dy) + phase)
            for (a, b), phase in zip(waves, phases, strict=True)
        )
        return np.repeat(np.clip(128 + 15 * bright, 0, 255)[..., None], 3, -1).astype(np.uint8)

    source = PairMotion(Path("unread.mp4"), MotionConfig(flow="dis-medium"), (60, 100), "cpu")
    found = source.fields(0, [picture(0, 0), picture(6, -3)])
    flow = enlarge_fields(found, (120, 200)).flow[0, 0, :, 30:-30, 30:-30]
    np.testing.assert_allclose(flow.mean((1, 2)), [6, -3], atol=0.15)


def test_windows_pair_by_pair_are_those_of_all_pairs_at_once() -> None:
    random = torch.Generator().manual_seed(0)
    fields = Fields(
        3 * torch.randn(1, 7, 2, 24, 40, generator=random),
        torch.eye(3) + 0.003 * torch.randn(1, 7, 3, 3, generator=random),
        torch.rand(1, 7, 24, 40, generator=random) > 0.1,
    )
    follower, done = Follower(24, 40, 4, 3), []
    assert fields.camera is not None
    assert fields.consistent is not None
    for pair in range(7):
        part = slice(pair, pair + 1)
        one = Fields(fields.flow[:, part], fields.camera[:, part], fields.consistent[:, part])
        finished = follower.step(one)
        if finished is not None:
            done.append(finished)
    assert follower.current.steps == 1
    expected = follow(fields, torch.tensor([[0, 1, 2], [3, 4, 5]]), seed_grid(24, 40, 4))
    assert 0.2 < expected.visible[..., -1].float().mean() < 0.95
    for part_name in ("points", "displacements", "visible"):
        found = torch.stack([getattr(each, part_name) for each in done])
        torch.testing.assert_close(found, getattr(expected, part_name)[0], rtol=0, atol=0)
