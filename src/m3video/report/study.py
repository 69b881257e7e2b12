"""A study's plot and page: accuracies of many pre-trainings, with their standard errors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from m3video.report.facts import duration
from m3video.report.plots import linear_ticks

WIDTH, RIGHT, ROW = 860, 30, 30
TOP, BOTTOM, HEADING = 82, 34, 34
LETTER = 7.2
"""Pixels of a letter of a cell's name, widest likely."""


@dataclass(frozen=True)
class Measure:
    """A mean over `count` of the `planned` seeds, 0 to 1.

    `error` is its standard error, None for one seed.
    """

    mean: float
    error: float | None
    count: int
    planned: int

    @property
    def text(self) -> str:
        """In per cent: 45.1 ± 0.6, or 45.1 ± 0.6 (2 of 3) while seeds are missing."""
        error = "" if self.error is None else f" ± {100 * self.error:.1f}"
        missing = f" ({self.count} of {self.planned})" if self.count < self.planned else ""
        return f"{100 * self.mean:.1f}{error}{missing}"


@dataclass(frozen=True)
class Line:
    """A cell.

    Attributes:
        cell: its name.
        values: its numbers by measure.
        runs: (seed, link) of every run: its result.json, or the folder of one that failed.
        failed: (seed, reason) of the failures.
        seconds: mean time of a run.
        source: the result.json that all numbers are from; None where they are means of several.
    """

    cell: str
    values: dict[str, Measure]
    runs: list[tuple[str, str]]
    failed: list[tuple[str, str]]
    seconds: float | None
    source: str | None

    @property
    def time(self) -> str:
        """Mean time of a run."""
        return "–" if self.seconds is None else duration(self.seconds)


@dataclass(frozen=True)
class Section:
    """The cells that are compared with each other."""

    title: str
    lines: list[Line]


@dataclass(frozen=True)
class Page:
    """All that the template reads."""

    name: str
    data: str
    caption: str
    columns: list[tuple[str, str]]
    sections: list[Section]
    plot: str
    finished: int
    planned: int
    source: str
    configs: list[tuple[str, str]]
    versions: list[tuple[str, str]]


