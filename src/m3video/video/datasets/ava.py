"""AVA v2.2: films with boxes of people, each with the actions it does, one key frame a second.

- `ava_train_v2.2.csv`, `ava_val_v2.2.csv`: lines `video_id,middle_frame_timestamp,x1,y1,x2,y2,
  action_id,person_id`, e.g. `-5KQ66BBWC4,0902,0.077,0.151,0.283,0.811,80,1`; timestamps in seconds
  of the film, coordinates as fractions of width and height;
- `ava_included_timestamps_v2.2.txt`: the timestamps of the key frames, the same for every film;
  without it, 902 to 1798 as there;
- `ava_train_excluded_timestamps_v2.2.csv` and so on: lines `video_id,timestamp`, key frames that
  are neither trained nor evaluated on;
- `ava_action_list_v2.2_for_activitynet_2019.pbtxt`: the 60 of the 80 actions that are evaluated;
  boxes of other actions are left out. Without it, all 80 of `ava_action_list_v2.2.pbtxt`.

Every included and not excluded second of a film is a key frame, also where nobody is in it. A
film's file is named by its id, `-5KQ66BBWC4.mkv`, and is either the whole film or, as it is usually
kept, its seconds 900 to 1800. The manifest has the films, without labels; the key frames are in
`boxes.csv` beside it (see `boxes`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from m3video.errors import ManifestError
from m3video.video.datasets.annotation import Annotated, Annotations, fault, read_lines
from m3video.video.datasets.boxes import Box, KeyFrame, parse_box
from m3video.video.scan import Video

FILES = re.compile(
    r"ava_(?:(?:train|val|test)(?:_excluded_timestamps)?_v2\.2\.csv"
    r"|included_timestamps_v2\.2\.txt|action_list_v2\.2(?:_for_activitynet_2019)?\.pbtxt)"
)
Films = Literal["whole", "cut"]
"""What the files are: whole films, or their seconds 900 to 1800."""
ACTIONS = 80
OTHER_ACTION = "of actions that are not evaluated"
OTHER_SECOND = "in excluded key frames"
CUT_AT = 900.0
LONGEST_CUT = 1000.0  # seconds: the cuts have 900, and a second or two more by some tools
INCLUDED = tuple(float(second) for second in range(902, 1799))
_ACTION = re.compile(r'(?:item|label)\s*\{\s*name:\s*"([^"]+)"\s*(?:label_)?id:\s*(\d+)[^}]*\}')


@dataclass(frozen=True)
class AvaAnnotations(Annotations):
    """The films, and what is in their key frames."""

    key_frames: dict[str, dict[float, dict[Box, list[str]]]] = field(default_factory=dict)
    """Film → timestamp → box → actions, for every key frame."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Why boxes were left out → how many."""


def read_ava(files: dict[str, Path], split: int) -> AvaAnnotations:
    """Read the lists of AVA v2.2.

    Raises:
        ManifestError: a list is missing, or a line cannot be understood.
    """
    parts = [part for part in ("train", "val", "test") if f"ava_{part}_v2.2.csv" in files]
    if not parts:
        raise ManifestError(f"no ava_train_v2.2.csv or ava_val_v2.2.csv beside {min(files)}")
    actions, included = _actions(files), _included(files)
    found = AvaAnnotations(rows=())
    rows: list[Annotated] = []
    for part in parts:
        path, name = files[f"ava_{part}_v2.2.csv"], f"ava_{part}_excluded_timestamps_v2.2.csv"
        if name not in files:
            raise ManifestError(f"{name} is needed beside {path}: excluded key frames do not count")
        rows += _read_films(path, part, found, actions, included, _excluded(files[name]))
    return replace(found, rows=tuple(rows))


