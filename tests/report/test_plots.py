"""Charts: ticks, averages and paths that say what the values say."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from m3video.report.plots import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Chart,
    line_chart,
    linear_ticks,
    log_ticks,
    number,
    smoothed,
)

finite = st.floats(-1e6, 1e6, allow_nan=False)


def parsed(chart: Chart) -> ElementTree.Element:
    svg = line_chart(chart)
    assert svg is not None
    return ElementTree.fromstring(str(svg))


def points(path: str) -> np.ndarray:
    return np.array([[float(x), float(y)] for x, y in re.findall(r"[ML](\S+) ([\d.-]+)", path)])


@given(finite, st.floats(1e-6, 1e6))
@example(65536.53125, 0.00390625)
def test_linear_ticks_are_round_and_inside(low: float, span: float) -> None:
    high = low + span
    if high - low < 1e-9 * max(abs(low), abs(high)):
        return
    ticks = linear_ticks(low, high)
    assert 1 <= len(ticks) <= 6
    slack = 1e-6 * (high - low)
    assert all(low - slack <= tick <= high + slack for tick in ticks)
    if len(ticks) > 1:
        step = ticks[1] - ticks[0]
        leading = step / 10 ** math.floor(math.log10(step) + 1e-9)
        # The difference of large ticks is rounded: a step of 1 may come out just below it.
        assert min(abs(leading - round_step) for round_step in (1, 2, 5, 10)) < 1e-3


@given(st.floats(1e-8, 1e4), st.floats(1.2, 1e8))
def test_log_ticks_are_inside(low: float, ratio: float) -> None:
    for tick in log_ticks(low, low * ratio):
        assert 0.99 * low <= tick <= 1.01 * low * ratio


@given(st.lists(finite, min_size=1, max_size=60), st.integers(1, 20))
def test_an_average_stays_between_the_extremes(values: list[float], window: int) -> None:
    for value in smoothed(values, window):
        assert value is not None
        assert min(values) - 1e-6 <= value <= max(values) + 1e-6


def test_averages_skip_what_is_missing() -> None:
    assert smoothed([2.0, None, 4.0], 1) == [2.0, None, 4.0]
    assert smoothed([2.0, None, 2.0, 2.0], 5) == pytest.approx([2.0, None, 2.0, 2.0])
    first, second = smoothed([0.0, 3.0], 3)
    assert first == 0.0
    assert second == pytest.approx(2.0)  # weights 1/4 and 1/2


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (12345.6, "12,346"), (0.25, "0.25"), (1.5e-4, "1.5e-4"), (0.1 + 0.2, "0.3")],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert number(value) == text


def test_a_falling_value_falls_from_left_to_right_within_the_axes() -> None:
    chart = Chart("Loss", "", range(1, 501), [1 / step**0.5 for step in range(1, 501)])
    svg = parsed(chart)
    (path,) = [node for node in svg.iter("path") if node.get("class") == "line"]
    line = points(path.get("d", ""))
    assert (np.diff(line[:, 0]) > 0).all()
    assert line[-1, 1] > line[0, 1] + 50
    assert line[:, 0].min() >= LEFT
    assert line[:, 0].max() <= WIDTH - RIGHT
    assert line[:, 1].min() >= TOP
    assert line[:, 1].max() <= HEIGHT - BOTTOM


def test_missing_values_break_the_line_and_are_marked() -> None:
    values = [1.0, 0.9, None, None, 0.8, 0.7]
    svg = parsed(Chart("Loss", "", range(6), values, smooth=False))
    (path,) = [node for node in svg.iter("path") if node.get("class") == "line"]
    assert path.get("d", "").count("M") == 2
    assert len([node for node in svg.iter("circle") if node.get("class") == "bad"]) == 2
    titles = [node.text or "" for node in svg.iter("title")]
    assert any("no finite value" in title for title in titles)
    assert any("step 5: 0.7" in title for title in titles)


def test_values_over_decades_get_a_log_axis() -> None:
    steps = range(1, 101)
    decades = parsed(Chart("Norm", "", steps, [10 ** (-step / 25) for step in steps]))
    assert "log scale" in decades.get("aria-label", "")
    near = parsed(Chart("Norm", "", steps, [1 + step / 100 for step in steps]))
    assert "log scale" not in near.get("aria-label", "")
    with_zero = parsed(Chart("Norm", "", steps, [float(step - 1) for step in steps]))
    assert "log scale" not in with_zero.get("aria-label", "")


def test_a_wild_step_does_not_flatten_the_curve() -> None:
    values = [1.0 - step / 4000 for step in range(3000)]
    values[1500] = 3.0
    svg = parsed(Chart("Loss", "", range(3000), values))
    (path,) = [node for node in svg.iter("path") if node.get("class") == "line"]
    line = points(path.get("d", ""))
    assert np.ptp(line[:, 1]) > 0.7 * (HEIGHT - TOP - BOTTOM) * 0.75


def test_many_steps_make_a_small_picture() -> None:
    steps = range(200_000)
    svg = line_chart(Chart("Loss", "", steps, [1.0 + (step % 7) / 10 for step in steps]))
    assert svg is not None
    assert len(svg) < 100_000


def test_one_step_and_constant_values_are_drawn() -> None:
    assert parsed(Chart("Loss", "", [7], [0.5])) is not None
    assert parsed(Chart("Loss", "", [1, 2, 3], [0.0, 0.0, 0.0])) is not None
    assert parsed(Chart("Loss", "", [1, 2, 3], [2e-5, 2e-5, 2e-5])) is not None


def test_no_values_make_no_chart() -> None:
    assert line_chart(Chart("Loss", "", [1, 2], [None, None])) is None
    assert line_chart(Chart("Loss", "", [], [])) is None


def test_titles_are_escaped() -> None:
    svg = line_chart(Chart("<b>&", '"x', [1, 2], [1.0, 2.0]))
    assert svg is not None
    assert "<b>" not in svg
    ElementTree.fromstring(str(svg))
