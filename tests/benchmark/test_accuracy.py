"""What the errors of motion mean, on cases whose answers are known by hand."""

from __future__ import annotations

import math
import struct
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from m3video.benchmark.accuracy import (
    DURATIONS,
    LENGTHS,
    RANGES,
    SPACING,
    VISIBILITY_LENGTH,
    Shot,
    _make_shot,
    camera_errors,
    end_point_errors,
    hidden_share,
    judge_tracks,
    make_shots,
    read_pairs,
    seed_errors,
    true_motion,
    visibility_scores,
)
from m3video.errors import ConfigError
from m3video.motion.flow import FlowEstimator
from m3video.motion.trajectory import seed_grid
from tests.motion.textures import panned

SIZE = (48, 80)
FRAMES = max(LENGTHS) + 1


def write_pair(folder: Path, name: str, velocity: tuple[float, float]) -> None:
    """A pair on 64 × 96 pixels whose flow is the same everywhere."""
    frames = panned(2, 64, 96, velocity)
    for number in (1, 2):
        cv2.imwrite(str(folder / f"{name}_frame{number}.png"), frames[number - 1].numpy())
    flow = np.broadcast_to(np.array(velocity, "<f4"), (64, 96, 2))
    header = struct.pack("<fii", 202021.25, 96, 64)
    (folder / f"{name}_flow.flo").write_bytes(header + flow.tobytes())


def shot(velocity: tuple[float, float], visible: Tensor | None = None) -> Shot:
    """Everything goes the same way; frame t is grey level t, so that time can be told."""
    seeds = seed_grid(*SIZE, SPACING)
    steps = torch.arange(FRAMES)[:, None] * torch.tensor(velocity)
    height, width = SIZE
    everywhere = torch.ones(*seeds.shape[:2], FRAMES, dtype=torch.bool)
    return Shot(
        grey=torch.arange(FRAMES, dtype=torch.uint8)[:, None, None].expand(-1, *SIZE),
        points=seeds[:, :, None] + steps,
        visible=everywhere if visible is None else visible,
        flow=torch.tensor(velocity)[:, None, None].expand(2, height, width),
        pan=torch.tensor(velocity),
    )


