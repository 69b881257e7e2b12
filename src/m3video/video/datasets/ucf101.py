"""UCF101: `classInd.txt`, `trainlist0N.txt` and `testlist0N.txt`, three splits.

- `classInd.txt`: lines `1 ApplyEyeMakeup`;
- `trainlist01.txt`: lines `ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1`;
- `testlist01.txt`: lines `ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi`, without a number.
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

FILES = re.compile(r"classInd\.txt|(?:train|test)list0[123]\.txt")


def read_ucf101(files: dict[str, Path], split: int) -> Annotations:
    """Read the lists of one of the three splits.

    Raises:
        ManifestError: a list is missing, or a line cannot be understood.
    """
    lists = {"train": f"trainlist0{split}.txt", "test": f"testlist0{split}.txt"}
    for name in ("classInd.txt", *lists.values()):
        if name not in files:
            raise ManifestError(
                f"{name} is needed beside {', '.join(str(path) for path in files.values())}"
            )
    classes = _classes(files["classInd.txt"])
    rows: list[Annotated] = []
    for part, name in lists.items():
        rows += _videos(files[name], part, classes)
    return Annotations(tuple(rows))


def _classes(path: Path) -> dict[str, str]:
    """Class → its number, as written."""
    classes: dict[str, str] = {}
    for line, text in read_lines(path):
        number, _, name = text.partition(" ")
        if not number.isdecimal() or not name.strip():
            raise fault(path, line, f"{text[:80]!r} is not the number and name of a class")
        classes[name.strip()] = number
    return classes


def _videos(path: Path, split: str, classes: dict[str, str]) -> list[Annotated]:
    rows = []
    for line, text in read_lines(path):
        name, _, number = text.partition(" ")
        label, slash, stem = name.partition("/")
        if not slash or not stem or (split == "train" and not number):
            form = "Class/name.avi number" if split == "train" else "Class/name.avi"
            raise fault(path, line, f"{text[:80]!r} is not of the form {form}")
        if label not in classes:
            raise fault(path, line, f"class {label!r} is not in classInd.txt")
        if number.strip() not in {"", classes[label]}:
            raise fault(
                path, line, f"class {label} is {classes[label]} in classInd.txt, here {number}"
            )
        stem = without_ending(stem)
        rows.append(Annotated(stem, label, split, f"{path}, line {line}", (f"{label}/{stem}",)))
    return rows
