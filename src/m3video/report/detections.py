"""Key frames that a detector was tested on: who is in them, what they do, and what was said."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from m3video.errors import ManifestError, UnreachableError, VideoError
from m3video.report.evaluation import Detected
from m3video.report.film import data_url
from m3video.report.probes import Bar
from m3video.train.detect_clips import key_row
from m3video.train.detect_evaluate import ANNOTATED, DETECTIONS
from m3video.train.detect_map import IOU, match, overlaps
from m3video.video.datasets.boxes import Box, KeyFrame, parse_box, read_boxes
from m3video.video.reader import VideoReader
from m3video.video.spans import naming

SHOWN = 6
"""Key frames on the page."""
TRIES = 12
"""Key frames that are tried before fewer are shown."""
GUESSES = 3
"""The likeliest actions of a person that are told."""
NAMED = 5
"""Key frames that cannot be shown that are named."""
SIDE = 480
"""Pixels of a picture's longer side at most."""
QUALITY = 85  # of JPEG
COLOURS = ((255, 150, 60), (80, 190, 255), (150, 220, 90), (240, 110, 170), (250, 220, 80))
"""RGB of the boxes, in turn."""

Place = tuple[str, str]
"""Id of the video and timestamp, as detections.csv writes them."""
Said = dict[Box, dict[str, float]]
"""Box of a person -> action -> score."""


@dataclass(frozen=True)
class Person:
    """A box on the page.

    Attributes:
        number: in the picture.
        colour: of the box, as CSS.
        truth: the annotated actions; empty where nobody is annotated in the box.
        guesses: bars of the likeliest actions, and whether each is right.
        missed: why nothing was said of the box, where nothing was.
    """

    number: int
    colour: str
    truth: tuple[str, ...]
    guesses: list[tuple[Bar, bool]]
    missed: str


@dataclass(frozen=True)
class KeyFrameCard:
    """A key frame on the page: a picture with boxes, and the people in them."""

    name: str
    url: str
    width: int
    height: int
    people: list[Person]


@dataclass(frozen=True)
class KeyFrameCards:
    """Some key frames, and what a reader must know about them."""

    cards: list[KeyFrameCard]
    notes: list[str]


def key_frame_cards(folder: Path, found: Detected) -> KeyFrameCards:
    """Show key frames of an evaluation, spread over its split.

    Args:
        folder: of detections.csv.
        found: its evaluation.json, which names the annotations.
    """
    try:
        frames = [
            frame
            for frame in read_boxes(found.data)
            if frame.split == found.split and len(frame.boxes)
        ]
        if not frames:
            raise ManifestError(f"{found.data}: no box in a key frame of split {found.split!r}")
        chosen = _spread(frames, TRIES)
        said = read_said(folder / DETECTIONS, {_place(frame) for frame in chosen})
    except (ManifestError, UnreachableError, OSError, csv.Error) as error:
        return KeyFrameCards([], [f"No key frames can be shown: {' '.join(str(error).split())}"])
    cards: list[KeyFrameCard] = []
    gone = []
    for frame in chosen:
        if len(cards) == SHOWN:
            break
        people = judge(frame, said.get(_place(frame), {}), annotated=found.boxes == ANNOTATED)
        try:
            cards.append(_card(frame, people))
        except (VideoError, UnreachableError) as error:
            gone.append(f"Cannot be shown: {error}")
    notes = [
        f"{len(cards)} of the {len(frames):,} key frames with an annotated box, spread over all."
    ]
    if len(gone) > NAMED:
        gone = [*gone[:NAMED], f"Nor can {len(gone) - NAMED} more."]
    return KeyFrameCards(cards, (notes if cards else []) + gone)


def _place(frame: KeyFrame) -> Place:
    return frame.video, f"{frame.timestamp:g}"


def _spread(frames: Sequence[KeyFrame], count: int) -> list[KeyFrame]:
    """Up to so many of them, evenly spread; the first half of them is spread as well."""
    rows = np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int).tolist()
    return [frames[row] for row in rows[::2] + rows[1::2]]


def read_said(path: Path, wanted: set[Place]) -> dict[Place, Said]:
    """What detections.csv says of some key frames; of AVA it has millions of lines.

    Raises:
        OSError: it cannot be read.
        csv.Error: it is no CSV.
        ManifestError: a line of these key frames cannot be understood.
    """
    said: dict[Place, Said] = {}
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        for line, cells in enumerate(csv.reader(file), start=1):
            if tuple(cells[:2]) not in wanted:
                continue
            where = f"{path}, line {line}"
            try:
                video, timestamp, *box, action, text = cells
                score = float(text)
            except ValueError:
                raise ManifestError(f"{where}: not a box, an action and a score") from None
            boxes = said.setdefault((video, timestamp), {})
            boxes.setdefault(parse_box(box, where), {})[action] = score
    return said


