"""The flow target: order, cells, units, and what is unknown."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from m3video.targets import ClipView, build_targets
from tests.targets.clips import moving_view, noise_view, settings


def given_view(flow: Tensor, **options: object) -> tuple[ClipView, Tensor]:
    """The flow target of one clip with known flow [P, 2, 32, 48], as [t, rows, columns, …]."""
    config = settings(targets={"flow": {"weight": 1, "scale": 2.0, **options}})
    noise = noise_view(config, batch=1)
    view = ClipView(noise.frames, noise.real, noise.plan, noise.clip, noise.motion, flow[None])
    target = build_targets(config)["flow"](view)
    assert target.valid.all()
    return view, target.values[0].reshape(2, 2, 3, -1)


def test_cells_of_a_patch_row_by_row_x_before_y() -> None:
    """Flow that tells where it is: x = column, y = 100 · row (never clamped)."""
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(48.0), indexing="ij")
    flow = torch.stack([x, 100 * y]).repeat(2, 1, 1, 1)
    _, values = given_view(flow, clamp=1e6)
    # patch (1, 2): rows 16 … 31, columns 32 … 47; its second cell is rows 16 … 23, columns 40 … 47
    assert values.shape == (2, 2, 3, 8)
    expected = torch.tensor([35.5, 1950.0, 43.5, 1950.0, 35.5, 2750.0, 43.5, 2750.0]) / 2
    torch.testing.assert_close(values[0, 1, 2], expected)


@pytest.mark.parametrize(("cell", "dim"), [(16, 2), (8, 8), (4, 32), (1, 512)])
def test_any_cell_that_divides_the_patch(cell: int, dim: int) -> None:
    flow = torch.randn(2, 2, 32, 48)
    _, values = given_view(flow, cell=cell)
    assert values.shape[-1] == dim
    mean = values.reshape(2, 2, 3, -1, 2).mean(dim=3)
    expected = flow.reshape(2, 2, 2, 16, 3, 16).mean(dim=(3, 5)).permute(0, 2, 3, 1) / 2
    torch.testing.assert_close(mean, expected)


def test_flow_is_clamped_before_it_is_averaged() -> None:
    flow = torch.zeros(2, 2, 32, 48)
    flow[:, 0, :, ::2] = 50.0
    _, values = given_view(flow, cell=16, clamp=20.0)
    assert (values[..., 0] == 5.0).all()  # half of the pixels at 20, divided by 2
    assert (values[..., 1] == 0).all()


def test_it_is_the_flow_of_the_tubelets_first_step() -> None:
    """Only two pairs of the clip are estimated, and they are those after rows 0 and 8."""
    config = settings(targets={"flow": {"weight": 1, "scale": 1.0}})
    view = moving_view(config, (1.5, -0.5))
    assert view.plan.pairs == (0, 3)
    assert [view.plan.offsets[row] for row in view.plan.pairs] == [0, 8]
    values = build_targets(config)["flow"](view).values.reshape(2, 2, 3, 2, 2, 2)
    assert values[:, :, 1].mean(dim=(0, 1, 2, 3)).tolist() == pytest.approx([1.5, -0.5], abs=0.15)


def test_without_interpolation_it_goes_to_the_next_input() -> None:
    config = settings(targets={"flow": {"weight": 1, "scale": 1.0}}, motion={"interpolate": False})
    view = moving_view(config, (0.5, -0.25))
    assert [view.plan.offsets[row] for row in view.plan.pairs] == [0, 8]
    assert view.plan.offsets == (0, 4, 8, 12)
    values = build_targets(config)["flow"](view).values.reshape(2, 2, 3, 2, 2, 2)
    assert values[:, :, 1].mean(dim=(0, 1, 2, 3)).tolist() == pytest.approx([2.0, -1.0], abs=0.2)


def test_where_the_video_has_ended_nothing_is_known() -> None:
    config = settings(targets={"flow": {"weight": 1}})
    view = moving_view(config, (1.5, -0.5))
    real = view.real.clone()
    real[0, view.plan.starts[1] + 1] = False
    view = ClipView(view.frames, real, view.plan, view.clip, view.motion)
    target = build_targets(config)["flow"](view)
    assert target.valid[0, :, 0].tolist() == [True] * 6 + [False] * 6
    assert (target.values[0, 6:] == 0).all()
    assert (target.values[0, :6] != 0).any()


def test_the_cameras_motion_can_be_left_out() -> None:
    targets = {"flow": {"weight": 1, "scale": 1.0}}
    view = moving_view(settings(targets=targets, motion={"camera": True}), (1.5, -0.5))
    config = settings(targets=targets)
    assert build_targets(config)["flow"](view).values.abs().mean() < 0.1
