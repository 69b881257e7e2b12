"""The lines of lists of videos, as `manifest.py` describes them.

A video whose facts are not all given has 0 frames and is to be scanned.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from m3video.errors import ManifestError
from m3video.video.scan import Video, unopened
from m3video.video.walk import located

EXTENSIONS = frozenset(
    f".{ending}"
    for ending in (
        *("3gp", "avi", "flv", "gif", "m2ts", "m4v", "mkv", "mov", "mp4", "mpeg", "mpg", "mts"),
        *("ogv", "ts", "vob", "webm", "wmv"),
    )
)
"""Endings of video files, in lower case."""

FACTS = ("frames", "fps", "width", "height", "duration")
"""Columns that make a scan needless."""
_LARGEST = 2**53
"""Of whole numbers; larger ones are not told apart when read as a float."""
_ENDING = "|".join(re.escape(ending) for ending in sorted(EXTENSIONS))
_LINES = (
    re.compile(rf"(?P<path>.+(?:{_ENDING}))[ ,\t]+(?P<label>.+)", re.IGNORECASE),
    re.compile(r"(?P<path>.+?)[ ,\t]+(?P<label>[^ ,\t]+)"),
)


def read_csv(source: Path, lines: Iterable[str], delimiter: str) -> Iterator[Video]:
    """The videos of a CSV with a column `path`.

    Raises:
        ManifestError: a line cannot be understood; so, too, of `read_list`.
    """
    reader = csv.DictReader(lines, delimiter=delimiter, skipinitialspace=True, strict=True)
    try:
        reader.fieldnames = [name.strip() for name in reader.fieldnames or []]
        for row in reader:
            yield _row_video(row, f"{source}, line {reader.line_num}", source.parent)
    except csv.Error as error:
        raise ManifestError(
            f"{source}, line {reader.line_num}: not a line of a CSV: {error}"
        ) from error


def _row_video(row: dict[str | None, object], where: str, folder: Path) -> Video:
    if None in row or None in row.values():
        raise ManifestError(f"{where}: does not have as many fields as the header")
    cells = {str(name): str(value).strip() for name, value in row.items()}
    if not cells["path"]:
        raise ManifestError(f"{where}: the path is empty")
    path = located(folder, cells.pop("path"))
    label = cells.pop("label", "") or None
    given = {name: cells.pop(name, "") for name in FACTS}
    if not all(given.values()):
        return replace(unopened(path), label=label, extra=cells)
    numbers = {name: _positive(name, value, where) for name, value in given.items()}
    return Video(
        path,
        frames=int(numbers["frames"]),
        fps=numbers["fps"],
        width=int(numbers["width"]),
        height=int(numbers["height"]),
        duration=numbers["duration"],
        label=label,
        extra=cells,
    )


def _positive(name: str, value: str, where: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    whole = name in {"frames", "width", "height"}
    below = _LARGEST if whole else float("inf")
    if not 0 < number < below or (whole and number != int(number)):
        kind = "a whole number above 0 and below 2**53" if whole else "a number above 0"
        raise ManifestError(
            f"{where}: {name} {value!r} is not {kind}; correct it, or leave it empty to "
            "have the video scanned"
        )
    return number


def read_list(source: Path, lines: Iterable[str]) -> Iterator[Video]:
    """The videos of "path label" lines."""
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text:
            continue
        if Path(text).suffix.lower() in EXTENSIONS:
            yield unopened(located(source.parent, text))
            continue
        match = next(filter(None, (line.fullmatch(text) for line in _LINES)), None)
        if match is None:
            raise ManifestError(
                f"{source}, line {number}: {text[:200]!r} is not a path and a label, separated by "
                "a space, comma or tab; or begin the file with a CSV header with a column `path`"
            )
        yield replace(unopened(located(source.parent, match["path"])), label=match["label"])
