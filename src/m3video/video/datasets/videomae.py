"""Lists as VideoMAE's fine-tuning reads them, of any data set: `train.csv`, `val.csv`, `test.csv`.

Lines are a path and the number of a class, divided by a space or a comma:
`somewhere/train/abseiling/-3B32lodo2M_000059_000069.mp4 0`. The paths may be those of another
machine: files are found by their names below the folder of videos, and by their folders where
names are not unique. The split is what the name of the list says (train, val or test). Often the
validation and the test list are the same: such videos are `test`, as they must not choose anything.
"""

from __future__ import annotations

import re
from pathlib import Path

from m3video.errors import ManifestError
from m3video.video.datasets.annotation import (
    Annotated,
    Annotations,
    fault,
    read_lines,
    without_ending,
)

FILES = re.compile(r".*(?:train|val|test).*\.(?:csv|txt)")
_SPLIT = re.compile(r"train|val|test")
_LINE = re.compile(r"(?P<path>.+?)[ ,]+(?P<label>\d+)")


def read_videomae(files: dict[str, Path], split: int) -> Annotations:
    """Read the lists.

    Raises:
        ManifestError: a file's name does not tell its split, or a line cannot be understood.
    """
    rows: list[Annotated] = []
    for name, path in files.items():
        named = set(_SPLIT.findall(name))
        if len(named) != 1:
            raise ManifestError(
                f"{path}: the name must hold one of train, val and test, which tells its split"
            )
        rows += _videos(path, named.pop())
    tested = {(row.id, row.label) for row in rows if row.split == "test"}
    kept = [row for row in rows if row.split != "val" or (row.id, row.label) not in tested]
    return Annotations(tuple(kept), repeats=len(rows) - len(kept))


def _videos(path: Path, split: str) -> list[Annotated]:
    rows = []
    for line, text in read_lines(path):
        match = _LINE.fullmatch(text)
        if match is None or re.search(r"[ ,]\d+$", match["path"]):
            raise fault(
                path,
                line,
                f"{text[:200]!r} is not a path and the number of a class, divided by a space or "
                "a comma",
            )
        name = without_ending(match["path"].strip('"'))
        rows.append(Annotated(name, match["label"], split, f"{path}, line {line}", (name,)))
    return rows
