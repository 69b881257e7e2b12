"""The grid-HOG target: order, range, frames that are read."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from m3video.motion.descriptor import hog_grid
from m3video.targets import build_targets, hog
from tests.targets.clips import noise_view, settings


@pytest.mark.parametrize(("bins", "cell", "dim"), [(9, 8, 108), (6, 4, 288), (12, 16, 36)])
def test_order_is_channel_cell_row_cell_column_bin(bins: int, cell: int, dim: int) -> None:
    """Trap 4, second half: nothing assumes 9 bins."""
    config = settings(
        targets={
            "hog": {
                "weight": 1,
                "bins": bins,
                "cell": cell,
                "colour": "rgb",
                "normalise": "none",
            }
        }
    )
    maker = build_targets(config)["hog"]
    assert maker.dim == dim
    view = noise_view(config, batch=1)
    cells = 16 // cell
    values = maker(view).values[0].reshape(2, 2, 3, 3, cells, cells, bins)
    for time, start in enumerate(view.plan.starts):
        for channel in range(3):
            grid = hog_grid(view.frames[0, start, ..., channel], bins=bins, cell=cell)
            for row, column in [(0, 0), (1, 2)]:
                block = grid[row * cells : (row + 1) * cells, column * cells : (column + 1) * cells]
                torch.testing.assert_close(values[time, row, column, channel], block)


@pytest.mark.parametrize("colour", ["grey", "rgb"])
def test_each_patch_has_unit_length(colour: str) -> None:
    """Trap 5: from uint8 frames, block-normalised, it fits a Sigmoid."""
    config = settings(targets={"hog": {"weight": 1, "colour": colour}})
    target = build_targets(config)["hog"](noise_view(config))
    assert target.values.min() >= 0
    assert target.values.max() <= 1
    norm = target.values.norm(dim=-1)
    torch.testing.assert_close(norm, torch.ones_like(norm), atol=0.01, rtol=0)
    assert target.valid.all()


def test_only_the_first_frame_of_a_tubelet_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trap 11: as many frames as there are tubelets, and the others have no effect."""
    config = settings(targets={"hog": {"weight": 1, "colour": "rgb"}})
    maker = build_targets(config)["hog"]
    view = noise_view(config, batch=1)
    images: list[Tensor] = []

    def spy(given: Tensor, **options: int) -> Tensor:
        images.append(given)
        return hog_grid(given, **options)

    monkeypatch.setattr(hog, "hog_grid", spy)
    before = maker(view).values
    assert [given.shape for given in images] == [(1, 3, 2, 32, 48)]
    others = [row for row in range(view.frames.shape[1]) if row not in view.plan.starts]
    view.frames[:, others] = 0
    assert torch.equal(maker(view).values, before)
    view.frames[:, view.plan.starts[1]] = 0
    assert not torch.equal(maker(view).values, before)
