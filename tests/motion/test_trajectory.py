"""Trajectories: closed forms on frames that are not square, visibility, the traps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from m3video.config import ClipConfig, MotionConfig
from m3video.errors import ConfigError
from m3video.motion import fields
from m3video.motion.fields import Fields, motion_fields
from m3video.motion.flow import grey, make_flow
from m3video.motion.trajectory import Tracks, clip_tracks, follow, refine, seed_grid, track
from m3video.video.augment import Crop
from m3video.video.sampling import ClipPlan, plan_clip, span_rows
from tests.motion.textures import panned


def affine_flow(height: int, width: int, matrix: Tensor, shift: Tensor) -> Tensor:
    """Flow [2, H, W] with d(x, y) = matrix · (x, y) + shift."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    grid = torch.stack([x, y]).double()
    return (torch.einsum("ij,jhw->ihw", matrix.double(), grid) + shift[:, None, None]).float()


def follow_one(field: Tensor, length: int, seeds: Tensor) -> Tracks:
    """Follow seeds through the same field at every step; leading dimensions [1, 1] dropped."""
    whole = Fields(field[None, None])
    tracks = follow(whole, torch.zeros(1, length, dtype=torch.long), seeds)
    return Tracks(tracks.points[0, 0], tracks.displacements[0, 0], tracks.visible[0, 0])


def test_seeds_are_centres_of_cells_x_first() -> None:
    seeds = seed_grid(16, 32, 8)
    assert seeds.shape == (2, 4, 2)
    assert seeds[1, 2].tolist() == [2 * 8 + 3.5, 8 + 3.5]
    assert seed_grid(16, 32, 1)[3, 7].tolist() == [7.0, 3.0]
    assert seed_grid(17, 39, 8).shape == (2, 4, 2)


def test_no_motion_stays() -> None:
    """Trap 1: zero flow must not read as motion."""
    seeds = seed_grid(24, 40, 8)
    tracks = follow_one(torch.zeros(2, 24, 40), 5, seeds)
    assert torch.equal(tracks.points, seeds[..., None, :].expand(-1, -1, 6, -1))
    assert (tracks.displacements == 0).all()
    assert tracks.visible.all()


@settings(max_examples=40, deadline=None)
@given(
    st.floats(-0.9, 0.9),
    st.floats(-0.9, 0.9),
    st.integers(1, 6),
    st.sampled_from([(16, 48), (48, 16), (17, 31)]),
)
def test_steady_motion_below_a_pixel(
    dx: float, dy: float, length: int, size: tuple[int, int]
) -> None:
    """Trap 2: |flow| < 1 px is not rounded away, and adds up."""
    field = torch.tensor([dx, dy])[:, None, None].expand(2, *size)
    seeds = seed_grid(*size, 8)
    tracks = follow_one(field, length, seeds)
    step = torch.arange(length + 1)[:, None]
    expected = seeds[..., None, :] + step * torch.tensor([dx, dy])
    torch.testing.assert_close(tracks.points, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(
        tracks.displacements, torch.tensor([dx, dy]).expand_as(tracks.displacements)
    )
    last = torch.tensor([size[1] - 1.0, size[0] - 1.0])
    clear = ((expected > 1e-3) & (expected < last - 1e-3)).all(-1).cummin(-1).values
    gone = ((expected < -1e-3) | (expected > last + 1e-3)).any(-1).cummax(-1).values
    assert tracks.visible[clear].all()
    assert not tracks.visible[gone].any()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(-0.04, 0.04), min_size=4, max_size=4),
    st.lists(st.floats(-0.8, 0.8), min_size=2, max_size=2),
)
def test_affine_motion_has_a_closed_form(entries: list[float], offset: list[float]) -> None:
    """p ← (I + A) p + b, exactly, while a point is inside: bilinear sampling is exact for it."""
    height, width, length = 40, 72, 5
    matrix, shift = torch.tensor(entries).reshape(2, 2).double(), torch.tensor(offset).double()
    seeds = seed_grid(height, width, 8)
    tracks = follow_one(affine_flow(height, width, matrix, shift), length, seeds)
    point, expected = seeds.double(), [seeds.double()]
    for _ in range(length):
        point = point + point @ matrix.T + shift
        expected.append(point)
    path = torch.stack(expected, dim=-2)
    seen = tracks.visible
    assert seen[..., 0].all()
    torch.testing.assert_close(tracks.points.double()[seen], path[seen], atol=2e-3, rtol=0)


