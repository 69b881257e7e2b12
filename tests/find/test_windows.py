"""Which frames become a row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3video.config import ClipConfig, EmbedConfig
from m3video.find.windows import Windows, frame_offsets, sliding_starts
from m3video.video.manifest import Video
from m3video.video.sampling import plan_clip, segment_starts

CLIP = ClipConfig(frames=4, stride=3, size=(32, 48), patch=8)


def windows(frames: list[int], **changes: Any) -> Windows:
    videos = [
        Video(Path(f"{n}.mp4"), count, 25.0, 96, 72, count / 25) for n, count in enumerate(frames)
    ]
    given = {"videos": "x", "model": "m", "out": "f.npz"}
    return Windows(videos, CLIP, EmbedConfig.model_validate({**given, **changes}))


def test_clips_slide_and_the_last_one_ends_with_the_video() -> None:
    assert sliding_starts(36, 10, 12, 12) == [0, 12, 24]
    assert sliding_starts(41, 10, 12, 12) == [0, 12, 24]  # 5 frames are left out, less than half
    assert sliding_starts(42, 10, 12, 12) == [0, 12, 24, 32]
    assert sliding_starts(7, 10, 12, 12) == [0]


@given(
    count=st.integers(1, 400),
    reach=st.integers(1, 60),
    rest=st.floats(0, 8),
    hop=st.floats(1, 90),
)
def test_every_clip_fits_and_hardly_anything_is_left_out(
    count: int, reach: int, rest: float, hop: float
) -> None:
    starts = sliding_starts(count, reach, reach + rest, hop)
    assert starts == sorted(set(starts))
    assert starts[0] == 0
    assert all(start + reach <= max(count, reach) for start in starts)
    assert count - (starts[-1] + reach + rest) < max(hop / 2, 1)


def test_units_of_clips_go_on_from_video_to_video() -> None:
    found = windows([36, 7, 24], per="clip")
    assert len(found) == 3 + 1 + 2
    assert [found.video_of(unit) for unit in range(6)] == [0, 0, 0, 1, 2, 2]
    assert found.of(1)[0].rows == (12, 15, 18, 21)
    assert found.seconds(1) == (pytest.approx(12 / 25), pytest.approx(24 / 25))
    (short,) = found.of(3)
    assert short.rows == (0, 3, 6, 6)
    assert found.seconds(3) == (0, pytest.approx(7 / 25))


def test_a_video_has_the_clips_that_the_probe_takes() -> None:
    found = windows([60, 50], segments=3)
    starts = segment_starts(50, plan_clip(CLIP, 0).span, 3)
    assert [window.rows[0] for window in found.of(1)] == starts
    assert found.seconds(1) == (0, 2)


def test_a_window_in_seconds_spreads_the_frames() -> None:
    assert frame_offsets(CLIP, 25, None) == (0, 3, 6, 9)
    assert frame_offsets(CLIP, 25, 1.6) == (0, 10, 20, 30)
    assert frame_offsets(CLIP, 10, 0.1) == (0, 0, 1, 1)  # slower than one frame each: repeats
    found = windows([100], per="clip", window=1.6, hop=0.8)
    assert [found.of(unit)[0].rows[0] for unit in range(len(found))] == [0, 20, 40, 60]
