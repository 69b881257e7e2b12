"""Small line charts as inline SVG: axes, ticks, a faint raw line, a smoothed one, values on hover.

Colours come from the page's CSS variables, so a chart follows the page's light or dark scheme.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 340, 210
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 38
LOG_SPAN = 30.0  # a larger ratio of largest to smallest value gets a log axis
COLUMNS = 160  # points of a line and hover bands; more cannot be told apart at this width


@dataclass(frozen=True)
class Chart:
    """One curve. `values` holds None where a step has no finite value."""

    title: str
    unit: str
    steps: Sequence[int]
    values: Sequence[float | None]
    smooth: bool = True
    log: bool | None = None  # None: chosen by the span of the values

    @property
    def window(self) -> int:
        """Lines of metrics that the smoothed line averages over."""
        return max(1, len(self.steps) // 40) if self.smooth else 1


def smoothed(values: Sequence[float | None], window: int) -> list[float | None]:
    """Exponential moving average over about `window` values, unbiased at the start.

    A None stays None and counts for nothing.
    """
    keep = (window - 1) / (window + 1)
    total = weight = 0.0
    averages: list[float | None] = []
    for value in values:
        if value is None:
            averages.append(None)
            continue
        total = keep * total + (1 - keep) * value
        weight = keep * weight + (1 - keep)
        averages.append(total / weight)
    return averages


def linear_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten within [low, high], about `count` of them."""
    rough = (high - low) / max(count - 1, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * times for times in (1, 2, 5, 10) if power * times >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten within [low, high], with 2 and 5 times them where there are few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    times = (1, 2, 5) if math.log10(high / low) < 3 else (1,)
    ticks = [factor * 10.0**power for power in powers for factor in times]
    return [tick for tick in ticks if low * 0.999 <= tick <= high * 1.001]


def number(value: float) -> str:
    """A value in at most four significant digits: 12,000, 0.25, 1.5e-4."""
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1000:
        return f"{value:,.0f}"
    if size >= 0.001:
        return f"{value:.4g}"
    mantissa, exponent = f"{value:.3e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


@dataclass(frozen=True)
class _Axis:
    """Maps [low, high] to [start, end] pixels."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(max(value, 1e-300))
        return self.start + (value - low) / (high - low) * (self.end - self.start)


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[round(share * (len(ordered) - 1))]


def _value_axis(chart: Chart, line: Sequence[float | None]) -> _Axis:
    """An axis that shows the whole smoothed line, and all but the wildest of the raw values."""
    raw = sorted(value for value in chart.values if value is not None)
    shown = [value for value in line if value is not None]
    low = min(*shown, _quantile(raw, 0.01), _quantile(raw, 0.02))
    high = max(*shown, _quantile(raw, 0.98), _quantile(raw, 0.99))
    log = chart.log
    if log is None:
        log = low > 0 and high / low >= LOG_SPAN
    if log and low > 0:
        grow = (high / low) ** 0.06 if high > low else 2.0
        return _Axis(low / grow, high * grow, HEIGHT - BOTTOM, TOP, log=True)
    margin = (high - low) * 0.06 or abs(high) * 0.5 or 1.0
    bottom = 0.0 if 0 <= low <= 0.5 * high else low - margin
    return _Axis(bottom, high + margin, HEIGHT - BOTTOM, TOP)


def _thin(
    steps: Sequence[int], values: Sequence[float | None]
) -> Iterator[tuple[int, float | None]]:
    """At most 2 · COLUMNS points that keep each column's smallest and largest value."""
    size = max(1, math.ceil(len(steps) / COLUMNS))
    for start in range(0, len(steps), size):
        rows = range(start, min(start + size, len(steps)))
        present = [(value, row) for row in rows if (value := values[row]) is not None]
        if not present:
            yield steps[start], None
            continue
        for row in sorted({min(present)[1], max(present)[1]}):
            yield steps[row], values[row]


def _path(points: Iterator[tuple[int, float | None]], x: _Axis, y: _Axis) -> str:
    """SVG path data; the pen is lifted where a value is missing."""
    parts, down = [], False
    for step, value in points:
        if value is None:
            down = False
            continue
        parts.append(f"{'L' if down else 'M'}{x(step):.1f} {y(value):.1f}")
        down = True
    return "".join(parts)


def _grid(x: _Axis, y: _Axis) -> Iterator[str]:
    for tick in log_ticks(y.low, y.high) if y.log else linear_ticks(y.low, y.high):
        at = f"{y(tick):.1f}"
        yield f'<line class="rule" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}"/>'
        yield f'<text class="tick y" x="{LEFT - 7}" y="{at}" dy="0.32em">{number(tick)}</text>'
    bottom = HEIGHT - BOTTOM
    yield f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{bottom}" y2="{bottom}"/>'
    for tick in linear_ticks(x.low, x.high):
        if tick != int(tick):
            continue
        at = f"{x(tick):.1f}"
        yield f'<line class="axis" x1="{at}" x2="{at}" y1="{bottom}" y2="{bottom + 4}"/>'
        yield f'<text class="tick x" x="{at}" y="{bottom + 16}">{number(tick)}</text>'
    yield f'<text class="label" x="{WIDTH - RIGHT}" y="{HEIGHT - 5}">step</text>'


def _hover(chart: Chart, line: Sequence[float | None], x: _Axis, y: _Axis) -> Iterator[str]:
    """Invisible bands, one per column, whose tooltip names the values."""
    size = max(1, math.ceil(len(chart.steps) / COLUMNS))
    width = (WIDTH - LEFT - RIGHT) / max(1, math.ceil(len(chart.steps) / size))
    for row in range(size // 2, len(chart.steps), size):
        value, mean = chart.values[row], line[row]
        words = f"step {chart.steps[row]:,}: "
        words += "no finite value" if value is None else f"{number(value)} {chart.unit}".strip()
        if mean is not None and chart.window > 1:
            words += f" (smoothed {number(mean)})"
        left = min(max(x(chart.steps[row]) - width / 2, LEFT), WIDTH - RIGHT - width)
        dot = (
            ""
            if mean is None
            else f'<circle cx="{x(chart.steps[row]):.1f}" cy="{y(mean):.1f}" r="3"/>'
        )
        yield (
            f'<g class="hover"><title>{escape(words)}</title><rect x="{left:.1f}" y="{TOP}" '
            f'width="{width:.1f}" height="{HEIGHT - TOP - BOTTOM}"/>{dot}</g>'
        )


def line_chart(chart: Chart) -> Markup | None:
    """The chart as an SVG element, or None when no step has a value."""
    present = [value for value in chart.values if value is not None]
    if not present:
        return None
    line = smoothed(chart.values, chart.window)
    first, last = chart.steps[0], chart.steps[-1]
    x = _Axis(first, last if last > first else first + 1, LEFT, WIDTH - RIGHT)
    y = _value_axis(chart, line)
    summary = (
        f"{chart.title}: {number(present[0])} at step {first:,}, "
        f"{number(present[-1])} at step {last:,}{', log scale' if y.log else ''}"
    )
    box = f"{LEFT} {TOP} {WIDTH - LEFT - RIGHT} {HEIGHT - TOP - BOTTOM}"
    parts = [
        f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(summary)}">',
        *_grid(x, y),
        f'<svg x="{LEFT}" y="{TOP}" width="{WIDTH - LEFT - RIGHT}" '
        f'height="{HEIGHT - TOP - BOTTOM}" viewBox="{box}">',  # clips what leaves the axes
    ]
    if chart.window > 1:
        parts.append(f'<path class="raw" d="{_path(_thin(chart.steps, chart.values), x, y)}"/>')
    parts.append(f'<path class="line" d="{_path(_thin(chart.steps, line), x, y)}"/></svg>')
    for step, value in zip(chart.steps, chart.values, strict=True):
        if value is None:
            parts.append(f'<circle class="bad" cx="{x(step):.1f}" cy="{HEIGHT - BOTTOM}" r="2.5"/>')
    parts += _hover(chart, line, x, y)
    parts.append("</svg>")
    return Markup("".join(parts))
