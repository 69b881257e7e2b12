"""The colours of flow are those of the Middlebury wheel: known corners, white at rest."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3video.report.flow_wheel import flow_picture, wheel_colours, wheel_key


def one(x: float, y: float, fastest: float = 10.0) -> list[int]:
    return flow_picture(np.array([[[x, y]]], np.float32), fastest)[0, 0].tolist()


@pytest.mark.parametrize(
    ("segment", "colour"),
    [
        (0, (255, 0, 0)),
        (15, (255, 255, 0)),
        (21, (0, 255, 0)),
        (25, (0, 255, 255)),
        (36, (0, 0, 255)),
        (49, (255, 0, 255)),
        (55, (255, 0, 0)),
        (7.5, (255, 127.5, 0)),
        (42.5, (127.5, 0, 255)),
    ],
)
def test_corners_of_the_wheel(segment: float, colour: tuple[float, ...]) -> None:
    np.testing.assert_allclose(wheel_colours(np.array(segment / 55)), colour, atol=1e-3)


def test_right_is_red_and_down_comes_before_left_on_the_wheel() -> None:
    assert one(10, 0) == [255, 0, 0]
    red, green, blue = one(0, 9.999)  # down: 13.75 of the 15 segments from red to yellow
    assert (red, blue) == (255, 0)
    assert green == pytest.approx(255 * 13.75 / 15, abs=2)
    assert one(-9.999, 0)[0] == 0, "left has no red"
    assert one(0, -9.999)[2] == 255, "up is blue and more"


def test_still_is_white_half_speed_half_way_and_beyond_darker() -> None:
    assert one(0, 0) == [255, 255, 255]
    assert one(5, 0) == [255, 128, 128]
    assert one(20, 0) == [191, 0, 0]
    assert one(float("nan"), 1) == [0, 0, 0]
    assert one(float("inf"), 1) == [0, 0, 0]


@given(st.floats(0, 1), st.floats(0.01, 1.0), st.floats(0.1, 50))
def test_only_direction_and_share_of_the_fastest_count(
    turn: float, share: float, fastest: float
) -> None:
    step = share * np.array([np.cos(2 * np.pi * turn), np.sin(2 * np.pi * turn)])
    here = np.array(one(*(0.999 * fastest * step), fastest=fastest), float)
    expected = 255 - 0.999 * share * (255 - wheel_colours(np.array(turn)))
    np.testing.assert_allclose(here, expected, atol=3)


@pytest.mark.parametrize("size", [40, 75])
def test_the_key_shows_at_each_pixel_the_motion_towards_it(size: int) -> None:
    wheel, opacity = wheel_key(size)
    half = (size - 1) / 2
    for x, y in [(size - 3, size // 2), (size // 2, 4), (size // 3, size // 3)]:
        shown = one(x - half, y - half, half)
        np.testing.assert_allclose(wheel[y, x].astype(int), shown, atol=2)
    assert opacity[0, 0] == 0
    assert opacity[size // 2, size // 2] == 1
    assert opacity.mean() == pytest.approx(np.pi / 4 * ((size - 1) / size) ** 2, abs=0.01)
