"""The batched flow: known motion, OpenCV and exact scenes as oracles, batches, compilation."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from m3video.motion.batched import BatchedFlow
from m3video.motion.flow import grey, make_flow, read_flo
from m3video.video.moving_shapes import CLASSES, render, sample_scenes
from tests.motion.textures import panned, texture


def _pair(height: int, width: int, velocity: tuple[float, float], seed: int = 0) -> list[Tensor]:
    return list(grey(panned(2, height, width, velocity, seed))[:, None])


def _shifted(height: int, width: int, velocity: tuple[float, float], seed: int) -> list[Tensor]:
    """Frames [1, H, W] of a smooth texture, moved exactly: by the phases of its spectrum."""
    side = 2 * max(height, width)
    y, x = np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)[None]
    noise = np.random.default_rng(seed).standard_normal((side, side))
    spectrum = np.fft.fft2(noise) * np.exp(-((x**2 + y**2) / (2 * 0.1**2)))
    frames = []
    for time in (0, 1):
        phase = np.exp(-2j * np.pi * time * (x * velocity[0] + y * velocity[1]))
        wave = np.fft.ifft2(spectrum * phase).real
        image = (128 + 40 * wave / wave.std()).round().clip(0, 255).astype(np.uint8)
        frames.append(torch.from_numpy(image[:height, :width])[None])
    return frames


def _error(flow: Tensor, velocity: tuple[float, float], border: int) -> Tensor:
    """End-point errors [1, h, w] of the pixels inside a border."""
    inner = flow[..., border:-border, border:-border]
    return (inner - torch.tensor(velocity)[:, None, None]).norm(dim=1)


def test_identical_frames_do_not_move() -> None:
    still = torch.stack([texture(48, 66), texture(48, 66, seed=1), torch.full((48, 66), 90).byte()])
    assert BatchedFlow()(still, still).abs().max() < 1e-4


@pytest.mark.parametrize("velocity", [(0.4, 0.3), (-0.25, 0.75), (0.1, 0.0), (1.5, -2.5)])
def test_motion_below_a_pixel(velocity: tuple[float, float]) -> None:
    """No pull to whole or half pixels, which bilinear frames and flow kept in fixed point show."""
    for seed in range(2):
        flow = BatchedFlow()(*_shifted(96, 136, velocity, seed))
        error = _error(flow, velocity, 16)
        assert error.mean() < 0.05
        bias = flow[0, :, 16:-16, 16:-16].mean(dim=(1, 2)) - torch.tensor(velocity)
        assert bias.abs().max() < 0.03


@pytest.mark.parametrize("velocity", [(12.0, 0.0), (-9.0, 15.0), (0.0, -20.0)])
def test_large_motion(velocity: tuple[float, float]) -> None:
    error = _error(BatchedFlow()(*_pair(160, 224, velocity)), velocity, 28)
    assert error.median() < 0.05
    assert error.mean() < 0.2


def test_what_leaves_the_frame_moves_with_its_neighbours() -> None:
    """Pixels that have no counterpart say nothing, and the border does not hold them back."""
    flow = BatchedFlow()(*_pair(160, 224, (14.0, 0.0)))
    leaving = flow[0, :, 20:-20, -14:] - torch.tensor([14.0, 0.0])[:, None, None]
    assert leaving.norm(dim=0).mean() < 0.5


@settings(max_examples=12, deadline=None)
@given(
    height=st.integers(16, 70),
    width=st.integers(16, 70),
    x=st.floats(-2, 2),
    y=st.floats(-2, 2),
    seed=st.integers(0, 99),
)
def test_any_size(height: int, width: int, x: float, y: float, seed: int) -> None:
    """Odd, not square, small: next − current, x first."""
    flow = BatchedFlow()(*_pair(height, width, (x, y), seed))
    assert flow.shape == (1, 2, height, width)
    assert flow.dtype == torch.float32
    median = flow[0].flatten(1).median(dim=1).values
    assert median.tolist() == pytest.approx([x, y], abs=0.2)


def test_transposed_frames_have_the_transposed_flow() -> None:
    first, second = _pair(50, 83, (3.0, -1.0))
    flow = BatchedFlow()(first, second)
    across = BatchedFlow()(first.mT.contiguous(), second.mT.contiguous())
    assert torch.allclose(across.mT.flip(1), flow, atol=1e-2)
    assert flow[0, 0].median() == pytest.approx(3.0, abs=0.1)


def test_frames_of_one_pixel_and_no_frames() -> None:
    for shape in ((0, 32, 48), (2, 1, 1), (1, 3, 20)):
        frames = torch.full(shape, 7, dtype=torch.uint8)
        assert torch.equal(BatchedFlow()(frames, frames), torch.zeros(shape[0], 2, *shape[1:]))


@pytest.mark.parametrize("size", [(48, 64), (37, 51)])
def test_a_pair_does_not_depend_on_the_others(size: tuple[int, int]) -> None:
    pairs = [_pair(*size, (v, 1.0), seed) for seed, v in enumerate((4.0, 2.0, 0.5))]
    first, second = (torch.cat(frames) for frames in zip(*pairs, strict=True))
    together = BatchedFlow()(first, second)
    order = torch.tensor([2, 0, 1])
    assert torch.equal(BatchedFlow()(first[order], second[order]), together[order])
    for pair in range(3):
        assert torch.equal(BatchedFlow()(*pairs[pair])[0], together[pair])


def test_a_change_of_light_is_no_motion() -> None:
    first, second = _pair(64, 96, (1.5, 0.5))
    brighter = (second.float() * 1.05 + 4).clamp(max=255).round().to(torch.uint8)
    flow = BatchedFlow()(first, brighter)
    assert _error(flow, (1.5, 0.5), 12).mean() < 0.1


def test_it_can_be_sent_to_a_worker() -> None:
    frames = _pair(32, 48, (1.0, 0.0))
    sent = pickle.loads(pickle.dumps(BatchedFlow()))
    assert torch.equal(sent(*frames), BatchedFlow()(*frames))


@pytest.mark.parametrize(("size", "duration"), [((96, 128), 24), ((160, 208), 12), ((64, 64), 16)])
def test_moving_shapes_against_dis(size: tuple[int, int], duration: int) -> None:
    """At most 1.05 times the error of DIS fast, over the pixels that stay in sight."""
    scenes = sample_scenes(
        torch.arange(len(CLASSES)),
        frames=2,
        size=size,
        texture="both",
        generator=torch.Generator().manual_seed(3),
        duration=duration,
    )
    frames = grey(render(scenes))
    y, x = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    exact = scenes.tracks(torch.stack([x, y], dim=-1)[None], 0, 1)
    seen = exact.visible.all(dim=-1)

    def error(flow: Tensor) -> float:
        wrong = flow.permute(0, 2, 3, 1) - exact.displacements[..., 0, :]
        return float(wrong.norm(dim=-1)[seen].mean())

    fast = error(make_flow("dis-fast")(frames[:, 0], frames[:, 1]))
    assert error(BatchedFlow()(frames[:, 0], frames[:, 1])) <= 1.05 * fast


def test_it_compiles_in_one_graph_for_all_frames() -> None:
    torch.compiler.reset()
    estimate = BatchedFlow(warps=1, steps=2)
    compiled = torch.compile(estimate, fullgraph=True, backend="aot_eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        for velocity in ((1.0, -0.5), (-2.0, 0.0)):
            frames = _pair(20, 27, velocity)
            assert torch.allclose(compiled(*frames), estimate(*frames), atol=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_inductor_gives_the_same_flow() -> None:
    frames = _pair(130, 144, (1.0, -0.5))
    torch.compiler.reset()
    estimate = BatchedFlow(warps=1, steps=2)
    flow = torch.compile(estimate, fullgraph=True)(*frames)
    assert torch.allclose(flow, estimate(*frames), atol=1e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_same_on_a_gpu_without_synchronisation() -> None:
    frames = _pair(96, 128, (2.0, -0.5))
    there = [frame.cuda() for frame in frames]
    torch.cuda.set_sync_debug_mode("error")
    try:
        flow = BatchedFlow()(*there)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.allclose(flow.cpu(), BatchedFlow()(*frames), atol=1e-2)


FOLDER = Path(__file__).parents[2] / ".." / "shared" / "data" / "flow"


@pytest.mark.parametrize(("pair", "bar"), [(0, 2.05), (1, 1.71)])
def test_error_on_flying_chairs(pair: int, bar: float) -> None:
    """At seeds 8 px apart, not above that of DIS fast."""
    if not FOLDER.is_dir():
        pytest.skip("no ../shared/data/flow")
    first, second = (
        torch.from_numpy(
            cv2.imread(str(FOLDER / f"chairs{pair}_frame{n}.png"), cv2.IMREAD_COLOR_RGB)
        )
        for n in (1, 2)
    )
    flow = BatchedFlow()(grey(first)[None], grey(second)[None])[0]
    error = (flow - read_flo(FOLDER / f"chairs{pair}_flow.flo")).norm(dim=0)[3::8, 3::8]
    assert error.mean() < bar


def test_golden_numbers() -> None:
    y, x = np.mgrid[:40, :56]
    wave = [
        127 + 60 * np.sin(0.31 * (x - move) + 0.2) + 60 * np.cos(0.27 * (y + 0.5 * move) - 0.1 * x)
        for move in (0.0, 1.0)
    ]
    first, second = (torch.from_numpy(image.round().astype(np.uint8))[None] for image in wave)
    flow = BatchedFlow()(first, second)[0, :, 5:40:10, 28]
    expected = [[0.9891, 1.0036, 1.0177, 0.9897], [-0.1269, -0.1097, -0.1107, -0.1495]]
    assert torch.allclose(flow, torch.tensor(expected), atol=1e-3)
