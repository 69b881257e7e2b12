"""Key frames of a detector on its page: whose box it is, what was said, and what is drawn."""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from m3video.report.detections import COLOURS, draw_boxes, judge, key_frame_cards, read_said
from m3video.report.evaluation import Detected
from m3video.report.page import write_report
from m3video.video.datasets.boxes import KeyFrame, write_boxes
from tests.conftest import write_video
from tests.report.tuned_runs import detector_run

ONE, TWO = (0.1, 0.1, 0.5, 0.9), (0.6, 0.2, 0.9, 0.8)


def key_frame(path: Path, timestamp: float = 902.0, split: str = "val") -> KeyFrame:
    return KeyFrame(
        path,
        "film",
        timestamp,
        timestamp - 901.6,
        split,
        np.array([ONE, TWO], np.float32),
        (("walk", "talk"), ("sit",)),
    )


def found(data: Path) -> Detected:
    return Detected.model_validate(
        {
            "map": 0.5,
            "actions": {"walk": 0.5},
            "data": str(data),
            "split": "val",
            "key_frames": 3,
            "annotated": 6,
            "judged": 6,
        }
    )


def picture(url: str) -> NDArray[np.uint8]:
    data = base64.b64decode(url.removeprefix("data:image/jpeg;base64,"))
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), np.uint8)


def write_said(folder: Path, rows: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "detections.csv").write_text("".join(row + "\n" for row in rows))


def test_a_judged_box_is_the_person_it_overlaps_by_half() -> None:
    near, nowhere = (0.1, 0.1, 0.5, 0.6), (0.0, 0.0, 0.05, 0.05)
    scores = {"a": 0.9, "walk": 0.8, "b": 0.7, "c": 0.6, "talk": 0.1}
    said = {near: scores, nowhere: {"a": 0.4}}
    people = judge(key_frame(Path("film.mp4")), said, annotated=False)
    first, second, missed = (person for person, _ in people)
    assert first.truth == ("walk", "talk")
    told = [(bar.name, bar.share, right) for bar, right in first.guesses]
    assert told == [
        ("a", 0.9, False),
        ("walk", 0.8, True),
        ("b", 0.7, False),
        ("talk", 0.1, True),
    ], "the likeliest three, and what is true of the others"
    assert (second.truth, second.missed) == ((), "")
    assert (missed.truth, missed.missed, missed.guesses) == (("sit",), "not found", [])
    assert [person.number for person, _ in people] == [1, 2, 3]
    np.testing.assert_allclose(people[2][1], TWO, atol=1e-6)


def test_nobody_judged_is_everybody_missed() -> None:
    people = judge(key_frame(Path("film.mp4")), {}, annotated=True)
    assert [person.missed for person, _ in people] == ["not judged", "not judged"]


def test_a_person_is_found_once_as_frame_map_counts() -> None:
    again = (0.1, 0.1, 0.5, 0.85)
    said = {again: {"walk": 0.6}, ONE: {"walk": 0.9}}
    people = judge(key_frame(Path("film.mp4")), said, annotated=False)
    assert [person.truth for person, _ in people] == [("walk", "talk"), ("walk", "talk"), ("sit",)]
    assert [[right for _, right in person.guesses] for person, _ in people] == [[False], [True], []]


def test_annotated_boxes_are_their_own_people_however_thin() -> None:
    frame = key_frame(Path("film.mp4"))
    thin = replace(frame, boxes=np.array([(0.3, 0.3, 0.3, 0.9), TWO], np.float32))
    said = {(0.3, 0.3, 0.3, 0.9): {"walk": 0.6}, TWO: {"walk": 0.9}}
    people = judge(thin, said, annotated=True)
    assert [person.truth for person, _ in people] == [("walk", "talk"), ("sit",)]
    assert [person.missed for person, _ in people] == ["", ""]


def test_only_the_wanted_lines_are_kept(tmp_path: Path) -> None:
    rows = ["film,902,0.1,0.1,0.5,0.9,walk,0.5", "film,903,0,0,1,1,walk,0.25", "x,902,0,0,1,1,a,1"]
    write_said(tmp_path, rows)
    said = read_said(tmp_path / "detections.csv", {("film", "902")})
    assert said == {("film", "902"): {ONE: {"walk": 0.5}}}