def _read_films(
    path: Path,
    part: str,
    found: AvaAnnotations,
    actions: dict[str, str],
    included: tuple[float, ...],
    excluded: dict[str, set[float]],
) -> Iterator[Annotated]:
    """The films of one list; their key frames are added to what was found."""
    films: dict[str, dict[float, dict[Box, list[str]]]] = {}
    for line, film, second, cells in _lines(path, fields=8):
        where = f"{path}, line {line}"
        if film not in films:
            if film in found.key_frames:
                raise ManifestError(f"{where}: film {film} is in another list, too")
            out = excluded.get(film, set())
            films[film] = found.key_frames[film] = {s: {} for s in included if s not in out}
            yield Annotated(film, None, part, where, (film,))
        if not cells[4].isdecimal() or not 1 <= int(cells[4]) <= ACTIONS:
            raise fault(path, line, f"action {cells[4]!r} is not a number from 1 to {ACTIONS}")
        box = parse_box(cells[:4], where)
        if cells[4] not in actions:
            found.dropped[OTHER_ACTION] += 1
        elif second not in films[film]:
            found.dropped[OTHER_SECOND] += 1
        else:
            films[film][second].setdefault(box, []).append(actions[cells[4]])


def _lines(path: Path, *, fields: int) -> Iterator[tuple[int, str, float, list[str]]]:
    """Line, film, second and the other fields of a list."""
    for line, text in read_lines(path):
        film, *rest = text.split(",")
        if len(rest) + 1 != fields or not film:
            raise fault(path, line, f"{text[:80]!r} does not have {fields} fields")
        second, *cells = rest
        yield line, film, _second(second, path, line), cells


def _second(text: str, path: Path, line: int) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise fault(path, line, f"timestamp {text!r} is not a number of seconds")
    return number


def _excluded(path: Path) -> dict[str, set[float]]:
    seconds: dict[str, set[float]] = {}
    for _, film, second, _ in _lines(path, fields=2):
        seconds.setdefault(film, set()).add(second)
    return seconds


def _included(files: dict[str, Path]) -> tuple[float, ...]:
    path = files.get("ava_included_timestamps_v2.2.txt")
    if path is None:
        return INCLUDED
    return tuple(_second(text, path, line) for line, text in read_lines(path))


def _actions(files: dict[str, Path]) -> dict[str, str]:
    """Number → name."""
    for name in ("ava_action_list_v2.2_for_activitynet_2019.pbtxt", "ava_action_list_v2.2.pbtxt"):
        if name in files:
            text = " ".join(line for _, line in read_lines(files[name]))
            actions = {number: action for action, number in _ACTION.findall(text)}
            if not actions or len(actions) != text.count("name:"):
                raise ManifestError(f'{files[name]}: is not a list of item {{ name: "…" id: N }}')
            return actions
    raise ManifestError(
        f"ava_action_list_v2.2_for_activitynet_2019.pbtxt is needed beside {min(files.values())}"
    )


def film_key_frames(
    annotations: AvaAnnotations, videos: Sequence[Video], films: Films
) -> tuple[list[KeyFrame], dict[Path, int]]:
    """The key frames of the films that there are, and how many lie past the end of each file.

    Args:
        annotations: of AVA.
        videos: the films, with their ids and splits as extra columns.
        films: what the files are.

    Raises:
        ManifestError: the files are not what `films` says.
    """
    start = CUT_AT if films == "cut" else 0.0
    frames: list[KeyFrame] = []
    late: dict[Path, int] = {}
    for video in videos:
        if films == "cut" and video.duration > LONGEST_CUT:
            raise ManifestError(
                f"{video.path}: lasts {video.duration:.0f} s, so it is not the cut of the seconds "
                "900 to 1800; use --films whole, if all are whole"
            )
        film = video.extra["id"]
        for second, boxes in annotations.key_frames[film].items():
            if not 0 <= second - start <= video.duration:
                late[video.path] = late.get(video.path, 0) + 1
                continue
            frames.append(
                KeyFrame(
                    path=video.path,
                    video=film,
                    timestamp=second,
                    seconds=second - start,
                    split=video.extra["split"],
                    boxes=np.array(list(boxes), dtype=np.float32).reshape(-1, 4),
                    labels=tuple(tuple(dict.fromkeys(names)) for names in boxes.values()),
                )
            )
    if videos and not frames:
        raise ManifestError(
            f"{videos[0].path}: ends before its first key frame, as do all others; if the files "
            "are the cuts of the seconds 900 to 1800, use --films cut"
        )
    return frames, late
