"""Test videos of a classifier: a small film of each, what it is, and what was said of it."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from m3video.config import ClipConfig, FinetuneConfig
from m3video.errors import CheckpointError, UnreachableError, VideoError
from m3video.model.checkpoint import CONFIG, read_json
from m3video.report.film import data_url, encode_film
from m3video.report.panels import Panel
from m3video.report.probes import Bar
from m3video.train.classified import PREDICTIONS
from m3video.train.labelled import TEST_OFFSET, shapes_test
from m3video.train.multiview import MOVING_SHAPES
from m3video.train.run import RunDirectory
from m3video.video.reader import VideoReader
from m3video.video.sampling import sample_generator

WRONG, SHOWN = 8, 12
"""Videos that are shown in all, and how many of them are wrong ones, where there are so many."""
TRIES = 24
"""Videos that are tried before fewer are shown."""
NAMED = 5
"""Videos that cannot be shown that are named."""
FRAMES = 32
"""Frames of a film at most, spread over the whole video."""
SIDE = 224
"""Pixels of a film's longer side, about."""
FILM = 60_000
"""Bytes of a film, about."""

Film = tuple[NDArray[np.uint8], int]
"""Frames [S, H, W, 3] RGB, and frames a second."""


@dataclass(frozen=True)
class Answer:
    """A line of predictions.csv: the likeliest classes and their probabilities, likeliest first."""

    path: str
    truth: str
    guesses: tuple[tuple[str, float], ...]

    @property
    def right(self) -> bool:
        """Whether the likeliest class is the true one."""
        return self.guesses[0][0] == self.truth


@dataclass(frozen=True)
class Card:
    """A test video on the page."""

    name: str
    truth: str
    right: bool
    film: Panel
    guesses: list[tuple[Bar, bool]]
    """Bars of probability, and whether it is the true class."""
    missed: bool
    """Whether the true class is not among them."""


@dataclass(frozen=True)
class Cards:
    """Some test videos, and what a reader must know about them."""

    cards: list[Card]
    notes: list[str]


