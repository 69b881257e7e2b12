"""The trajectory-HOG target: order, validity, and what is looked at."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from m3video.motion.descriptor import hog_at
from m3video.motion.trajectory import Tracks
from m3video.targets import ClipView, build_targets, trajectory_hog
from m3video.video.sampling import plan_clip, span_rows
from tests.targets.clips import moving_view, noise_view, settings


@pytest.mark.parametrize(("colour", "channels"), [("grey", 1), ("rgb", 3)])
def test_order_is_point_step_channel_bin(colour: str, channels: int) -> None:
    config = settings(
        targets={"trajectory_hog": {"weight": 1, "colour": colour, "normalise": "none", "bins": 6}}
    )
    maker = build_targets(config)["trajectory_hog"]
    assert maker.dim == 4 * 3 * channels * 6
    view = noise_view(config)
    target = maker(view)
    values = target.values.reshape(2, 2, 2, 3, 2, 2, 3, channels, 6)
    valid = target.valid.reshape(2, 2, 2, 3, 2, 2, 3, channels, 6)
    images = view.frames if colour == "rgb" else view.grey[..., None]
    for clip, time, row, column, down, across, step in [
        (0, 0, 0, 0, 0, 1, 0),
        (1, 1, 1, 2, 1, 0, 2),
        (1, 0, 1, 1, 1, 1, 1),
    ]:
        place = clip, time, 2 * row + down, 2 * column + across
        point = view.tracks.points[(*place, step)]
        seen = view.tracks.visible[(*place, step)]
        image = images[clip, view.plan.starts[time] + step]
        for channel in range(channels):
            expected = hog_at(
                image[None, ..., channel], torch.tensor([0]), point[None], bins=6, cell=8
            )[0]
            where = clip, time, row, column, down, across, step, channel
            torch.testing.assert_close(values[where], expected * seen)
            assert (valid[where] == seen).all()


def test_what_moves_as_it_is_carries_the_same_histogram() -> None:
    """Along the trajectory of a moving texture HOG stays, on the grid it changes."""
    config = settings(targets={"trajectory_hog": {"weight": 1}})
    view = moving_view(config, (2.0, -1.0))
    target = build_targets(config)["trajectory_hog"](view)
    values = target.values[0].reshape(2, 2, 3, 2, 2, 3, 9)
    still = ClipView(view.frames, view.real, view.plan, view.clip, view.motion)
    parked = view.tracks.points[..., :1, :].expand_as(view.tracks.points)
    vars(still)["tracks"] = Tracks(parked, view.tracks.displacements, view.tracks.visible)
    grid = build_targets(config)["trajectory_hog"](still).values[0].reshape(2, 2, 3, 2, 2, 3, 9)

    def change(hog: Tensor) -> float:
        inner = hog[:, :, 1]
        return float((inner[..., 2, :] - inner[..., 0, :]).norm(dim=-1).mean())

    assert change(values) < 0.5 * change(grid)


@pytest.mark.parametrize("colour", ["grey", "rgb"])
def test_points_of_a_step_have_unit_length_together(colour: str) -> None:
    """Trap 5; a point that is not visible takes no part."""
    config = settings(targets={"trajectory_hog": {"weight": 1, "colour": colour}})
    view = moving_view(config, (6.0, 0.0))
    target = build_targets(config)["trajectory_hog"](view)
    assert target.values.min() >= 0
    assert target.values.max() <= 1
    steps = target.values.reshape(1, 12, 4, 3, -1).transpose(2, 3).flatten(3)
    valid = target.valid.reshape(1, 12, 4, 3, -1).transpose(2, 3).flatten(3)
    assert not valid.all()
    norm = steps.norm(dim=-1)
    some = valid.any(dim=-1)
    torch.testing.assert_close(norm[some], torch.ones_like(norm[some]), atol=0.02, rtol=0)
    assert (target.values[~target.valid] == 0).all()


def test_cells_are_looked_at_where_and_when_the_points_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Trap 11: B · N · K · L cells, of the rows of steps 0 … L − 1 only."""
    config = settings(targets={"trajectory_hog": {"weight": 1}})
    maker = build_targets(config)["trajectory_hog"]
    view = noise_view(config)
    asked: list[Tensor] = []

    def spy(images: Tensor, frame: Tensor, points: Tensor, **options: int) -> Tensor:
        asked.append(frame)
        return hog_at(images, frame, points, **options)

    monkeypatch.setattr(trajectory_hog, "hog_at", spy)
    before = maker(view).values
    assert [len(frame) for frame in asked] == [2 * 12 * 4 * 3]
    rows = len(view.plan.offsets)
    used = {start + step for start in view.plan.starts for step in range(3)}
    assert set(asked[0].tolist()) == {clip * rows + row for clip in range(2) for row in used}
    unused = [row for row in range(rows) if row not in used]
    view.grey[:, unused] = 0
    assert torch.equal(maker(view).values, before)


def test_repeated_last_frames_are_not_valid() -> None:
    config = settings(targets={"trajectory_hog": {"weight": 1}})
    plan = plan_clip(config.clip, 3)  # starts at raw 0 and 8
    _, real = span_rows(plan, 0, 10)
    still = moving_view(config, (0.0, 0.0))
    short = ClipView(still.frames, torch.tensor([real]), plan, config.clip, config.motion)
    valid = build_targets(config)["trajectory_hog"](short).valid[0].reshape(2, -1, 3, 9)
    assert valid[0].all()
    assert valid[1].all(dim=0).all(dim=-1).tolist() == [True, True, False]
    assert not valid[1, :, 2].any()
