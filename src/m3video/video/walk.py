"""Names of files: folders are listed once, without a look at their files; paths may be URLs."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

_REMOTE = re.compile(r"(https?|s3):/+")


def walk(folder: Path, refused: Callable[[OSError], None]) -> Iterator[tuple[str, list[str]]]:
    """Every folder from this one down, and the names of its files, in the order of the disk.

    Hidden files and folders are left out; linked folders are followed, once each. A folder whose
    files would be taken for URLs is given as an absolute path.

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
        place = Path.cwd() / parent if is_remote(Path(parent, "file")) else parent
        yield str(place), [name for name in names if not name.startswith(".")]


def absolute(path: str | Path) -> str:
    """A path that means the same from anywhere: without "..", links and URLs as they are."""
    if is_remote(path):
        return str(path)
    return os.path.normpath(Path.cwd() / path)


def is_remote(path: str | Path) -> bool:
    """Whether a path is at http, https or s3."""
    return _REMOTE.match(str(path)) is not None


def url(path: Path) -> str:
    """A remote path with both slashes, of which `Path` leaves one; others as they are."""
    return _REMOTE.sub(r"\1://", str(path), count=1)


def rooted(path: Path) -> Path:
    """A local path, absolute where it would be taken for a URL: `Path` drops the `./` before it."""
    return Path.cwd() / path if is_remote(path) else path


def located(folder: Path, name: str) -> Path:
    """What a list in a folder calls `name`: relative to the folder, absolute or a URL."""
    if is_remote(name):
        return Path(name)
    return folder / name if is_remote(folder) else rooted(folder / name)


def path_in_csv(path: Path, folder: Path) -> str:
    """How a CSV in a resolved folder names a file: relative if below it, else absolute or a URL."""
    if is_remote(path):
        return url(path)
    whole = absolute(path)
    inside = whole.removeprefix(f"{str(folder).rstrip(os.sep)}{os.sep}")
    return whole if is_remote(inside) else inside


def shown(name: str) -> str:
    """A name on one line of any terminal: what cannot be printed is written as in Python."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)