def says(x: float, y: float, back_x: float | None = None) -> FlowEstimator:
    """An estimator: (x, y) forward in time, and (−x, −y) back, or (back_x, −y) on the left half."""

    def estimate(first: Tensor, second: Tensor) -> Tensor:
        flow = torch.tensor([float(x), float(y)])[:, None, None].repeat(
            len(first), 1, *first.shape[1:]
        )
        if bool((first > second).all()):
            flow = -flow
            if back_x is not None:
                flow[:, 0, :, : first.shape[2] // 2] = back_x
        return flow

    return estimate


def test_seeds_are_as_wrong_as_the_flow_adds_up_to() -> None:
    """Wrong by (0.3, 0.4) a step is 0.5, 3 and 7.5 pixels after 1, 6 and 15 steps."""
    found = judge_tracks(says(0.9 + 0.3, -0.1 + 0.4), [shot((0.9, -0.1))], back=False)
    error = found["seed_error"]["sub-pixel"]
    assert [error[str(length)] for length in LENGTHS] == pytest.approx([0.5, 3, 7.5], abs=1e-4)
    within = found["within_px"]["sub-pixel"]
    assert within["1"] == {"1": 1, "2": 1, "4": 1}
    assert within["6"] == {"1": 0, "2": 0, "4": 1}
    assert within["15"] == {"1": 0, "2": 0, "4": 0}
    assert found["seed_error"]["large"]["6"] is None
    assert found["within_px"]["large"]["6"] == {"1": None, "2": None, "4": None}


def test_delta_is_the_share_below_a_distance() -> None:
    """Misses of 0.5, 1 (which is not below 1), 1.5, 3, 5, …, 5 pixels."""
    one = shot((0.5, 0.0))
    path = one.points.clone()
    missed = torch.full((6, 10), 5.0)
    missed[0, :4] = torch.tensor([0.5, 1.0, 1.5, 3.0])
    path[..., 6, 1] += missed
    error, within = seed_errors([path], [one])
    assert within["sub-pixel"]["6"] == pytest.approx({"1": 1 / 60, "2": 3 / 60, "4": 4 / 60})
    assert error["sub-pixel"]["6"] == pytest.approx((0.5 + 1 + 1.5 + 3 + 56 * 5) / 60)
    assert error["sub-pixel"]["1"] == 0


def test_only_seeds_that_are_seen_all_the_way_are_judged() -> None:
    visible = torch.ones(6, 10, FRAMES, dtype=torch.bool)
    visible[2:, :, 4:] = False
    one = shot((0.5, 0.0), visible)
    path = one.points.clone()
    path[2:] += 100
    error, _ = seed_errors([path], [one])
    assert error["sub-pixel"]["6"] == 0
    assert error["sub-pixel"]["1"] == pytest.approx(math.hypot(100, 100) * 40 / 60)
    assert hidden_share([one, shot((0.5, 0.0))]) == pytest.approx(20 / 60)


def test_ranges_are_of_the_true_mean_step() -> None:
    shots = [shot((0.6, 0.0)), shot((3.0, 4.0)), shot((0.0, -2.0))]
    motion = true_motion(shots)
    for kind, length, true in (("sub-pixel", "6", 0.6), ("moderate", "1", 2), ("large", "15", 5)):
        expected = {"seeds": 60, "mean": true, "max": true}
        assert motion[kind][length] == pytest.approx(expected, rel=1e-4)
    error, _ = seed_errors([one.points * 0 + one.points[..., :1, :] for one in shots], shots)
    assert error["moderate"]["6"] == pytest.approx(12)
    assert error["large"]["15"] == pytest.approx(75, rel=1e-5)


def test_scenes_have_the_motion_that_their_ranges_state() -> None:
    """A sweeping and a turning scene in the frames of the benchmark, at all three speeds."""
    shots = [_make_shot((224, 224), number, each) for number in (0, 17) for each in DURATIONS]
    motion = true_motion(shots)
    for kind, (low, high) in RANGES.items():
        for length in map(str, LENGTHS):
            found = motion[kind][length]
            assert isinstance(found["mean"], float)
            assert low <= found["mean"] < high
    largest = motion["large"]["6"]["max"]
    assert isinstance(largest, float)
    assert largest > 10
    for length in LENGTHS:
        seen = torch.stack([one.visible[..., length] for one in shots])
        kinds = torch.stack([torch.stack([one.judged(k, length) for one in shots]) for k in RANGES])
        assert kinds.sum(dim=0).max() == 1
        assert not (kinds.any(dim=0) & ~seen).any()


def test_shots_are_the_same_in_every_run_and_know_their_scene() -> None:
    first, second = make_shots(SIZE, 1), make_shots(SIZE, 1)
    assert len(first) == len(DURATIONS)
    for one, two in zip(first, second, strict=True):
        assert torch.equal(one.grey, two.grey)
        assert torch.equal(one.points, two.points)
    assert first[0].grey.shape == (FRAMES, *SIZE)
    moved = first[2].speed(1).mean() / first[0].speed(1).mean()
    assert moved > 2  # the faster scenes are faster
    hidden = first[2].visible.int().diff(dim=-1)
    assert (hidden <= 0).all()  # once hidden, hidden for good


def test_an_exact_flow_has_no_error_and_a_still_one_has_all() -> None:
    shots = [shot((2.0, -1.0))]
    exact = judge_tracks(says(2, -1), shots, back=False)["seed_error"]["moderate"]
    assert exact["15"] == pytest.approx(0, abs=1e-4)
    still = judge_tracks(says(0, 0), shots, back=False)["seed_error"]["moderate"]
    assert still["6"] == pytest.approx(6 * math.hypot(2, 1), rel=1e-5)


def test_precision_and_recall() -> None:
    """Said visible: 3, of which 2 are; truly visible: 4, of which 2 are said. Hidden alike."""
    said = [torch.tensor([True, True, True]), torch.tensor([[False, False, False]])]
    true = [torch.tensor([True, True, False]), torch.tensor([[True, True, False]])]
    assert visibility_scores(said, true) == pytest.approx(
        {"precision": 2 / 3, "recall": 2 / 4, "hidden_precision": 1 / 3, "hidden_recall": 1 / 2}
    )
    always = visibility_scores([torch.ones(4, dtype=torch.bool)], [torch.tensor([True] * 3 + [0])])
    assert always == {
        "precision": 0.75,
        "recall": 1.0,
        "hidden_precision": None,
        "hidden_recall": 0.0,
    }
    assert set(visibility_scores([], []).values()) == {None}


def test_flow_that_does_not_lead_back_is_said_to_be_hidden() -> None:
    """On the left half, columns 0 to 39, the flow back is wrong; the left third is truly hidden."""
    visible = torch.ones(6, 10, FRAMES, dtype=torch.bool)
    visible[:, :3, VISIBILITY_LENGTH:] = False
    shots = [shot((0.0, 0.0), visible)]
    scores = judge_tracks(says(0, 0, back_x=5.0), shots, back=True)["visibility"]
    # said to be hidden: the seeds at 3.5, 11.5, … 35.5, 5 of 10 columns; truly: 3, all among them
    frame = scores.pop("frame")
    assert scores == pytest.approx(
        {"precision": 1, "recall": 5 / 7, "hidden_precision": 3 / 5, "hidden_recall": 1}
    )
    assert frame == {
        "precision": pytest.approx(0.7),
        "recall": 1,
        "hidden_precision": None,
        "hidden_recall": 0,
    }


def test_the_frame_rule_hides_what_leaves() -> None:
    """4 pixels a step to the right, of 80: after 6 steps seeds from 55.5 on have left."""
    found = judge_tracks(says(4, 0), [shot((4.0, 0.0))], back=False)["visibility"]
    assert found["precision"] is None  # not checked
    assert found["frame"]["recall"] == pytest.approx(0.7)  # the seeds at 3.5, …, 51.5
    assert found["frame"]["hidden_precision"] == 0


def test_the_camera_leaves_nothing_where_it_is_all_that_moves() -> None:
    """A square that moves by itself is not judged; a flow that is wrong everywhere alike is one
    that the removal takes away whole."""
    one = shot((1.5, -0.5))
    flow = one.flow.clone()
    flow[0, 10:20, 10:20] += 3
    one = replace(one, flow=flow)
    found = camera_errors([one], {"exact": None, "shifted": says(1.5 + 0.3, -0.5 + 0.4)})
    assert found["exact"]["before"] == pytest.approx(math.hypot(1.5, 0.5))
    assert found["exact"]["after"] == pytest.approx(0, abs=1e-3)
    assert found["exact"]["flow_error"] == pytest.approx(0, abs=1e-6)
    assert found["shifted"]["after"] == pytest.approx(0, abs=1e-3)
    assert found["shifted"]["flow_error"] == pytest.approx(0.5)


def test_end_point_errors_are_distances(tmp_path: Path) -> None:
    """An estimator that is wrong by (3, 4) everywhere is wrong by 5."""
    write_pair(tmp_path, "pair", (2.0, -1.0))
    errors = end_point_errors(says(2.0 + 3, -1.0 + 4), read_pairs(tmp_path))
    assert errors == {
        "all": {"pair": pytest.approx(5)},
        "seeds": {"pair": pytest.approx(5)},
        "outliers": {"pair": {"1": 1, "3": 1}},
    }


def test_outliers_miss_by_more_than_their_limit() -> None:
    """Of 64 rows 8 are wrong by 1 px, which is no outlier, 16 by 2, 4 by 4."""
    truth = torch.zeros(2, 64, 96)
    flow = torch.zeros(1, 2, 64, 96)
    flow[:, 0, :8], flow[:, 1, 8:24], flow[:, 0, 24:28] = 1, -2, 4
    images = torch.zeros(1, 64, 96, dtype=torch.uint8)
    errors = end_point_errors(lambda first, second: flow, {"pair": (images, images, truth)})
    assert errors["outliers"]["pair"] == {"1": 20 / 64, "3": 4 / 64}
    assert errors["all"]["pair"] == pytest.approx((8 + 32 + 16) / 64)


def test_folders_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no NAME_frame1\.png with NAME_frame2\.png"):
        read_pairs(tmp_path)
    write_pair(tmp_path, "pair", (1.0, 0.0))
    (tmp_path / "pair_frame2.png").unlink()
    with pytest.raises(ConfigError, match=r"pair_frame2\.png: is missing or cannot be read"):
        read_pairs(tmp_path)
    cv2.imwrite(str(tmp_path / "pair_frame2.png"), np.zeros((64, 90, 3), np.uint8))
    with pytest.raises(ConfigError, match=r"must have one size, and have 64×96 and 64×90"):
        read_pairs(tmp_path)
    write_pair(tmp_path, "pair", (1.0, 0.0))
    (tmp_path / "pair_flow.flo").unlink()
    with pytest.raises(ConfigError, match=r"pair_flow\.flo: is missing"):
        read_pairs(tmp_path)