@pytest.mark.parametrize(
    "row",
    [
        "film,902,0.1,0.1,0.5,0.9,walk,much",
        "film,902,0.1,0.1,0.5",
        "film,902,0.1,walk,0.5",
        "film,902,nan,0.1,0.5,0.9,walk,0.5",
        "film,902,0,0,1e12,0.9,walk,0.5",
        "film,902",
    ],
)
def test_a_damaged_line_is_a_line_on_the_page(tmp_path: Path, row: str) -> None:
    film = write_video(tmp_path / "film.mp4")
    write_boxes([key_frame(film)], tmp_path / "boxes.csv")
    write_said(tmp_path / "e", ["film,902,0.1,0.1,0.5,0.9,walk,0.5", row])
    shown = key_frame_cards(tmp_path / "e", found(tmp_path / "boxes.csv"))
    assert not shown.cards
    assert "detections.csv, line 2: " in shown.notes[0]


def test_boxes_are_drawn_where_they_are() -> None:
    picture = draw_boxes(np.full((480, 960, 3), 128, np.uint8), [np.array([0.25, 0.5, 0.75, 1.0])])
    assert picture.shape == (240, 480, 3)
    drawn = (picture == COLOURS[0]).all(2)
    assert drawn[:118].sum() == 0
    rows, columns = np.nonzero(drawn)
    assert abs(columns.min() - 120) <= 2
    assert abs(columns.max() - 360) <= 2
    assert abs(rows.min() - 120) <= 2
    assert (picture[:110] == 128).all()
    corner = draw_boxes(np.full((72, 96, 3), 128, np.uint8), [np.array([0.99, 0.99, 1.0, 1.0])])
    assert (corner == COLOURS[0]).all(2).sum() > 100, "its number is within the picture"


def test_the_page_shows_the_frame_at_the_time(tmp_path: Path) -> None:
    """A square moves right: at 0.4 s it is where it is no more at 1.2 s."""
    film = write_video(tmp_path / "film.mp4")
    data = tmp_path / "boxes.csv"
    write_boxes([key_frame(film, 902.0), key_frame(film, 902.8)], data)
    run = detector_run(tmp_path / "run")
    folder = run / "val"
    box = "0.1,0.1,0.5,0.9"
    write_said(folder, [f"film,902,{box},walk,0.875", f"film,902.8,{box},<b>run</b>,0.5"])
    (folder / "evaluation.json").write_text(found(data).model_dump_json())
    shown = key_frame_cards(folder, found(data))
    assert [card.name for card in shown.cards] == ["film, 902 s", "film, 902.8 s"]
    assert shown.notes == ["2 of the 2 key frames with an annotated box, spread over all."]
    early, late = (picture(card.url)[26:42, 26:32].mean() for card in shown.cards)
    assert early > late + 80
    text = write_report(run).read_text()
    assert "film, 902.8 s" in text
    assert "87.5 %" in text
    assert "<b>run" not in text
    assert "not found" in text, "the second person of each was not judged"


def test_what_cannot_be_shown_is_said(tmp_path: Path) -> None:
    data = tmp_path / "boxes.csv"
    write_said(tmp_path / "e", [])
    shown = key_frame_cards(tmp_path / "e", found(data))
    assert not shown.cards
    assert shown.notes[0].startswith(f"No key frames can be shown: {data}: No such file")
    write_boxes([key_frame(tmp_path / "film.mp4", split="train")], data)
    shown = key_frame_cards(tmp_path / "e", found(data))
    assert "no box in a key frame of split 'val'" in shown.notes[0]
    write_boxes([key_frame(tmp_path / "gone.mp4")], data)
    shown = key_frame_cards(tmp_path / "e", found(data))
    assert not shown.cards
    assert "gone.mp4" in shown.notes[0]
    (tmp_path / "e" / "detections.csv").unlink()
    assert "detections.csv" in key_frame_cards(tmp_path / "e", found(data)).notes[0]
