"""What the official lists of a data set say of each video, and how such lists are read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from m3video.errors import ManifestError
from m3video.video.manifest import EXTENSIONS


@dataclass(frozen=True, slots=True)
class Annotated:
    """One video of a list."""

    id: str
    label: str | None
    """Name of the class."""
    split: str
    """train, val or test."""
    where: str
    """File and line, for messages."""
    names: tuple[str, ...]
    """Of its file, without the ending, the likeliest first; folders before the name are a hint."""


@dataclass(frozen=True)
class Annotations:
    """The videos of a data set, each once, in the order of the lists."""

    rows: tuple[Annotated, ...]
    left_out: tuple[Annotated, ...] = ()
    """Listed, but in no split or without a label."""
    why_left_out: str = ""
    repeats: int = 0
    """Lines that said again what another one had said."""


A = TypeVar("A", bound=Annotations)


def each_once(annotations: A) -> A:
    """Drop lines that repeat another one.

    Raises:
        ManifestError: two lines contradict each other about a video.
    """
    kept: dict[str, Annotated] = {}
    for row in annotations.rows:
        other = kept.setdefault(row.id, row)
        if (row.label, row.split) != (other.label, other.split):
            raise ManifestError(
                f"{row.where}: {row.id} is {_told(row)} here and {_told(other)} in {other.where}; "
                "correct one of the lists, or give only those of one release"
            )
    repeats = annotations.repeats + len(annotations.rows) - len(kept)
    return replace(annotations, rows=tuple(kept.values()), repeats=repeats)


def _told(row: Annotated) -> str:
    return f"{row.label!r} of {row.split}" if row.label is not None else f"of {row.split}"


def without_ending(name: str) -> str:
    """A name without the endings of video files; some downloaders wrote two of them."""
    while True:
        stem, dot, ending = name.rpartition(".")
        if not dot or not stem or f".{ending.lower()}" not in EXTENSIONS:
            return name
        name = stem


def fault(path: Path, line: int, said: str) -> ManifestError:
    """An error that names the line of a list."""
    return ManifestError(f"{path}, line {line}: {said}")


def list_files(sources: Sequence[Path]) -> dict[str, Path]:
    """Files given, and those that lie directly in folders given, by name.

    Raises:
        ManifestError: a source is not there, or two files have the same name.
    """
    files: dict[str, Path] = {}
    for source in sources:
        try:
            inside = sorted(source.iterdir()) if source.is_dir() else [source]
        except OSError as error:
            raise ManifestError(f"{source}: {error.strerror}") from error
        if not source.exists():
            raise ManifestError(f"{source}: there is no such file or folder of annotations")
        for path in inside:
            other = files.setdefault(path.name, path)
            if other != path and not path.is_dir():
                raise ManifestError(f"{path} and {other} have the same name; give one of them")
    return files


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and text of the lines of a text file that are not blank.

    Raises:
        ManifestError: it cannot be read, or is not a text file.
    """
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
            for number, line in enumerate(file, start=1):
                text = line.strip()
                if "\0" in text:
                    raise fault(path, number, "not text; give the official list")
                if text:
                    yield number, text
    except OSError as error:
        raise ManifestError(f"{path}: {error.strerror}") from error


def read_answers(path: Path) -> Iterator[tuple[int, str, str]]:
    """Line, id and label of lines "id;label"; the label is empty where a line is only an id.

    Raises:
        ManifestError: a line has no id.
    """
    for number, line in read_lines(path):
        name, _, label = (part.strip() for part in line.partition(";"))
        if not name:
            raise fault(path, number, f"{line[:80]!r} has no id; lines are id;label")
        yield number, name, label


def read_json(path: Path) -> object:
    """The content of a JSON file.

    Raises:
        ManifestError: it cannot be read, or is not JSON.
    """
    try:
        content: object = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ManifestError(f"{path}: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise fault(path, error.lineno, f"not JSON: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}: not a text file in UTF-8; give the official list") from error
    return content


def read_records(path: Path, *, fields: Iterable[str]) -> Iterator[tuple[str, dict[str, object]]]:
    """Where it stands, and the record, of each one in a JSON list of records.

    Raises:
        ManifestError: not a list of records, or a record lacks a field.
    """
    content = read_json(path)
    if not isinstance(content, list):
        raise ManifestError(f"{path}: is not a JSON list of records; give the official list")
    needed = tuple(fields)
    for number, record in enumerate(content, start=1):
        where = f"{path}, record {number}"
        if not isinstance(record, dict) or not all(name in record for name in needed):
            raise ManifestError(f"{where}: is not a record with {', '.join(needed)}")
        yield where, record
