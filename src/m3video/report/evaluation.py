"""What a classifier or a detector got right, as the page of its run tells it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import cv2
import numpy as np
from markupsafe import Markup
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from m3video.config import one_line
from m3video.report.confusion import NAMED, confusion_svg
from m3video.report.film import data_url
from m3video.report.glyphs import png
from m3video.report.probes import Bar, bar
from m3video.train.classified import CONFUSION, EVALUATION, PREDICTIONS
from m3video.train.detect_map import IOU

ENDS = 25
"""Bars of the worst classes, and of the best, where there are more than twice as many."""
PAIRS = 15
"""Confused pairs that are listed."""
LISTED = 50
"""Videos that were left out that are listed by name."""
NAMESPACE = ' xmlns="http://www.w3.org/2000/svg"'
RIGHT, WRONG = (58, 123, 213), (226, 78, 64)
"""RGB of the cells of a large confusion: seen on light and on dark pages."""

Rate = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]


class _Read(BaseModel):
    """A file of an evaluation; keys that the page does not show may be there, too."""

    model_config = ConfigDict(allow_inf_nan=False, frozen=True)


class ClassAccuracy(_Read):
    """One class of evaluation.json; no accuracies where no video of it was tested."""

    label: str
    videos: Count
    top1: Rate | None
    top5: Rate | None


class Classified(_Read):
    """evaluation.json of a classifier."""

    videos: Count
    classes: Count
    chance: Rate
    top1: Rate
    top5: Rate
    mean_class: Rate
    per_class: list[ClassAccuracy]
    data: str = ""
    split: str = ""
    trained_on: Count | None = None
    views: dict[str, Any] = {}
    left_out: list[tuple[str, str]] = []
    unreadable: list[tuple[str, str]] = []


class Detected(_Read):
    """evaluation.json of a detector."""

    map: Rate
    actions: dict[str, Rate]
    data: str = ""
    split: str = ""
    boxes: str = ""
    unknown: list[str] = []
    key_frames: Count
    annotated: Count
    judged: Count
    unreadable: list[tuple[str, str]] = []


class Confused(_Read):
    """confusion.json: C names, and C rows (truth) of C counts (predicted)."""

    labels: list[str] = Field(min_length=1)
    counts: list[list[Count]]

    @model_validator(mode="after")
    def _is_square(self) -> Self:
        if {len(self.labels)} != {len(self.counts), *map(len, self.counts)}:
            raise ValueError("labels and counts do not fit each other")
        return self


@dataclass(frozen=True)
class Picture:
    """A confusion: drawn as SVG where its classes can be named, else as pixels."""

    svg: Markup | None
    url: str
    classes: int
    videos: int


@dataclass(frozen=True)
class Pair:
    """Videos of one class that were taken for another."""

    truth: str
    predicted: str
    count: int
    videos: int


@dataclass(frozen=True)
class Section:
    """One evaluation on the page; `kind` is what the bars tell of each class."""

    kind: Literal["top-1", "average precision"]
    place: str
    note: str
    bars: list[tuple[str, list[Bar]]]
    """Headings, and bars from the worst to the best."""
    chance: Bar | None
    head: list[str]
    rows: list[list[str]]
    """All classes, in alphabetical order."""
    untested: list[str]
    left_out: list[tuple[str, str]]
    left_out_count: int
    notes: list[str] = field(default_factory=list)
    picture: Picture | None = None
    pairs: list[Pair] = field(default_factory=list)


@dataclass(frozen=True)
class Evaluations:
    """The evaluations in a run directory, the run's own first, and what cannot be read of them."""

    found: list[tuple[Path, Classified | Detected]]
    problems: list[str]

    @property
    def own(self) -> Classified | Detected | None:
        """The first: that of the run's end, where there is one."""
        return self.found[0][1] if self.found else None


def read_evaluations(run: Path, kind: type[Classified | Detected]) -> Evaluations:
    """Read `evaluation.json` of a run directory and of the folders in it."""
    places = sorted(run.glob(f"*/{EVALUATION}"), key=lambda p: (p.parent.name != "evaluation", p))
    if (run / EVALUATION).exists():
        places.insert(0, run / EVALUATION)
    found: list[tuple[Path, Classified | Detected]] = []
    problems = []
    for path in places:
        try:
            found.append((path.parent, kind.model_validate(_json(path))))
        except ValueError as error:
            problems.append(f"{path.relative_to(run)} cannot be read and is left out: {why(error)}")
    return Evaluations(found, problems)


