"""The page about a video's motion in a real browser."""

from __future__ import annotations

from pathlib import Path

import pytest

from m3video.config import TrackConfig
from m3video.report.track import track_video
from tests.report.test_browser import CHROMIUM, ask

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")


def test_page_about_motion_plays(tmp_path: Path, made_clip: Path) -> None:
    out = tmp_path / "motion.html"
    track_video(TrackConfig(video=made_clip, out=out, count="20"))
    answer = ask(out, tmp_path, 1280, False)
    assert answer["problems"] == []
    assert answer["wide"] == 0
    assert answer["films"] == answer["loaded"] == 2
    assert answer["controls"] == 1


def test_page_about_motion_fits_a_narrow_screen(tmp_path: Path, made_clip: Path) -> None:
    out = tmp_path / "motion.html"
    track_video(TrackConfig(video=made_clip, out=out, flow=("dis-fast", "farneback"), count="20"))
    answer = ask(out, tmp_path, 420, True)
    assert answer["problems"] == []
    assert answer["wide"] == 0
    assert answer["films"] == 4  # those out of sight need not be loaded
