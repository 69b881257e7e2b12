"""Jester: `jester-v1-labels.csv`, `-train.csv`, `-validation.csv`, `-test.csv`.

Files may also be named `labels.csv` and so on, as released later, with `test-answers.csv`.

- `labels`: a class a line;
- `train`, `validation`, `test-answers`: lines `34870;Drumming Fingers`;
- `test`: only ids; without answers the test videos are left out.

The official release holds a folder of pictures for each video (`20bn-jester-v1/34870/00001.jpg`, 12
a second). They must be made into videos first; the refusal of such folders says how.
"""

from __future__ import annotations

import re
from pathlib import Path

from m3video.errors import ManifestError
from m3video.video.datasets.annotation import (
    Annotated,
    Annotations,
    fault,
    read_answers,
    read_lines,
)

FILES = re.compile(r"(?:jester-v1-)?(labels|train|validation|test|test-answers)\.csv")
SPLITS = {"train": "train", "validation": "val", "test-answers": "test", "test": "test"}


def read_jester(files: dict[str, Path], split: int) -> Annotations:
    """Read the lists of Jester.

    Raises:
        ManifestError: a list is missing, or a line cannot be understood.
    """
    parts = {match[1]: files[name] for name in files if (match := FILES.fullmatch(name))}
    if "labels" not in parts or not parts.keys() & {"train", "validation", "test-answers"}:
        raise ManifestError(
            f"{', '.join(map(str, files.values()))}: jester-v1-labels.csv and at least one of "
            "jester-v1-train.csv and jester-v1-validation.csv are needed"
        )
    if len(parts) != len(files):
        raise ManifestError(f"two releases: {', '.join(map(str, files.values()))}; give one")
    classes = {text for _, text in read_lines(parts["labels"])}
    rows: list[Annotated] = []
    for part, name in SPLITS.items():
        if part in parts:
            rows += _videos(parts[part], name, classes)
    answered = {row.id for row in rows if row.label is not None}
    return Annotations(
        rows=tuple(row for row in rows if row.label is not None),
        left_out=tuple(row for row in rows if row.label is None and row.id not in answered),
        why_left_out="of the test without an answer",
    )


def _videos(path: Path, split: str, classes: set[str]) -> list[Annotated]:
    rows = []
    for line, name, label in read_answers(path):
        if label not in classes and (label or split != "test"):
            raise fault(path, line, f"{label!r} is not a class of the list of labels")
        rows.append(Annotated(name, label or None, split, f"{path}, line {line}", (name,)))
    return rows
