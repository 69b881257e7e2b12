"""Which file is which video of a list: one scan of the folders, no look-up a candidate."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from m3video.errors import ManifestError
from m3video.video.datasets.annotation import Annotated, without_ending
from m3video.video.manifest import EXTENSIONS, closed_folder
from m3video.video.scan import Unreadable
from m3video.video.shards import MISTAKEN, member_of
from m3video.video.walk import walk

_PICTURES = frozenset({".jpg", ".jpeg", ".png"})
_FOLDERS_OF_PICTURES = 20  # and no video so far: the release of frames, which is not walked through


@dataclass(frozen=True)
class Files:
    """Video files below a folder."""

    by_name: dict[str, list[str]]
    """Name without folder and ending → paths."""
    closed: tuple[Unreadable, ...]
    """Folders that cannot be opened, and files that are not to be."""


@dataclass(frozen=True)
class Matched:
    """Videos of a list and their files."""

    found: tuple[tuple[Annotated, str], ...]
    missing: tuple[Annotated, ...]
    surplus: tuple[str, ...]
    """Files that no list names, sorted."""


def find_files(folder: Path) -> Files:
    """Find the videos below a folder.

    Raises:
        ManifestError: it is no folder, holds no videos, or folders of pictures in their place.
    """
    if not folder.is_dir():
        raise ManifestError(f"{folder}: is not a folder; give the one that holds the videos")
    by_name: dict[str, list[str]] = {}
    closed: list[Unreadable] = []
    pictures: list[str] = []

    def refused(error: OSError) -> None:
        closed.append(Unreadable(Path(error.filename), closed_folder(error)))

    for parent, names in walk(folder, refused):
        for name in names:
            ending = f".{name.rpartition('.')[2].lower()}"  # a Path a file is slow
            path = f"{parent}{os.sep}{name}"
            if ending in EXTENSIONS and ".tar::" in path and member_of(Path(path)):
                closed.append(Unreadable(Path(path), MISTAKEN))
            elif ending in EXTENSIONS:
                by_name.setdefault(without_ending(name), []).append(path)
            elif ending in _PICTURES:
                pictures.append(path)
                break
        if len(pictures) >= _FOLDERS_OF_PICTURES and not by_name:
            break
    if not by_name:
        raise ManifestError(_nothing_found(folder, sorted(pictures), closed))
    return Files(by_name, tuple(closed))


def _nothing_found(folder: Path, pictures: Sequence[str], closed: Sequence[Unreadable]) -> str:
    if pictures:
        parent, _, name = pictures[0].rpartition(os.sep)
        stem, dot, ending = name.rpartition(".")
        digits = len(stem) - len(stem.rstrip("0123456789"))
        frames = f"{stem[: len(stem) - digits]}%0{digits}d{dot}{ending}"
        return (
            f"{folder}: holds folders of pictures, no videos, such as {parent}; make each folder a "
            f"video first, e.g.: ffmpeg -framerate 12 -i {parent}/{frames} -c:v libx264 "
            f"-crf 18 -pix_fmt yuv444p VIDEOS/{Path(parent).name}.mp4 (12: frames per second of "
            "Jester and Something-Something), and give the folder VIDEOS"
        )
    if closed:
        return f"{closed[0].path}: {closed[0].reason}"
    return f"{folder}: no videos found (files that end in {' '.join(sorted(EXTENSIONS))})"


def match_files(rows: Sequence[Annotated], left_out: Iterable[Annotated], files: Files) -> Matched:
    """Find the file of each video.

    Names that several videos share, and several files of one name, are told apart by the folders
    before the name; folders with spaces and underscores are the same.

    Args:
        rows: the videos that are wanted.
        left_out: listed videos that are not wanted; their files are no surplus.
        files: the files.
    """
    names = Counter(_stem(name) for row in rows for name in row.names)
    used: set[str] = set()
    found: list[tuple[Annotated, str]] = []
    missing: list[Annotated] = []
    for row in rows:
        path = _choose(row, files, shared=names, used=used)
        if path is None:
            missing.append(row)
            continue
        used.add(path)
        found.append((row, path))
    ignored = {_stem(name) for row in left_out for name in row.names}
    surplus = (
        path
        for name, paths in files.by_name.items()
        if name not in ignored
        for path in paths
        if path not in used
    )
    return Matched(tuple(found), tuple(missing), tuple(sorted(surplus)))


def _stem(name: str) -> str:
    return name.rpartition("/")[2]


def _choose(row: Annotated, files: Files, *, shared: Counter[str], used: set[str]) -> str | None:
    for name in row.names:
        paths = files.by_name.get(_stem(name), ())
        if len(paths) == 1 and shared[_stem(name)] == 1:
            return paths[0]  # by far the most frequent case
        needed = 2 if shared[_stem(name)] > 1 else 1
        likely = [
            (_agreement(path, name), _names_split(path, row.split), path)
            for path in sorted(paths, reverse=True)
            if path not in used
        ]
        if likely and max(likely)[0] >= needed:
            best = max(likely)[:2]
            return min(path for *score, path in likely if tuple(score) == best)
    return None


def _agreement(path: str, name: str) -> int:
    """How many parts, from the last one on, agree."""
    parts = zip(_parts(without_ending(path)), _parts(name), strict=False)
    count = 0
    for one, other in parts:
        if one != other:
            break
        count += 1
    return count


def _parts(path: str) -> list[str]:
    *folders, name = path.replace(os.sep, "/").split("/")
    return [name, *(folder.replace("_", " ").casefold() for folder in reversed(folders))]


def _names_split(path: str, split: str) -> bool:
    return any(part.startswith(split) for part in _parts(path)[1:])