def read_answers(path: Path) -> list[Answer]:
    """predictions.csv of an evaluation; lines that cannot be understood count for nothing."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        found = [_answer(row) for row in csv.DictReader(file)]
    return [answer for answer in found if answer is not None]


def _answer(row: dict[str, str]) -> Answer | None:
    places = [place for place in range(1, 6) if row.get(f"class{place}") is not None]
    try:
        pairs = [(row[f"class{place}"], float(row[f"p{place}"])) for place in places]
        usable = bool(pairs) and all(math.isfinite(share) for _, share in pairs)
        return Answer(row["path"], row["truth"], tuple(pairs)) if usable else None
    except (KeyError, ValueError, TypeError):
        return None


def in_order(answers: Sequence[Answer]) -> list[Answer]:
    """Those to show: the surest mistakes first, then right ones; of each a class at a time."""
    wrong = list(_by_class([answer for answer in answers if not answer.right]))
    right = list(_by_class([answer for answer in answers if answer.right]))
    return wrong[:WRONG] + right + wrong[WRONG:]


def _by_class(answers: Sequence[Answer]) -> Iterator[Answer]:
    """The surest of each true class, then the second of each, and so on."""
    rank: dict[str, int] = {}
    ranked = []
    for answer in sorted(answers, key=lambda answer: (-answer.guesses[0][1], answer.path)):
        rank[answer.truth] = rank.get(answer.truth, -1) + 1
        ranked.append((rank[answer.truth], answer))
    for _, answer in sorted(ranked, key=lambda pair: pair[0]):
        yield answer


def answer_cards(run: Path, folder: Path, config: FinetuneConfig) -> Cards:
    """Show test videos of an evaluation; one that cannot be read gives way to the next.

    Args:
        run: the run directory.
        folder: of predictions.csv.
        config: of the run; moving shapes are rendered again by it.
    """
    answers = read_answers(folder / PREDICTIONS)
    rendered = config.data == MOVING_SHAPES
    if not answers:
        return Cards([], [])
    try:
        film = _rendered(run, config) if rendered else read_film
    except CheckpointError as error:
        return Cards([], [f"No test videos can be shown: {error}"])
    cards: list[Card] = []
    gone: list[str] = []
    wrong = sum(not answer.right for answer in answers)
    for answer in in_order(answers)[:TRIES]:
        if len(cards) == SHOWN:
            break
        try:
            cards.append(_card(answer, film(answer.path)))
        except (VideoError, UnreachableError) as error:
            reason = str(error).removeprefix(f"{answer.path}: ")
            gone.append(f"Cannot be shown: {answer.path}: {reason}")
    cards.sort(key=lambda card: card.right)
    shown = sum(not card.right for card in cards)
    notes = [
        f"{shown} of the {wrong:,} videos that were taken for something else, and "
        f"{len(cards) - shown} of the {len(answers) - wrong:,} that were not; of each class the "
        "surest ones first. "
        + ("Rendered again." if rendered else "Whole videos, sped up where they are long.")
    ]
    if len(gone) > NAMED:
        gone = [*gone[:NAMED], f"Nor can {len(gone) - NAMED} more."]
    return Cards(cards, (notes if cards else []) + gone)


def read_film(path: str) -> Film:
    """Frames spread over a whole video, made small.

    Raises:
        VideoError: it cannot be read.
    """
    with VideoReader(path) as reader:
        count = min(len(reader), FRAMES)
        rows = np.linspace(0, len(reader) - 1, count).round().astype(int).tolist()
        frames = np.stack([_small(image) for _, image in reader.images(rows)])
        rate = count / reader.duration if reader.duration else reader.fps
    return frames, min(max(round(rate), 5), 12)


def _small(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A frame whose longer side is about `SIDE`: by a whole factor where it is enlarged."""
    height, width = image.shape[:2]
    longer = max(height, width)
    scale = SIDE / longer if longer > SIDE else float(SIDE // longer)
    size = (max(2, round(width * scale)), max(2, round(height * scale)))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    return np.asarray(cv2.resize(image, size, interpolation=how), np.uint8)


def _rendered(run: Path, config: FinetuneConfig) -> Callable[[str], Film]:
    """A function that renders the test clip `moving-shapes/N` of a run.

    Raises:
        CheckpointError: the model of the run, which says what a clip is, cannot be read.
    """
    place = RunDirectory(run).model / CONFIG
    found = read_json(place)
    try:
        clip = ClipConfig.model_validate(found.get("clip") if isinstance(found, dict) else None)
    except ValidationError as error:
        raise CheckpointError(f"{place}: no clip that can be understood") from error
    parts = shapes_test(clip, config.shapes.test_clips, config.shapes.texture)

    def film(path: str) -> Film:
        digits = path.removeprefix(f"{MOVING_SHAPES}/")
        number = TEST_OFFSET + int(digits) if digits.isdecimal() else -1
        for part in parts:
            if part.offset <= number < part.offset + len(part):
                index = number - part.offset
                clips = part.clip(index, 0, sample_generator(config.train.seed, 0, index))
                return np.stack([_small(image) for image in clips.frames.numpy()]), 5
        raise VideoError(f"{path}: no test clip of this run")

    return film


def _card(answer: Answer, film: Film) -> Card:
    frames, fps = film
    url = data_url(encode_film(frames, fps, limit=FILM), "video/mp4")
    name = short_name(answer.path)
    guesses = [
        (Bar(label, f"{100 * share:.1f} %", min(max(share, 0.0), 1.0)), label == answer.truth)
        for label, share in answer.guesses
    ]
    return Card(
        name=name,
        truth=answer.truth,
        right=answer.right,
        film=Panel(name, url, f"{answer.truth}: {name}", frames.shape[2], frames.shape[1]),
        guesses=guesses,
        missed=all(label != answer.truth for label, _ in answer.guesses),
    )


def short_name(path: str) -> str:
    """File and folder: what tells two videos of a data set apart."""
    return "/".join(Path(path).parts[-2:])
