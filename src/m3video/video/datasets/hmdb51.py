"""HMDB51: `CLASS_test_splitN.txt`, a list for each class and each of three splits.

Lines are `April_09_brush_hair_u_nm_np1_ba_goo_0.avi 1`: 1 is training, 2 test, 0 neither. A split
has 70 training and 30 test videos a class; the others are left out. The id is `CLASS/name`.
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

FILES = re.compile(r"(.+)_test_split([123])\.txt")
PARTS = {"0": "", "1": "train", "2": "test"}


def read_hmdb51(files: dict[str, Path], split: int) -> Annotations:
    """Read the lists of one of the three splits.

    Raises:
        ManifestError: there is none of this split, or a line cannot be understood.
    """
    rows: list[Annotated] = []
    for name in sorted(files):
        match = FILES.fullmatch(name)
        if match and int(match[2]) == split:
            rows += _videos(files[name], match[1])
    if not rows:
        raise ManifestError(
            f"no list CLASS_test_split{split}.txt beside {next(iter(files.values()))}"
        )
    return Annotations(
        rows=tuple(row for row in rows if row.split),
        left_out=tuple(row for row in rows if not row.split),
        why_left_out=f"in neither part of split {split}",
    )


def _videos(path: Path, label: str) -> list[Annotated]:
    rows = []
    for line, text in read_lines(path):
        name, _, part = text.rpartition(" ")
        if not name or part not in PARTS:
            raise fault(path, line, f"{text[:80]!r} is not of the form name.avi 0|1|2")
        id_ = f"{label}/{without_ending(name.strip())}"
        rows.append(Annotated(id_, label, PARTS[part], f"{path}, line {line}", (id_,)))
    return rows