def _json(path: Path) -> object:
    """What a JSON file holds.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(error.strerror) from error


def why(error: ValueError) -> str:
    """An error of a file that was read, in one line."""
    text = one_line(error) if isinstance(error, ValidationError) else str(error)
    return " ".join(text.split())


def section(run: Path, folder: Path, found: Classified | Detected) -> Section:
    """One evaluation as the page tells it.

    Args:
        run: the run directory.
        folder: where evaluation.json lies.
        found: what it holds.
    """
    place = "" if folder == run else str(folder.relative_to(run))
    if isinstance(found, Detected):
        return _detected(place, found)
    return _classified(place, folder, found)


def _classified(place: str, folder: Path, found: Classified) -> Section:
    tested = [row for row in found.per_class if row.top1 is not None]
    ranked = sorted(tested, key=lambda row: (row.top1 or 0.0, row.label))
    bars = [_class_bar(row.label, row.top1 or 0.0, row.videos) for row in ranked]
    rows = [
        [row.label, f"{row.videos:,}", _percent(row.top1), _percent(row.top5)]
        for row in sorted(found.per_class, key=lambda row: row.label)
    ]
    of_split = f" of split {found.split}" if found.split else ""
    note = f"{found.videos:,} videos{of_split}, {found.classes:,} classes{_views(found.views)}."
    if found.trained_on:
        note += f" {found.trained_on:,} of them were trained on: of these it is no test."
    missing = [] if (folder / PREDICTIONS).exists() else [f"{PREDICTIONS} is missing."]
    left_out = found.left_out + found.unreadable
    try:
        confused = Confused.model_validate(_json(folder / CONFUSION))
    except ValueError as error:
        confused = None
        missing.append(f"{CONFUSION} cannot be read and is left out: {why(error)}")
    return Section(
        kind="top-1",
        place=place,
        note=note,
        bars=_ends(bars),
        chance=bar("the commonest class", found.chance, 1.0),
        head=["class", "videos", "top-1", "top-5"],
        rows=rows,
        untested=[row.label for row in found.per_class if row.top1 is None],
        left_out=left_out[:LISTED],
        left_out_count=len(left_out),
        notes=missing,
        picture=confusion_picture(confused) if confused else None,
        pairs=confused_pairs(confused) if confused else [],
    )


def _detected(place: str, found: Detected) -> Section:
    ranked = sorted(found.actions.items(), key=lambda pair: (pair[1], pair[0]))
    notes = []
    if found.unknown:
        notes.append(
            f"Annotated, but no action that the detector knows, and counted as 0: "
            f"{', '.join(found.unknown)}."
        )
    return Section(
        kind="average precision",
        place=place,
        note=(
            f"Frame mAP at IoU {IOU:g}: {100 * found.map:.1f} %. {found.key_frames:,} key frames "
            f"of split {found.split or 'unnamed'}, {found.annotated:,} annotated boxes, "
            f"{found.judged:,} judged; boxes: {found.boxes or 'not said'}."
        ),
        bars=_ends([bar(name, value, 1.0) for name, value in ranked]),
        chance=None,
        head=["action", "average precision"],
        rows=[[name, _percent(value)] for name, value in sorted(found.actions.items())],
        untested=[],
        left_out=found.unreadable[:LISTED],
        left_out_count=len(found.unreadable),
        notes=notes,
    )


def _class_bar(label: str, accuracy: float, videos: int) -> Bar:
    many = f"{videos:,} video{'s' if videos != 1 else ''}"
    return Bar(label, f"{100 * accuracy:.1f} %", accuracy, note=many)


def _ends(bars: list[Bar]) -> list[tuple[str, list[Bar]]]:
    """All bars, or those of the worst and of the best classes under a heading each."""
    if len(bars) <= 2 * ENDS:
        return [("", bars)] if bars else []
    return [(f"The worst {ENDS}", bars[:ENDS]), (f"The best {ENDS}", bars[-ENDS:])]


def _views(views: dict[str, Any]) -> str:
    if {"segments", "crops"} <= views.keys():
        return f", {views['segments']} × {views['crops']} views of each (clips × crops)"
    return ""


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"


def confused_pairs(found: Confused) -> list[Pair]:
    """The pairs of classes that were confused most often, the commonest first."""
    counts = np.array(found.counts)
    totals = counts.sum(1)
    apart = counts * ~np.eye(len(counts), dtype=np.bool_)
    shares = apart / np.maximum(totals, 1)[:, None]
    order = np.lexsort((-shares.ravel(), -apart.ravel()))[:PAIRS]
    places = [divmod(int(place), len(counts)) for place in order]
    return [
        Pair(found.labels[row], found.labels[column], int(apart[row, column]), int(totals[row]))
        for row, column in places
        if apart[row, column]
    ]


def confusion_picture(found: Confused) -> Picture:
    """A drawing with names, or, of many classes, a picture of a few pixels a cell."""
    classes, videos = len(found.labels), sum(map(sum, found.counts))
    if classes <= NAMED:
        # `confusion_svg` escapes the names; within a page an SVG needs no namespace.
        svg = confusion_svg(found.labels, found.counts).replace(NAMESPACE, "")
        return Picture(Markup(svg), "", classes, videos)
    return Picture(None, data_url(_pixels(found.counts), "image/png"), classes, videos)


def _pixels(counts: Sequence[Sequence[int]]) -> bytes:
    """A cell a square of pixels, as opaque as its share of the row: PNG."""
    table = np.array(counts, np.float64)
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    opacity = np.where(table > 0, 0.35 + 0.65 * shares, 0.0)
    picture = np.zeros((*table.shape, 4), np.uint8)
    picture[..., :3] = WRONG
    picture[np.eye(len(table), dtype=np.bool_), :3] = RIGHT
    picture[..., 3] = np.rint(255 * opacity)
    cell = max(2, 900 // len(table))
    side = cell * len(table)
    return png(np.asarray(cv2.resize(picture, (side, side), interpolation=cv2.INTER_NEAREST)))
