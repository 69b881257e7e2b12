"""HOF and MBH as targets: order, which flow they read, normalisation, validity."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from m3video.config import PretrainConfig
from m3video.motion.flow_descriptor import hof_at, hof_grid, mbh_at, mbh_grid
from m3video.targets import ClipView, Target, build_targets
from tests.targets.clips import moving_view, noise_view, settings

NAMES = ("hof", "mbh", "trajectory_hof", "trajectory_mbh")


def config_of(name: str, **options: Any) -> PretrainConfig:
    return settings(targets={name: {"weight": 1, **options}})


def known(config: PretrainConfig, seed: int = 0) -> ClipView:
    """A view of noise with smooth random flow that came with it."""
    noise = noise_view(config, batch=2)
    torch.manual_seed(seed)
    coarse = torch.randn(2 * len(noise.plan.pairs), 2, 5, 7)
    flow = torch.nn.functional.interpolate(coarse, (32, 48), mode="bicubic")
    given = flow.reshape(2, -1, 2, 32, 48)
    return ClipView(noise.frames, noise.real, noise.plan, noise.clip, noise.motion, given)


def made(config: PretrainConfig, view: ClipView) -> Target:
    (maker,) = build_targets(config).values()
    target = maker(view)
    assert target.values.shape == (*view.frames.shape[:1], 12, maker.dim)
    return target


@pytest.mark.parametrize(("bins", "cell", "dim"), [(8, 8, 36), (6, 4, 112), (12, 16, 13)])
def test_hof_is_ordered_cell_row_cell_column_bin(bins: int, cell: int, dim: int) -> None:
    config = config_of("hof", bins=bins, cell=cell, normalise="none", still=0.3)
    view = known(config)
    target = made(config, view)
    assert target.values.shape[-1] == dim
    cells = 16 // cell
    values = target.values.reshape(2, 2, 2, 3, cells, cells, bins + 1)
    grid = hof_grid(view.first_flow, bins=bins, cell=cell, still=0.3)
    for clip, time, row, column in [(0, 0, 0, 0), (1, 1, 1, 2), (0, 1, 0, 2)]:
        rows = slice(row * cells, (row + 1) * cells)
        columns = slice(column * cells, (column + 1) * cells)
        torch.testing.assert_close(values[clip, time, row, column], grid[clip, time, rows, columns])


@pytest.mark.parametrize(("bins", "cell", "dim"), [(8, 8, 64), (6, 16, 12)])
def test_mbh_is_ordered_cell_row_cell_column_axis_bin(bins: int, cell: int, dim: int) -> None:
    config = config_of("mbh", bins=bins, cell=cell, normalise="none")
    view = known(config)
    target = made(config, view)
    assert target.values.shape[-1] == dim
    cells = 16 // cell
    values = target.values.reshape(2, 2, 2, 3, cells, cells, 2, bins)
    grid = mbh_grid(view.first_flow, bins=bins, cell=cell)
    rows, columns = slice(cells, 2 * cells), slice(2 * cells, 3 * cells)
    torch.testing.assert_close(values[1, 0, 1, 2], grid[1, 0, rows, columns])


def around(view: ClipView, clip: int, tubelet: int, seed: tuple[int, int], step: int) -> Any:
    """The field that a point is in, and where it is there."""
    pair = view.plan.pairs.index(view.plan.starts[tubelet] + step)
    field = view.fields.flow[clip, pair][None]
    point = view.tracks.points[clip, tubelet, seed[0], seed[1], step]
    return field, torch.zeros(1, dtype=torch.long), point[None]


def test_along_trajectories_each_point_is_looked_at_where_and_when_it_is() -> None:
    """Point 2 of patch (1, 2) is the seed in row 3, column 4; the step's own flow is read."""
    hof = config_of("trajectory_hof", normalise="none", still=0.3)
    mbh = config_of("trajectory_mbh", normalise="none")
    view = known(hof)
    seen = view.tracks.visible[:, :, 3, 4]
    for clip, tubelet, step in [(0, 0, 0), (0, 1, 1), (1, 1, 2)]:
        assert seen[clip, tubelet, step + 1]
        place = around(view, clip, tubelet, (3, 4), step)
        values = made(hof, view).values.reshape(2, 2, 2, 3, 4, 3, 9)
        expected = hof_at(*place, bins=8, cell=8, still=0.3)[0]
        torch.testing.assert_close(values[clip, tubelet, 1, 2, 2, step], expected)
        values = made(mbh, view).values.reshape(2, 2, 2, 3, 4, 3, 2, 8)
        expected = mbh_at(*place, bins=8, cell=8)[0]
        torch.testing.assert_close(values[clip, tubelet, 1, 2, 2, step], expected)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["block", "l2-hys"])
