"""Which frames a clip needs."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from m3video.config import ClipConfig
from m3video.video.sampling import (
    plan_clip,
    random_start,
    sample_generator,
    segment_starts,
    span_rows,
)

CLIPS = st.builds(
    lambda tokens, tubelet, stride: ClipConfig(
        frames=max(tokens * tubelet, 2), stride=stride, tubelet=tubelet
    ),
    st.integers(2, 8),
    st.integers(1, 4),
    st.integers(1, 6),
)


def test_the_released_recipe_reads_56_of_63_frames() -> None:
    plan = plan_clip(ClipConfig(frames=16, stride=4), 6)
    assert plan.span == 63
    assert len(plan.offsets) == 56
    assert plan.offsets[:8] == (0, 1, 2, 3, 4, 5, 6, 8)
    assert plan.inputs == tuple(row for start in range(0, 56, 7) for row in (start, start + 4))
    assert plan.starts == tuple(range(0, 56, 7))
    assert plan.pairs == tuple(row for row in range(56) if row % 7 != 6)


def test_overlapping_windows_share_rows() -> None:
    plan = plan_clip(ClipConfig(frames=16, stride=2), 6)
    assert plan.offsets == tuple(range(35))
    assert plan.starts == tuple(range(0, 32, 4))
    assert plan.pairs == tuple(range(34))


def test_without_motion_only_the_input_is_read() -> None:
    plan = plan_clip(ClipConfig(frames=8, stride=3), 0)
    assert plan.offsets == tuple(range(0, 24, 3))
    assert plan.inputs == tuple(range(8))
    assert plan.starts == (0, 2, 4, 6)
    assert plan.pairs == ()
    assert plan.span == 22


@given(CLIPS, st.integers(0, 12))
def test_rows_hold_the_input_and_the_windows(clip: ClipConfig, length: int) -> None:
    plan = plan_clip(clip, length)
    assert plan.offsets[0] == 0
    assert list(plan.offsets) == sorted(set(plan.offsets))
    assert [plan.offsets[row] for row in plan.inputs] == [
        frame * clip.stride for frame in range(clip.frames)
    ]
    assert len(plan.starts) == clip.frames // clip.tubelet
    used = set(plan.inputs)
    for token, row in enumerate(plan.starts):
        first = token * clip.tubelet * clip.stride
        window = plan.offsets[row : row + length + 1]
        assert window == tuple(range(first, first + length + 1))
        used.update(range(row, row + length + 1))
        assert set(range(row, row + length)) <= set(plan.pairs)
    assert used == set(range(len(plan.offsets)))  # nothing is read in vain
    assert all(plan.offsets[row + 1] == plan.offsets[row] + 1 for row in plan.pairs)


@given(CLIPS, st.integers(0, 8), st.integers(1, 200), st.integers(0, 1000))
def test_spans_stay_in_the_video(clip: ClipConfig, length: int, count: int, seed: int) -> None:
    plan = plan_clip(clip, length)
    start = random_start(count, plan.span, sample_generator(seed, 0, 0))
    rows, real = span_rows(plan, start, count)
    assert len(rows) == len(real) == len(plan.offsets)
    assert all(0 <= row < count for row in rows)
    assert all(real) == (count >= plan.span)
    for row, is_real, offset in zip(rows, real, plan.offsets, strict=True):
        assert row == (start + offset if is_real else count - 1)
        assert is_real == (start + offset < count)


def test_random_start_reaches_every_start_alike() -> None:
    generator = torch.Generator().manual_seed(0)
    starts = [random_start(13, 10, generator) for _ in range(4000)]
    counts = torch.bincount(torch.tensor(starts))
    assert counts.shape == (4,)
    assert counts.min() > 900  # 1000 expected, deviation 27


@given(st.integers(1, 500), st.integers(1, 100), st.integers(1, 12))
def test_segments_are_spread_evenly(count: int, span: int, segments: int) -> None:
    starts = segment_starts(count, span, segments)
    last = max(count - span, 0)
    assert len(starts) == segments
    assert all(0 <= start <= last for start in starts)
    assert starts == sorted(starts)
    gaps = [after - before for before, after in pairwise(starts)]
    assert not gaps or max(gaps) - min(gaps) <= 1
    assert abs(starts[0] - (last - starts[-1])) <= 1  # the same distance from both ends


def test_one_segment_is_the_middle() -> None:
    assert segment_starts(101, 21, 1) == [40]
    assert segment_starts(110, 10, 5) == [10, 30, 50, 70, 90]


def test_generators_differ_in_each_argument_and_repeat() -> None:
    keys = [(seed, epoch, index) for seed in range(3) for epoch in range(3) for index in range(30)]
    drawn = [int(torch.randint(2**62, (), generator=sample_generator(*key))) for key in keys]
    assert len(set(drawn)) == len(keys)
    again = int(torch.randint(2**62, (), generator=sample_generator(*keys[7])))
    assert again == drawn[7]


def test_a_start_outside_the_video_is_refused() -> None:
    plan = plan_clip(ClipConfig(), 0)
    with pytest.raises(ValueError, match="start 9 is not a frame of a video of 9 frames"):
        span_rows(plan, 9, 9)