def test_rotation_keeps_the_distance_to_the_centre() -> None:
    height, width = 33, 65
    angle = torch.tensor(0.1)
    turn = torch.tensor([[angle.cos(), -angle.sin()], [angle.sin(), angle.cos()]]) - torch.eye(2)
    centre = torch.tensor([(width - 1) / 2, (height - 1) / 2])
    tracks = follow_one(affine_flow(height, width, turn, -turn @ centre), 6, seed_grid(33, 65, 8))
    radius = (tracks.points - centre).norm(dim=-1)
    seen = tracks.visible
    assert 0.2 < seen[..., -1].float().mean() < 1
    torch.testing.assert_close(
        radius[seen], radius[..., :1].expand_as(radius)[seen], atol=1e-3, rtol=0
    )


def test_sampling_is_that_of_torch() -> None:
    """Oracle: grid_sample with pixel centres at integers, on a field that is not smooth."""
    torch.manual_seed(0)
    height, width = 14, 37
    flow = torch.randn(3, 4, 2, height, width)
    seeds = torch.rand(5, 6, 2) * torch.tensor([width + 6.0, height + 6.0]) - 3
    index = torch.tensor([[2], [0], [3]])
    tracks = follow(Fields(flow), index, seeds)
    normal = 2 * seeds / torch.tensor([width - 1, height - 1]) - 1
    for batch in range(3):
        for start in range(3):
            expected = torch.nn.functional.grid_sample(
                flow[batch, index[start]], normal[None], padding_mode="border", align_corners=True
            )[0].permute(1, 2, 0)
            torch.testing.assert_close(
                tracks.displacements[batch, start, :, :, 0], expected, atol=1e-4, rtol=1e-4
            )


def test_each_start_follows_its_own_pairs() -> None:
    """Step k of start j reads pair_index[j, k], for each clip of the batch."""
    flow = torch.zeros(2, 3, 2, 16, 24)
    flow[0, :, 0] = torch.tensor([0.25, 0.5, 1.0])[:, None, None]
    flow[1, :, 1] = torch.tensor([0.25, 0.5, 1.0])[:, None, None]
    index = torch.tensor([[0, 1], [2, 0]])
    tracks = follow(Fields(flow), index, seed_grid(16, 24, 8))
    moved = tracks.displacements[:, :, 0, 0]
    assert moved[0, :, :, 0].tolist() == [[0.25, 0.5], [1.0, 0.25]]
    assert moved[1, :, :, 1].tolist() == [[0.25, 0.5], [1.0, 0.25]]
    assert (moved[0, :, :, 1] == 0).all()


def test_a_point_that_leaves_never_comes_back() -> None:
    """It goes out to the right by 6 px and returns by 6 px: invalid from the step that left."""
    flow = torch.zeros(1, 2, 2, 16, 24)
    flow[0, 0, 0], flow[0, 1, 0] = 6.0, -6.0
    tracks = follow(Fields(flow), torch.tensor([[0, 1, 0]]), seed_grid(16, 24, 8))
    assert tracks.visible[0, 0, 0].tolist() == [
        [True, True, True, True],
        [True, True, True, True],
        [True, False, False, False],
    ]


@pytest.mark.parametrize(
    ("x", "inside"), [(0.0, True), (-0.01, False), (23.0, True), (23.01, False)]
)
def test_the_frame_ends_at_the_centres_of_its_border_pixels(x: float, inside: bool) -> None:
    tracks = follow_one(torch.zeros(2, 16, 24), 1, torch.tensor([[[x, 15.0]]]))
    assert tracks.visible[0, 0].tolist() == [inside, inside]


