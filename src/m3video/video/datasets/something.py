"""Something-Something V2: `labels.json`, `train.json`, `validation.json`, `test.json`.

Files may also be named `something-something-v2-train.json` and so on, as first released.

- `labels.json`: `{"Approaching something with your camera": "0", …}`;
- `train.json`, `validation.json`: `[{"id": "78687", "label": "holding potato next to vicks bottle",
  "template": "Holding [something] next to [something]", "placeholders": […]}, …]`; the class is the
  template without its brackets;
- `test.json`: `[{"id": "1420"}, …]`; its classes are in `test-answers.csv`, as lines
  `1420;Moving something closer to something`. Without it the test videos are left out.

A video's file is named by its id, `78687.webm`.
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
    read_json,
    read_records,
)

FILES = re.compile(
    r"(?:something-something-v2-)?(?:(labels|train|validation|test)\.json|(test-answers)\.csv)"
)


def read_something(files: dict[str, Path], split: int) -> Annotations:
    """Read the lists of Something-Something V2.

    Raises:
        ManifestError: a list is missing, or an entry cannot be understood.
    """
    parts = {match[1] or match[2]: files[name] for name in files if (match := _match(name))}
    if "labels" not in parts or not parts.keys() & {"train", "validation", "test-answers"}:
        raise ManifestError(
            f"{', '.join(map(str, files.values()))}: labels.json and at least one of train.json, "
            "validation.json and test-answers.csv are needed"
        )
    if len(parts) != len(files):
        raise ManifestError(f"two releases: {', '.join(map(str, files.values()))}; give one")
    classes = _classes(parts["labels"])
    rows: list[Annotated] = []
    for part, name in (("train", "train"), ("validation", "val")):
        if part in parts:
            rows += _videos(parts[part], name, classes)
    answers = _answers(parts["test-answers"], classes) if "test-answers" in parts else []
    rows += answers
    return Annotations(
        tuple(rows), _unanswered(parts.get("test"), answers), "of the test without an answer"
    )


def _match(name: str) -> re.Match[str] | None:
    return FILES.fullmatch(name)


def _classes(path: Path) -> set[str]:
    content = read_json(path)
    if not isinstance(content, dict) or not content:
        raise ManifestError(f'{path}: is not {{"name": "number", …}}; give the official labels')
    return set(content)


def _videos(path: Path, split: str, classes: set[str]) -> list[Annotated]:
    rows = []
    for where, record in read_records(path, fields=("id", "template")):
        name = str(record["id"])
        label = str(record["template"]).replace("[", "").replace("]", "")
        if label not in classes:
            raise ManifestError(f"{where}: template {label!r} is not a class of labels.json")
        rows.append(Annotated(name, label, split, where, (name,)))
    return rows


def _answers(path: Path, classes: set[str]) -> list[Annotated]:
    rows = []
    for line, name, label in read_answers(path):
        if label not in classes:
            raise fault(path, line, f"{label!r} is not a class of labels.json")
        rows.append(Annotated(name, label, "test", f"{path}, line {line}", (name,)))
    return rows


def _unanswered(path: Path | None, answers: list[Annotated]) -> tuple[Annotated, ...]:
    if path is None:
        return ()
    answered = {row.id for row in answers}
    listed = ((where, str(row["id"])) for where, row in read_records(path, fields=("id",)))
    return tuple(
        Annotated(name, None, "test", where, (name,))
        for where, name in listed
        if name not in answered
    )
