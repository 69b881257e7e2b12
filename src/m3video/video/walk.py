"""Walk a folder: each folder is listed once, by one scan and without a look at its files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path


def walk(folder: Path, refused: Callable[[OSError], None]) -> Iterator[tuple[str, list[str]]]:
    """Every folder from this one down, and the names of its files, in the order of the disk.

    Hidden files and folders are left out; linked folders are followed, once each.

    Args:
        folder: where to begin.
        refused: told of each folder that cannot be opened.
    """
    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, onerror=refused, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield parent, [name for name in names if not name.startswith(".")]


def absolute(path: str | Path) -> str:
    """A path that means the same from anywhere: without "..", and links stay links."""
    return os.path.normpath(Path.cwd() / path)


def shown(name: str) -> str:
    """A name on one line of any terminal: what cannot be printed is written as in Python."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)
