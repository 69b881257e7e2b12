"""Small copies of data sets, laid out as they are released."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterable
from pathlib import Path


def lay_out(folder: Path, clip: Path, names: Iterable[str]) -> Path:
    """Copy one clip to each name below a folder."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(clip, path)
    return folder


def write_lists(folder: Path, lists: dict[str, str]) -> Path:
    """Write text files into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in lists.items():
        (folder / name).write_text(text)
    return folder


def rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV with a header."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def told(path: Path) -> list[tuple[str, str, str, str]]:
    """Path, label, split and id of the rows of a manifest."""
    return [(row["path"], row["label"], row["split"], row["id"]) for row in rows(path)]


def lacking(path: Path) -> list[tuple[str, str, str]]:
    """Status, split, and id or path, of the rows of the list of what is missing."""
    return [(row["status"], row["split"], row["id"] or row["path"]) for row in rows(path)]