def judge(
    frame: KeyFrame, said: Said, *, annotated: bool
) -> list[tuple[Person, NDArray[np.float64]]]:
    """The people of a key frame and their boxes [4]: those that were judged, then the others.

    What is said of a box is right as frame mAP has it.

    Args:
        frame: the key frame.
        said: what was said of each judged box.
        annotated: whether the judged boxes are the annotated ones, in their order. Else a box is
            the annotated person whom it overlaps most, by half or more.
    """
    truth = frame.boxes.astype(np.float64)
    boxes = np.array(list(said), np.float64).reshape(-1, 4)
    shared = overlaps(boxes, truth)
    if annotated and len(boxes) == len(truth):
        owners: list[int | None] = list(range(len(truth)))
    else:
        owners = [int(row.argmax()) if row.max(initial=0) >= IOU else None for row in shared]
    actions = {action for scores in said.values() for action in scores}
    right = {action: _right(action, list(said.values()), boxes, frame) for action in actions}
    people: list[tuple[tuple[str, ...], list[tuple[str, float, bool]], NDArray[np.float64]]] = []
    for row, (owner, scores) in enumerate(zip(owners, said.values(), strict=True)):
        told = [(action, score, bool(right[action][row])) for action, score in scores.items()]
        people.append((() if owner is None else frame.labels[owner], told, boxes[row]))
    for number, box in enumerate(truth):
        if number not in owners:
            people.append((frame.labels[number], [], box))
    why = "not judged" if annotated else "not found"
    return [
        (_person(number, labels, told, "" if told else why), box)
        for number, (labels, told, box) in enumerate(people, start=1)
    ]


def _right(
    action: str, said: Sequence[dict[str, float]], boxes: NDArray[np.float64], frame: KeyFrame
) -> NDArray[np.bool_]:
    """Of which judged boxes it is right to say this action: bool [n]."""
    rows = [number for number, labels in enumerate(frame.labels) if action in labels]
    scores = np.array([found.get(action, 0.0) for found in said])
    return match(scores, boxes, frame.boxes[rows].astype(np.float64))


def _person(
    number: int, truth: tuple[str, ...], told: Sequence[tuple[str, float, bool]], missed: str
) -> Person:
    ranked = sorted(told, key=lambda entry: -entry[1])
    shown = ranked[:GUESSES] + [entry for entry in ranked[GUESSES:] if entry[0] in truth]
    red, green, blue = COLOURS[(number - 1) % len(COLOURS)]
    guesses = [
        (Bar(action, f"{100 * score:.1f} %", min(max(score, 0.0), 1.0)), right)
        for action, score, right in shown
    ]
    return Person(number, f"rgb({red} {green} {blue})", truth, guesses, missed)


def _card(frame: KeyFrame, people: list[tuple[Person, NDArray[np.float64]]]) -> KeyFrameCard:
    """Raises VideoError where the key frame cannot be read."""
    with naming(frame.path), VideoReader(frame.path) as reader:
        row = min(key_row(reader, frame.seconds), len(reader) - 1)
        ((_, image),) = reader.images([row])
    picture = draw_boxes(image, [box for _, box in people])
    height, width = picture.shape[:2]
    encoded = cv2.imencode(
        ".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), (cv2.IMWRITE_JPEG_QUALITY, QUALITY)
    )[1]
    name = f"{frame.video}, {frame.timestamp:g} s"
    url = data_url(bytes(encoded), "image/jpeg")
    return KeyFrameCard(name, url, width, height, [person for person, _ in people])


def draw_boxes(image: NDArray[np.uint8], boxes: Iterable[NDArray[np.float64]]) -> NDArray[np.uint8]:
    """A frame, made small, with boxes in the colours of their numbers, which begin with 1.

    Args:
        image: uint8 [H, W, 3] RGB.
        boxes: [4] each, x1, y1, x2, y2 as fractions of width and height.
    """
    scale = min(1.0, SIDE / max(image.shape[:2]))
    size = (max(2, round(image.shape[1] * scale)), max(2, round(image.shape[0] * scale)))
    picture = np.ascontiguousarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
    for number, box in enumerate(boxes, start=1):
        colour = COLOURS[(number - 1) % len(COLOURS)]
        x1, y1, x2, y2 = (box * np.tile(np.array(size) - 1, 2)).round().astype(int).tolist()
        cv2.rectangle(picture, (x1, y1), (x2, y2), (0, 0, 0), 4)
        cv2.rectangle(picture, (x1, y1), (x2, y2), colour, 2)
        text = str(number)
        tag = (9 * len(text) + 6, 16)
        x1, y1 = min(x1, size[0] - tag[0]), min(y1, size[1] - tag[1])
        cv2.rectangle(picture, (x1, y1), (x1 + tag[0], y1 + tag[1]), colour, -1)
        cv2.putText(
            picture,
            text,
            (x1 + 3, y1 + 13),
            cv2.FONT_HERSHEY_SIMPLEX,
            0.45,
            (0, 0, 0),
            1,
            cv2.LINE_AA,
        )
    return np.asarray(picture, np.uint8)