def motion_plan(clip: ClipConfig) -> ClipPlan:
    return plan_clip(clip, 3)


def test_flow_is_computed_for_needed_pairs_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows of different tubelets are not joined, and rows between them are not read."""
    clip = ClipConfig(frames=4, stride=4, size=(32, 48))
    plan = motion_plan(clip)  # starts at raw 0 and 8, L = 3: 3 + 3 pairs of 11 + inputs at 4, 12
    frames = grey(panned(plan.span, 32, 48, (1.5, -0.5)))[list(plan.offsets)]
    real = torch.ones(1, len(plan.offsets), dtype=torch.bool)
    calls: list[int] = []
    flow = make_flow("dis-fast")

    def counted(first: Tensor, second: Tensor) -> Tensor:
        calls.append(len(first))
        return flow(first, second)

    monkeypatch.setattr(fields, "make_flow", lambda name, weights: counted)
    found = motion_fields(frames[None], plan, MotionConfig())
    assert (found.camera, found.consistent) == (None, None)
    assert found.relative is found.flow
    tracks = clip_tracks(found, plan, real, spacing=8)
    assert calls == [6]
    assert tracks.points.shape == (1, 2, 4, 6, 4, 2)
    inner = tracks.displacements[0, :, 1:-1, 1:-1]
    assert inner.mean(dim=(0, 1, 2, 3)).tolist() == pytest.approx([1.5, -0.5], abs=0.15)


def test_motion_ends_where_the_video_ends() -> None:
    clip = ClipConfig(frames=4, stride=2, size=(32, 48))
    plan = motion_plan(clip)  # starts at raw 0 and 4, each with 3 steps
    _, real = span_rows(plan, 0, 6)  # frames 0 … 5: the second start can make one step
    frames = grey(panned(len(real), 32, 48, (0.0, 0.0)))
    found = motion_fields(frames[None], plan, MotionConfig())
    tracks = clip_tracks(found, plan, torch.tensor([real]), spacing=8)
    assert tracks.visible[0, 0].all()
    assert tracks.visible[0, 1, 2, 3].tolist() == [True, True, False, False]


def test_steps_of_the_stride_go_from_input_to_input() -> None:
    """interpolate: False. The same motion in longer steps, over the same frames."""
    clip = ClipConfig(frames=4, stride=3, size=(32, 48))
    plan = plan_clip(clip, 2, clip.stride)
    assert plan.offsets == (0, 3, 6, 9, 12)
    assert (plan.starts, plan.pairs, plan.step) == ((0, 2), (0, 1, 2, 3), 3)
    frames = grey(panned(plan.span, 32, 48, (1.0, -0.5)))[list(plan.offsets)]
    real = torch.ones(1, len(plan.offsets), dtype=torch.bool)
    tracks = clip_tracks(motion_fields(frames[None], plan, MotionConfig()), plan, real, spacing=8)
    inner = tracks.displacements[0, :, 1:-1, 1:-1]
    assert inner.mean(dim=(0, 1, 2, 3)).tolist() == pytest.approx([3.0, -1.5], abs=0.2)
    with pytest.raises(ValueError, match="step 2 is neither 1 nor the stride 3"):
        plan_clip(clip, 2, 2)


@pytest.mark.parametrize("factor", [2, 4])
def test_the_motion_of_a_coarse_grid_is_interpolated_for_a_finer_one(factor: int) -> None:
    """Motion linear in x and y is met exactly between the outermost coarse seeds."""
    height, width, spacing = 64, 96, 8
    field = affine_flow(
        height, width, torch.tensor([[0.01, 0.0], [0.0, -0.02]]), torch.tensor([0.3, 0.1])
    )
    coarse = follow(
        Fields(field[None, None]),
        torch.zeros(1, 3, dtype=torch.long),
        seed_grid(height, width, spacing * factor),
    )
    fine = refine(coarse, seed_grid(height, width, spacing), (height, width))
    direct = follow_one(field, 3, seed_grid(height, width, spacing))
    assert fine.points.shape == (1, 1, 8, 12, 4, 2)
    assert torch.equal(fine.points[..., 0, :], direct.points[None, None, ..., 0, :])
    edge = factor // 2
    inner = (slice(edge, -edge), slice(edge, -edge))
    torch.testing.assert_close(fine.points[0, 0][inner], direct.points[inner])
    torch.testing.assert_close(fine.displacements[0, 0][inner], direct.displacements[inner])


def test_a_fine_point_is_visible_while_its_coarse_one_is_and_it_is_in_the_frame() -> None:
    points = seed_grid(32, 48, 16)[None, None, ..., None, :].repeat(1, 1, 1, 1, 3, 1)
    visible = torch.ones(1, 1, 2, 3, 3, dtype=torch.bool)
    visible[0, 0, 1, 2, 1:] = False
    tracks = Tracks(points, points.diff(dim=-2), visible)
    fine = refine(tracks, seed_grid(32, 48, 8), (32, 48)).visible[0, 0, :, :, 2]
    expected = torch.ones(4, 6, dtype=torch.bool)
    expected[2:, 4:] = False
    assert torch.equal(fine, expected)
    points[..., 1:, 0] += 6.0  # the coarse ones stay inside, at 45.5; of the fine ones 43.5 leaves
    visible[:] = True
    moved = refine(Tracks(points, points.diff(dim=-2), visible), seed_grid(32, 48, 8), (32, 48))
    assert moved.visible[0, 0, 0, :, 2].tolist() == [True] * 5 + [False]


def test_points_stay_with_their_content_while_displacements_are_relative() -> None:
    flow = torch.zeros(1, 1, 2, 16, 24)
    flow[:, :, 0] = 1.5
    pan = torch.eye(3)
    pan[:2, 2] = torch.tensor([1.0, 0.25])
    tracks = follow(
        Fields(flow, pan[None, None]), torch.zeros(1, 2, dtype=torch.long), seed_grid(16, 24, 8)
    )
    assert (tracks.points.diff(dim=-2) == torch.tensor([1.5, 0.0])).all()
    assert (tracks.displacements == torch.tensor([0.5, -0.25])).all()
    relative = Fields(flow, pan[None, None]).relative
    assert (relative == torch.tensor([0.5, -0.25])[:, None, None]).all()


def test_a_point_whose_flow_is_not_consistent_is_lost_from_there_on() -> None:
    flow = torch.zeros(1, 2, 2, 16, 24)
    flow[:, :, 0] = 2.0
    holds = torch.ones(1, 2, 16, 24, dtype=torch.bool)
    seeds = seed_grid(16, 24, 8)
    assert seeds[0, 1].tolist() == [11.5, 3.5]  # in 13.5, after a step: the pixel 14 is nearest
    holds[0, 1, :8, 13] = False
    index = torch.tensor([[0, 1]])
    tracks = follow(Fields(flow, None, holds), index, seeds)
    assert tracks.visible[0, 0, :, 1].all()
    holds[0, 1, :8, 14] = False
    tracks = follow(Fields(flow, None, holds), index, seeds)
    assert tracks.visible[0, 0, :, 1].tolist() == [[True, True, False], [True, True, True]]
    assert tracks.visible[0, 0, :, 0].all()


def inner_mean(tracks: Tracks) -> list[float]:
    moved = tracks.displacements[:, 1:-1, 1:-1][tracks.visible[:, 1:-1, 1:-1, 1:]]
    return [float(value) for value in moved.mean(dim=0)]


def test_displacements_are_in_pixels_of_the_resized_clip() -> None:
    """Trap 6: half the size, half the displacement."""
    frames = panned(7, 96, 160, (4.0, 2.0))
    small = torch.from_numpy(Crop((0, 0, 96, 160), (48, 80))(frames.numpy()))
    assert inner_mean(track(frames)) == pytest.approx([4.0, 2.0], abs=0.15)
    assert inner_mean(track(small)) == pytest.approx([2.0, 1.0], abs=0.15)


def test_a_flipped_clip_moves_the_other_way() -> None:
    """Trap 10: motion is found after the flip, so that it can never disagree with the frames."""
    frames = panned(7, 48, 80, (2.0, 1.0)).numpy()
    box = (0, 0, 48, 80)
    plain = track(torch.from_numpy(Crop(box, (48, 80))(frames)))
    flipped = track(torch.from_numpy(Crop(box, (48, 80), True)(frames)))
    assert inner_mean(flipped) == pytest.approx([-2.0, 1.0], abs=0.1)
    # point by point: mirrored seeds have mirrored paths, to the accuracy of the estimator
    mirrored = flipped.points.flip(dims=(2,))
    mirrored[..., 0] = 79 - mirrored[..., 0]
    torch.testing.assert_close(plain.points[..., 0, :], mirrored[..., 0, :])
    error = (plain.points - mirrored).norm(dim=-1)[:, 1:-1, 2:-2]
    assert error.mean() < 0.2


def test_a_reversed_clip_moves_backwards() -> None:
    """Trap 10, in time."""
    frames = panned(7, 48, 80, (2.0, -1.0))
    assert inner_mean(track(frames.flip(0))) == pytest.approx([-2.0, 1.0], abs=0.1)


def test_track_starts_anew_when_a_trajectory_ends() -> None:
    frames = panned(14, 40, 64, (1.0, 0.0))
    tracks = track(frames, length=6, spacing=8)
    assert tracks.points.shape == (2, 5, 8, 7, 2)
    assert tracks.displacements.shape == (2, 5, 8, 6, 2)
    assert tracks.visible.shape == (2, 5, 8, 7)
    torch.testing.assert_close(tracks.points.diff(dim=-2), tracks.displacements, atol=1e-4, rtol=0)
    chosen = track(frames, length=6, spacing=8, starts=[6])
    assert torch.equal(chosen.points[0], tracks.points[1])


@pytest.mark.parametrize(
    ("frames", "options", "message"),
    [
        (torch.zeros(7, 32, 32, 3), {}, r"float32 \[7, 32, 32, 3\]: give uint8"),
        (torch.zeros(7, 3, 32, 32, dtype=torch.uint8), {}, r"give uint8 \[frames, height"),
        (torch.zeros(6, 32, 32, 3, dtype=torch.uint8), {}, "length 6 with 6 frames: use 1 to 5"),
        (torch.zeros(9, 32, 32, 3, dtype=torch.uint8), {"spacing": 40}, "spacing 40: use 1 to 32"),
        (
            torch.zeros(9, 32, 32, 3, dtype=torch.uint8),
            {"starts": [3]},
            r"starts \[3\]: use frames",
        ),
        (torch.zeros(9, 32, 32, 3, dtype=torch.uint8), {"starts": [-1]}, r"starts \[-1\]"),
        (torch.zeros(9, 32, 32, 3, dtype=torch.uint8), {"starts": []}, r"starts \[\]"),
        (torch.zeros(9, 32, 32, 3, dtype=torch.uint8), {"flow": "raft"}, "raft needs weights"),
        (torch.zeros(9, 32, 32, 3, dtype=torch.uint8), {"flow": "bogus"}, "flow: Input should be"),
    ],
)
def test_what_cannot_be_tracked_is_refused(
    frames: Tensor, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        track(frames, **options)  # type: ignore[arg-type]


def test_path_through_a_curved_field() -> None:
    """A swirl on 12 × 20 pixels, worked out independently, in float64 with numpy."""
    height, width = 12, 20
    y, x = np.mgrid[:height, :width]
    field = np.stack([np.sin(y / 3.0), np.cos(x / 4.0)])
    point = np.array([7.5, 5.5])
    for _ in range(4):
        x0, y0 = int(point[0]), int(point[1])
        fx, fy = point - (x0, y0)
        corners = field[:, y0 : y0 + 2, x0 : x0 + 2]
        point = point + corners @ [1 - fx, fx] @ [1 - fy, fy]
    tracks = follow_one(torch.from_numpy(field).float(), 4, torch.tensor([[[7.5, 5.5]]]))
    assert tracks.points[0, 0, -1].tolist() == pytest.approx(point.tolist(), abs=1e-4)