def test_blocks_have_unit_length(name: str, kind: str) -> None:
    """The whole patch on the grid; each step of it along trajectories."""
    config = config_of(name, normalise=kind)
    target = made(config, known(config))
    assert target.values.min() >= 0
    assert target.values.max() <= 1
    values = torch.where(target.valid, target.values, 0)
    if name.startswith("trajectory"):
        blocks = values.reshape(2, 12, 4, 3, -1).transpose(2, 3).flatten(3)
        valid = target.valid.reshape(2, 12, 4, 3, -1).any(dim=-1).any(dim=2)
        norm = blocks.norm(dim=-1)[valid]
    else:
        norm = values.norm(dim=-1)
    assert norm.min() > 0.8
    assert norm.max() < 1.001


@pytest.mark.parametrize("name", NAMES)
def test_still_frames_are_finite_and_small_change_is_small(name: str) -> None:
    """No noise is blown up where nothing moves: 0.003 px, from pixel to pixel."""
    config = config_of(name)
    noise = noise_view(config, batch=1)
    pairs = len(noise.plan.pairs)

    def target_of(given: Tensor) -> Tensor:
        view = ClipView(noise.frames, noise.real, noise.plan, noise.clip, noise.motion, given[None])
        return made(config, view).values

    torch.manual_seed(0)
    still = target_of(torch.zeros(pairs, 2, 32, 48))
    shaken = target_of(0.003 * torch.randn(pairs, 2, 32, 48))
    assert (still - shaken).norm(dim=-1).max() < 0.25


@pytest.mark.parametrize("name", NAMES)
def test_where_the_video_has_ended_nothing_is_known(name: str) -> None:
    config = config_of(name)
    view = moving_view(config, (1.5, -0.5))
    real = view.real.clone()
    real[0, view.plan.starts[1] + 1 :] = False
    view = ClipView(view.frames, real, view.plan, view.clip, view.motion)
    target = made(config, view)
    valid = target.valid.expand_as(target.values)
    assert not valid[0, 6:].any()
    assert valid[0, [1, 4]].any(dim=-1).all()
    assert (target.values[~valid] == 0).all()


@pytest.mark.parametrize("name", ["hof", "trajectory_hof"])
def test_without_the_camera_a_panned_scene_stands_still(name: str) -> None:
    """All votes are for what stands still, the last bin; with the camera none is."""
    config = config_of(name, normalise="none", still=0.4)
    noise = noise_view(config, batch=1)
    pan = torch.zeros(1, len(noise.plan.pairs), 2, 32, 48)
    pan[:, :, 0] = 1.5
    motion = noise.motion.model_copy(update={"camera": True})
    votes = {}
    for removed in (noise.motion, motion):
        view = ClipView(noise.frames, noise.real, noise.plan, noise.clip, removed, pan)
        target = made(config, view)
        values = target.values.reshape(-1, 9)[
            target.valid.expand_as(target.values)[..., ::9].flatten()
        ]
        votes[removed.camera] = values.mean(dim=0)
    assert votes[True][8] == pytest.approx(0.4, abs=0.01)
    assert votes[True][:8].abs().max() < 0.01
    assert votes[False][0] == pytest.approx(1.5, abs=0.01)
    assert votes[False][8] == pytest.approx(0.0, abs=1e-6)


def test_mbh_does_not_see_a_steady_camera() -> None:
    config = config_of("mbh", normalise="none")
    values = made(config, known(config)).values
    view = known(config)
    panned = view.given + torch.tensor([2.0, -1.0])[:, None, None]  # type: ignore[operator]
    moved = ClipView(view.frames, view.real, view.plan, view.clip, view.motion, panned)
    torch.testing.assert_close(made(config, moved).values, values, atol=1e-5, rtol=1e-4)
