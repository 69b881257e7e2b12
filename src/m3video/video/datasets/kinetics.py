"""Kinetics-400, -600, -700 and -700-2020: the CSVs of the releases.

```
label,youtube_id,time_start,time_end,split[,is_cc]
abseiling,-3B32lodo2M,59,69,val,0
```

A clip's file is named `ID_000059_000069` (start and end in whole seconds, six digits), anywhere
below the folder of videos; copies that name it `ID` alone are understood where that is unambiguous.
Lists of test videos without labels have no column `label`; such videos are left out.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path

from m3video.errors import ManifestError
from m3video.video.datasets.annotation import Annotated, Annotations, fault, read_lines

FILES = re.compile(r".+\.csv")
COLUMNS = ("youtube_id", "time_start", "time_end", "split")
_DIGITS = 6  # of seconds in names of files
SPLITS = {"train": "train", "val": "val", "validate": "val", "validation": "val", "test": "test"}


def read_kinetics(files: dict[str, Path], split: int) -> Annotations:
    """Read every CSV with the columns of Kinetics; other CSVs of a folder are passed over.

    Raises:
        ManifestError: none has these columns, or a line cannot be understood.
    """
    lists = [path for path in files.values() if _is_kinetics(path)]
    if not lists:
        names = ", ".join(str(path) for path in files.values())
        raise ManifestError(
            f"{names}: has no header with {', '.join(COLUMNS)}; give the CSVs of the release, or "
            "use --format videomae for lists of a path and the number of a class"
        )
    rows = [row for path in lists for row in _read(path)]
    return Annotations(
        rows=tuple(row for row in rows if row.label),
        left_out=tuple(row for row in rows if not row.label),
        why_left_out="without a label",
    )


def _header(path: Path) -> list[str]:
    first = next(read_lines(path), (1, ""))[1]
    return [name.strip().strip('"') for name in first.split(",")]


def _is_kinetics(path: Path) -> bool:
    return set(COLUMNS) <= set(_header(path))


def _read(path: Path) -> Iterator[Annotated]:
    header = _header(path)
    columns = [header.index(name) for name in COLUMNS]
    label_column = header.index("label") if "label" in header else None
    lines = read_lines(path)
    next(lines)
    for number, line in lines:
        cells = next(csv.reader([line])) if '"' in line else line.split(",")
        if len(cells) != len(header):
            raise fault(path, number, f"has {len(cells)} fields, the header {len(header)}")
        youtube, start, end, split = (cells[column].strip() for column in columns)
        label = "" if label_column is None else cells[label_column].strip()
        if not youtube:
            raise fault(path, number, "youtube_id is empty")
        if split not in SPLITS:
            raise fault(path, number, f"split {split!r} is not one of {', '.join(SPLITS)}")
        clip = f"{youtube}_{_second(start, path, number):06d}_{_second(end, path, number):06d}"
        where = f"{path}, line {number}"
        # Of a video with several clips the id alone names none: matching sees that they share it.
        names = (f"{label}/{clip}" if label else clip, youtube)
        yield Annotated(clip, label or None, SPLITS[split], where, names)


def _second(text: str, path: Path, line: int) -> int:
    if text.isdecimal() and len(text) <= _DIGITS:
        return int(text)
    try:
        number = float(text)
    except ValueError:
        number = -1
    if not 0 <= number < 10**_DIGITS or number != int(number):
        raise fault(path, line, f"time {text!r} is not a whole number of seconds")
    return int(number)