def render(page: Page) -> str:
    """The page as HTML; every string that came from outside is escaped."""
    environment = Environment(
        loader=PackageLoader("m3video.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    template = environment.get_template("study_page.html.j2")
    return template.render(page=page, plot=Markup(page.plot))


_STYLE = """
.study { --paper: #ffffff; --ink: #1d1f23; --muted: #686c74; --rule: #e5e3de; --stripe: #f6f5f2;
  --m0: #2b62c4; --m1: #2b62c4; --m2: #d5801f; --m3: #a8325e; --m4: #2f8a57;
  font: 13px system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
@media (prefers-color-scheme: dark) {
  .study { --paper: #1e2024; --ink: #e8e7e3; --muted: #9a9ea6; --rule: #303238; --stripe: #25272c;
    --m0: #86b1ff; --m1: #86b1ff; --m2: #f0ad60; --m3: #f08ab0; --m4: #79cf9f; }
}
.study .paper { fill: var(--paper); } .study .stripe { fill: var(--stripe); }
.study text { fill: var(--ink); } .study .title { font-size: 16px; font-weight: 620; }
.study .head { font-weight: 620; } .study .muted { fill: var(--muted); font-size: 12px; }
.study .rule { stroke: var(--rule); }
.study .chance { stroke: var(--muted); stroke-dasharray: 4 4; }
.study .end { text-anchor: end; } .study .middle { text-anchor: middle; }
""" + "".join(
    f".study .m{n} {{ stroke: var(--m{n}); fill: {'var(--paper)' if n == 1 else f'var(--m{n})'};"
    " stroke-width: 2; }\n"
    for n in range(5)
)
_MARKS = (
    '<circle cx="{x}" cy="{y}" r="5"/>',
    '<circle cx="{x}" cy="{y}" r="4.5"/>',
    '<path d="M{x} {y}m-4.5-4.5h9v9h-9z"/>',
    '<path d="M{x} {y}m0-6.5l6 6.5-6 6.5-6-6.5z"/>',
    '<path d="M{x} {y}m-5.5 4.5h11l-5.5-10z"/>',
)


def plot(
    title: str, parts: Sequence[Section], columns: Sequence[tuple[str, str]], chance: float | None
) -> str:
    """The study as a standalone SVG: a line a cell, best linear probe first, a mark a measure.

    Accuracies of single textures are left to the table.
    """
    shown = [(key, name) for key, name in columns if not key.startswith("linear/")][: len(_MARKS)]
    rows = list(_rows(parts))
    height = TOP + BOTTOM + sum(HEADING if isinstance(row, str) else ROW for row in rows)
    names = [row.cell for row in rows if isinstance(row, Line)]
    left = 28 + LETTER * max((len(name) for name in names), default=0)
    scale = _Scale(left, _longest(rows, [key for key, _ in shown], chance))
    body = [
        f'<svg class="study" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" role="img" aria-label="{escape(title)}">',
        f"<style>{_STYLE}</style>",
        f'<rect class="paper" width="{WIDTH}" height="{height}" rx="8"/>',
        f'<text class="title" x="20" y="30">{escape(title)}</text>',
        *_legend(shown, scale, chance),
        *_grid(scale, height),
    ]
    top, striped = float(TOP), False
    for row in rows:
        if isinstance(row, str):
            body.append(f'<text class="head" x="20" y="{top + 23:g}">{escape(row)}</text>')
            top, striped = top + HEADING, False
            continue
        body += _line(row, top, striped, scale, [key for key, _ in shown])
        top, striped = top + ROW, not striped
    if chance is not None:
        x = f"{scale(chance):.1f}"
        body.append(
            f'<line class="chance" x1="{x}" x2="{x}" y1="{TOP}" y2="{height - BOTTOM}">'
            f"<title>chance {100 * chance:.1f} %</title></line>"
        )
    return "\n".join([*body, "</svg>\n"])


@dataclass(frozen=True)
class _Scale:
    """Accuracy -> pixels."""

    left: float
    high: float

    def __call__(self, value: float) -> float:
        return self.left + value / self.high * (WIDTH - RIGHT - self.left)


def _rows(parts: Sequence[Section]) -> Iterator[str | Line]:
    """Headings and lines with numbers, the best first."""
    for part in parts:
        lines = [line for line in part.lines if line.values]
        if part.title and lines:
            yield part.title
        yield from sorted(lines, key=lambda line: -_best(line))


def _best(line: Line) -> float:
    return line.values["linear"].mean if "linear" in line.values else 0.0


def _longest(rows: Sequence[str | Line], keys: Sequence[str], chance: float | None) -> float:
    """Right end of the axis: a multiple of 10 % that holds every mark and its error."""
    ends = [0.2, chance or 0.0]
    for row in rows:
        if isinstance(row, Line):
            found = [row.values[key] for key in keys if key in row.values]
            ends += [value.mean + (value.error or 0.0) for value in found]
    return min(-(-(max(ends) + 0.02) * 10 // 1), 10.0) / 10


def _legend(shown: Sequence[tuple[str, str]], scale: _Scale, chance: float | None) -> Iterator[str]:
    x = scale.left
    for number, (_, name) in enumerate(shown):
        mark = _MARKS[number].format(x=f"{x + 6:g}", y=54)
        yield f'<g class="m{number}">{mark}</g><text x="{x + 18:g}" y="58">{escape(name)}</text>'
        x += 38 + LETTER * len(name)
    if chance is not None:
        yield f'<line class="chance" x1="{x:g}" x2="{x + 20:g}" y1="54" y2="54"/>'
        yield f'<text x="{x + 26:g}" y="58">chance</text>'


def _grid(scale: _Scale, height: float) -> Iterator[str]:
    for tick in linear_ticks(0, scale.high, 6):
        x = f"{scale(tick):.1f}"
        yield f'<line class="rule" x1="{x}" x2="{x}" y1="{TOP}" y2="{height - BOTTOM}"/>'
        words = f"{100 * tick:.0f} %"
        yield f'<text class="muted middle" x="{x}" y="{height - BOTTOM + 20}">{words}</text>'


def _line(
    line: Line, top: float, striped: bool, scale: _Scale, keys: Sequence[str]
) -> Iterator[str]:
    middle = top + ROW / 2
    if striped:
        yield (
            f'<rect class="stripe" x="12" y="{top:g}" width="{WIDTH - 24}" height="{ROW}" '
            'rx="4" fill-opacity="0.6"/>'
        )
    yield (
        f'<text class="end" x="{scale.left - 14:.1f}" y="{middle + 4.5:g}">{escape(line.cell)}'
        "</text>"
    )
    for number, key in enumerate(keys):
        if key not in line.values:
            continue
        value = line.values[key]
        bar = ""
        if value.error:
            low, high = scale(max(value.mean - value.error, 0)), scale(value.mean + value.error)
            bar = f'<path d="M{low:.1f} {middle:g}H{high:.1f}"/>'
        mark = _MARKS[number].format(x=f"{scale(value.mean):.1f}", y=f"{middle:g}")
        words = escape(f"{line.cell}, {key}: {value.text} %")
        yield f'<g class="m{number}"><title>{words}</title>{bar}{mark}</g>'
