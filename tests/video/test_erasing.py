"""Random erasing: boxes of the right size and number, noise in them, and nowhere else."""

from __future__ import annotations

import pytest
import torch

from m3video.video.erasing import draw_box, erase


def test_boxes_are_as_many_and_as_large_as_they_should_be() -> None:
    generator = torch.Generator().manual_seed(0)
    boxes = [draw_box((48, 80), 0.25, generator).tolist() for _ in range(4000)]
    drawn = [box for box in boxes if box[2]]
    assert abs(len(drawn) / 4000 - 0.25) < 0.025
    shares = [rows * columns / (48 * 80) for _, _, rows, columns in drawn]
    assert min(shares) > 0.015
    assert max(shares) < 0.345
    assert all(top + rows <= 48 and left + cols <= 80 for top, left, rows, cols in drawn)
    ratios = torch.tensor([rows / columns for _, _, rows, columns in drawn])
    assert ratios.min() > 0.25
    assert ratios.log().mean().abs() < 0.15, "tall boxes are as frequent as wide ones"


@pytest.mark.parametrize(("chance", "found"), [(0.0, 0), (1.0, 200)])
def test_never_and_always(chance: float, found: int) -> None:
    generator = torch.Generator().manual_seed(0)
    boxes = [draw_box((64, 64), chance, generator) for _ in range(200)]
    assert sum(bool(box.any()) for box in boxes) == found


def test_the_box_holds_noise_in_all_frames_and_nothing_else_changes() -> None:
    clips = torch.full((2, 3, 4, 32, 48), 7.0)
    erase(clips, [[0, 0, 0, 0], [4, 10, 20, 30]], [0, 1])
    assert (clips[0] == 7).all()
    box = clips[1, :, :, 4:24, 10:40]
    assert abs(float(box.mean())) < 0.05
    assert abs(float(box.std()) - 1) < 0.05
    assert not torch.equal(box[:, 0], box[:, 1])
    alone = torch.full((1, 3, 4, 32, 48), 7.0)
    erase(alone, [[4, 10, 20, 30]], [1])
    assert torch.equal(alone[0], clips[1]), "its seed alone decides"
    clips[1, :, :, 4:24, 10:40] = 7.0
    assert (clips == 7).all()
