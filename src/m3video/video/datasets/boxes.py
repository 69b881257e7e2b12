"""Boxes of people and what they do, at key frames: `boxes.csv` beside a manifest of AVA.

The columns are path, id, timestamp, seconds, split, x1, y1, x2, y2 and label:

- a row is one box with one action; a person who does two things has two rows with the same box;
- a key frame without boxes is one row with x1, y1, x2, y2 and label empty: what is detected there
  counts as wrong in the official evaluation, so it must not be lost;
- `timestamp` is in seconds of the film, as annotated; `seconds` is where the key frame lies in the
  file, which is 900 less where the files are the 15-minute cuts;
- coordinates are fractions of width and height, from the top left corner;
- excluded key frames, and actions that the label map does not have, are not there.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from m3video.errors import ManifestError
from m3video.video.walk import path_in_csv
from m3video.whole import write_csv

COLUMNS = ("path", "id", "timestamp", "seconds", "split", "x1", "y1", "x2", "y2", "label")
Box = tuple[float, float, float, float]
"""x1, y1, x2, y2."""


@dataclass(frozen=True, eq=False)
class KeyFrame:
    """One moment of a video and the people in it."""

    path: Path
    video: str
    """Id of the video."""
    timestamp: float
    """Seconds of the film, as annotated."""
    seconds: float
    """Seconds from the start of the file."""
    split: str
    """train, val or test."""
    boxes: NDArray[np.float32]
    """[n, 4], n may be 0: x1, y1, x2, y2 as fractions of width and height, 0 to 1."""
    labels: tuple[tuple[str, ...], ...]
    """[n]: names of the actions of each box, at least one."""


def read_boxes(path: str | Path) -> tuple[KeyFrame, ...]:
    """Read a `boxes.csv`, in its order.

    Args:
        path: the CSV, as `index --format ava` writes it; paths in it are relative to its folder.

    Raises:
        ManifestError: it cannot be read, or a line cannot be understood.
    """
    source = Path(path)
    frames: dict[tuple[str, float], tuple[list[str], dict[Box, list[str]]]] = {}
    for line, cells in _rows(source):
        where = f"{source}, line {line}"
        timestamp = _number(cells[2], where)
        _number(cells[3], where)
        first, boxes = frames.setdefault((cells[1], timestamp), (cells, {}))
        if (first[0], first[3], first[4]) != (cells[0], cells[3], cells[4]):
            raise ManifestError(f"{where}: path, seconds or split differ from those of {cells[1]}")
        if any(cells[5:]):
            boxes.setdefault(parse_box(cells[5:9], where), []).append(_label(cells[9], where))
    return tuple(
        KeyFrame(
            path=source.parent / cells[0],
            video=video,
            timestamp=timestamp,
            seconds=float(cells[3]),
            split=cells[4],
            boxes=np.array(list(boxes), dtype=np.float32).reshape(-1, 4),
            labels=tuple(tuple(dict.fromkeys(labels)) for labels in boxes.values()),
        )
        for (video, timestamp), (cells, boxes) in frames.items()
    )


def _rows(source: Path) -> Iterator[tuple[int, list[str]]]:
    try:
        with source.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = csv.reader(file, strict=True)
            if tuple(next(reader, ())) != COLUMNS:
                raise ManifestError(
                    f"{source}, line 1: the header is not {','.join(COLUMNS)}; write the file with "
                    "m3video index --format ava"
                )
            for cells in reader:
                if len(cells) != len(COLUMNS):
                    raise ManifestError(
                        f"{source}, line {reader.line_num}: {len(cells)} fields, not {len(COLUMNS)}"
                    )
                yield reader.line_num, cells
    except OSError as error:
        raise ManifestError(
            f"{source}: {error.strerror}; m3video index --format ava writes it beside a manifest"
        ) from error
    except csv.Error as error:
        raise ManifestError(f"{source}, line {reader.line_num}: not a CSV: {error}") from error


def _number(text: str, where: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise ManifestError(f"{where}: {text!r} is not a number of seconds")
    return number


def parse_box(cells: list[str], where: str) -> Box:
    """Four texts as a box.

    Raises:
        ManifestError: they are not x1 <= x2 and y1 <= y2 from 0 to 1; starts with `where`.
    """
    try:
        x1, y1, x2, y2 = map(float, cells)
        good = 0 <= x1 <= x2 <= 1 and 0 <= y1 <= y2 <= 1
    except ValueError:
        good = False
    if not good:
        raise ManifestError(
            f"{where}: box {','.join(cells)} is not x1,y1,x2,y2 as fractions of width and height"
        )
    return x1, y1, x2, y2


def _label(text: str, where: str) -> str:
    if not text:
        raise ManifestError(f"{where}: the box has no label")
    return text


def write_boxes(frames: Iterable[KeyFrame], path: Path) -> None:
    """Write key frames as `read_boxes` reads them, whole or not at all."""
    write_csv(path, _written(frames, path.parent.resolve()))


def _written(frames: Iterable[KeyFrame], folder: Path) -> Iterator[list[str]]:
    yield list(COLUMNS)
    for frame in frames:
        timestamp, seconds = f"{frame.timestamp:g}", f"{frame.seconds:g}"
        start = [path_in_csv(frame.path, folder), frame.video, timestamp, seconds, frame.split]
        if not len(frame.boxes):
            yield [*start, *([""] * 5)]
        for box, labels in zip(frame.boxes.tolist(), frame.labels, strict=True):
            corners = [f"{number:.6g}" for number in box]
            yield from ([*start, *corners, label] for label in labels)
