"""Diving48: `Diving48_V2_train.json`, `Diving48_V2_test.json` and `Diving48_vocab.json`.

- lists: `[{"vid_name": "-mXo0OHdYrU_00000", "label": 26, "start_frame": 0, "end_frame": 115}, …]`;
  videos are trimmed files, whose frames `start_frame` and `end_frame` count, so all are used;
- vocabulary: `[["Back", "15som", "05Twis", "FREE"], …]`; a class is named by these four words.

The first version, without `V2` in the names, is read, too, but not together with the second.
"""

from __future__ import annotations

import re
from pathlib import Path

from m3video.errors import ManifestError
from m3video.video.datasets.annotation import Annotated, Annotations, read_json, read_records

FILES = re.compile(r"Diving48_(?:(?:V2_)?(train|test)|(vocab))\.json")


def read_diving48(files: dict[str, Path], split: int) -> Annotations:
    """Read the lists of Diving48.

    Raises:
        ManifestError: a list is missing, there are two versions, or an entry is not understood.
    """
    parts = {match[1] or match[2]: files[name] for name in files if (match := _match(name))}
    told = ", ".join(map(str, files.values()))
    if len(parts) != len(files):
        raise ManifestError(f"{told}: lists of both versions; give those of one (V2 is corrected)")
    if "vocab" not in parts or len(parts) == 1:
        raise ManifestError(f"{told}: Diving48_vocab.json and a list of videos are needed")
    classes = _classes(parts["vocab"])
    rows: list[Annotated] = []
    for part in ("train", "test"):
        if part in parts:
            rows += _videos(parts[part], part, classes)
    return Annotations(tuple(rows))


def _match(name: str) -> re.Match[str] | None:
    return FILES.fullmatch(name)


def _classes(path: Path) -> list[str]:
    content = read_json(path)
    if not isinstance(content, list) or not all(isinstance(words, list) for words in content):
        raise ManifestError(f"{path}: is not a list of lists of words; give the official file")
    return [" ".join(str(word) for word in words) for words in content]


def _videos(path: Path, split: str, classes: list[str]) -> list[Annotated]:
    rows = []
    for where, record in read_records(path, fields=("vid_name", "label")):
        name, label = str(record["vid_name"]), record["label"]
        if not isinstance(label, int) or not 0 <= label < len(classes):
            raise ManifestError(
                f"{where}: label {label!r} is not a number from 0 to {len(classes) - 1}, as the "
                "vocabulary has them"
            )
        rows.append(Annotated(name, classes[label], split, where, (name,)))
    return rows
