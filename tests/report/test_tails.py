"""Tails lie where the points went, in the colour of the motion, and fade as they are told to."""

from __future__ import annotations

import numpy as np
import pytest

from m3video.report.flow_wheel import wheel_colours
from m3video.report.overlays import HUES, draw_tails, motion_palette

BLACK = np.zeros((24, 40, 3), np.uint8)
FULL = wheel_colours(np.arange(HUES) / HUES)
PALETTE = motion_palette(FULL, 10.0)
STEPS = np.array([[[4.0, 12.0], [14.0, 12.0], [24.0, 12.0], [34.0, 12.0]]])
SEEN = np.ones((1, 4), bool)


def test_each_segment_has_its_opacity() -> None:
    drawn = draw_tails(BLACK, STEPS, SEEN, np.array([0.2, 0.5, 1.0]), PALETTE, head=0.0)
    red = drawn[12, [9, 19, 29], 0].astype(float)
    assert red[-1] > 200
    np.testing.assert_allclose(red / red[-1], [0.2, 0.5, 1.0], atol=0.02)
    assert not drawn[:, :3].any()


def test_a_segment_without_opacity_is_not_drawn() -> None:
    drawn = draw_tails(BLACK, STEPS, SEEN, np.array([0.0, 0.0, 1.0]), PALETTE, head=0.0)
    assert not drawn[:, :23].any()
    assert drawn[12, 29].any()


@pytest.mark.parametrize("turn", range(0, HUES, 5))
def test_colour_is_that_of_the_direction_on_the_wheel(turn: int) -> None:
    angle = 2 * np.pi * turn / HUES
    step = 10 * np.array([np.cos(angle), np.sin(angle)])
    points = np.array([[20.0, 12.0] - step / 2, [20.0, 12.0] + step / 2])[None]
    drawn = draw_tails(BLACK, points, np.ones((1, 2), bool), np.ones(1), PALETTE, head=0.0)
    pixel = drawn[12, 20].astype(float)  # smooth edges leave a thin line a little short of opaque
    assert pixel.max() > 200
    np.testing.assert_allclose(pixel / pixel.max(), FULL[turn] / FULL[turn].max(), atol=0.02)


def test_slow_motion_is_fainter_and_greyer_and_rest_is_grey() -> None:
    slow = motion_palette(FULL, 1000.0)
    drawn = draw_tails(BLACK, STEPS, SEEN, np.ones(3), slow, head=0.0)[12, 20].astype(int)
    full = draw_tails(BLACK, STEPS, SEEN, np.ones(3), PALETTE, head=0.0)[12, 20].astype(int)
    assert 0 < drawn.max() < full.max()
    assert np.ptp(drawn) < np.ptp(full) / 2
    dots = draw_tails(BLACK, STEPS[:, :1], SEEN[:, :1], np.ones(0), PALETTE)
    assert dots[12, 4].any()
    assert np.ptp(dots[12, 4].astype(int)) < 12


def test_nothing_from_the_first_invisible_step_whatever_its_numbers_are() -> None:
    points = STEPS.copy()
    points[0, 2:] = np.nan
    seen = np.array([[True, True, False, True]])
    with np.errstate(invalid="ignore"):
        drawn = draw_tails(BLACK, points, seen, np.ones(3), PALETTE)
    assert drawn[12, 9].any()
    assert not drawn[:, 18:].any(), "neither tail nor dot"


def test_the_frame_itself_is_not_changed() -> None:
    frame = np.full((24, 40, 3), 70, np.uint8)
    drawn = draw_tails(frame, STEPS, SEEN, np.zeros(3), PALETTE, head=0.0)
    assert (frame == 70).all()
    assert (drawn == 70).all()
