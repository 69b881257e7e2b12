"""AVA v2.2: films, key frames, boxes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from m3video.errors import ManifestError
from m3video.video.datasets import KeyFrame, index_dataset, read_boxes
from tests.video.made_clips import write_clip
from tests.video.release import lacking, rows, told, write_lists

LISTS = {
    "ava_train_v2.2.csv": "-5KQ66BBWC4,0902,0.077,0.151,0.283,0.811,80,1\n"
    "-5KQ66BBWC4,0902,0.077,0.151,0.283,0.811,9,1\n"
    "-5KQ66BBWC4,0902,0.226,0.032,0.366,0.497,12,0\n"
    "-5KQ66BBWC4,0903,0.226,0.032,0.366,0.497,2,0\n"
    "-5KQ66BBWC4,0904,0.226,0.032,0.366,0.497,12,0\n"
    "goneFilm,0902,0.1,0.1,0.2,0.2,12,0\n",
    "ava_val_v2.2.csv": "1j20qq1JyX4,0905,0.002,0.118,0.714,0.977,12,59\n",
    "ava_train_excluded_timestamps_v2.2.csv": "-5KQ66BBWC4,0904\n1j20qq1JyX4,0905\n",
    "ava_val_excluded_timestamps_v2.2.csv": "1j20qq1JyX4,0903\n",
    "ava_test_excluded_timestamps_v2.2.csv": "somewhere,0903\n",
    "ava_included_timestamps_v2.2.txt": "0902\n0903\n0904\n0905\n",
    "ava_action_list_v2.2_for_activitynet_2019.pbtxt": "item {\n"
    '  name: "lie/sleep"\n  id: 8\n}\nitem {\n  name: "run/jog"\n  id: 9\n}\nitem {\n'
    '  name: "stand"\n  id: 12\n}\nitem {\n  name: "watch (a person)"\n  id: 80\n}\n',
    "ava_action_list_v2.2.pbtxt": 'label {\n  name: "crawl"\n  label_id: 2\n'
    "  label_type: PERSON_MOVEMENT\n}\n",
    "ava_file_names_trainval_v2.1.txt": "-5KQ66BBWC4.mkv\n1j20qq1JyX4.mp4\n",
    "ava_test_v2.2.txt": "somewhere.mp4\n",
}


def film(path: Path, *, seconds: int) -> Path:
    """A film of eleven frames, evenly spaced."""
    path.parent.mkdir(exist_ok=True)
    times = [seconds * 100 * number for number in range(11)]
    return write_clip(path, "libx264", frames=11, times=times)


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    return write_lists(tmp_path / "ava_v2.2", LISTS)


@pytest.fixture
def cuts(tmp_path: Path) -> Path:
    film(tmp_path / "cuts" / "-5KQ66BBWC4.mkv", seconds=900)
    film(tmp_path / "cuts" / "1j20qq1JyX4.mp4", seconds=900)
    return tmp_path / "cuts"


def facts(frame: KeyFrame) -> tuple[str, float, float, str, list[list[float]], object]:
    boxes = np.round(frame.boxes.astype(float), 6).tolist()
    return (frame.video, frame.timestamp, frame.seconds, frame.split, boxes, frame.labels)


FIRST = [[0.077, 0.151, 0.283, 0.811], [0.226, 0.032, 0.366, 0.497]]
FRAMES = [
    ("-5KQ66BBWC4", 902, 2, "train", FIRST, (("watch (a person)", "run/jog"), ("stand",))),
    ("-5KQ66BBWC4", 903, 3, "train", [], ()),
    ("-5KQ66BBWC4", 905, 5, "train", [], ()),
    ("1j20qq1JyX4", 902, 2, "val", [], ()),
    ("1j20qq1JyX4", 904, 4, "val", [], ()),
    ("1j20qq1JyX4", 905, 5, "val", [[0.002, 0.118, 0.714, 0.977]], (("stand",),)),
]


def test_cuts(cuts: Path, lists: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Excluded key frames and actions that do not count are left out; empty ones are kept."""
    out = tmp_path / "ava.csv"
    manifest = index_dataset(cuts, out, format="ava", annotations=[lists], films="cut", workers=0)
    assert told(out) == [
        ("cuts/-5KQ66BBWC4.mkv", "", "train", "-5KQ66BBWC4"),
        ("cuts/1j20qq1JyX4.mp4", "", "val", "1j20qq1JyX4"),
    ]
    frames = read_boxes(tmp_path / "boxes.csv")
    assert [facts(frame) for frame in frames] == FRAMES
    assert all(frame.boxes.dtype == np.float32 and frame.boxes.shape[1] == 4 for frame in frames)
    assert frames[0].path == manifest.videos[0].path
    assert rows(tmp_path / "boxes.csv")[:4] == [
        {
            "path": "cuts/-5KQ66BBWC4.mkv",
            "id": "-5KQ66BBWC4",
            "timestamp": "902",
            "seconds": second,
            "split": "train",
            **dict(zip(("x1", "y1", "x2", "y2"), box, strict=True)),
            "label": label,
        }
        for second, box, label in [
            ("2", ("0.077", "0.151", "0.283", "0.811"), "watch (a person)"),
            ("2", ("0.077", "0.151", "0.283", "0.811"), "run/jog"),
            ("2", ("0.226", "0.032", "0.366", "0.497"), "stand"),
        ]
    ] + [rows(tmp_path / "boxes.csv")[3]]
    assert lacking(tmp_path / "ava.missing.csv") == [("missing", "train", "goneFilm")]
    said = " ".join(capsys.readouterr().err.split())
    assert "6 key frames, 4 of them without boxes, 3 boxes" in said
    assert "left out: 1 boxes of actions that are not evaluated" in said
    assert "left out: 1 boxes in excluded key frames" in said


def test_whole_films(lists: Path, tmp_path: Path) -> None:
    """The second ends before its last key frames, the third before its first."""
    film(tmp_path / "films" / "-5KQ66BBWC4.webm.mkv", seconds=1200)
    film(tmp_path / "films" / "1j20qq1JyX4.mp4", seconds=820)
    film(tmp_path / "films" / "goneFilm.mp4", seconds=600)
    out = tmp_path / "ava.csv"
    index_dataset(
        tmp_path / "films", out, format="ava", annotations=[lists], films="whole", workers=0
    )
    frames = read_boxes(tmp_path / "boxes.csv")
    kept = [(frame.video, frame.timestamp) for frame in frames]
    assert kept[:3] == [("-5KQ66BBWC4", 902), ("-5KQ66BBWC4", 903), ("-5KQ66BBWC4", 905)]
    assert kept[3:] == [("1j20qq1JyX4", 902)]
    assert all(frame.seconds == frame.timestamp for frame in frames)
    assert [
        (row["status"], row["split"], row["path"], row["reason"])
        for row in rows(tmp_path / "ava.missing.csv")
    ] == [
        ("short", "train", "films/goneFilm.mp4", "4 key frames after its end"),
        ("short", "val", "films/1j20qq1JyX4.mp4", "2 key frames after its end"),
    ]


def test_films_that_are_not_what_was_said(cuts: Path, lists: Path, tmp_path: Path) -> None:
    out = tmp_path / "ava.csv"
    with pytest.raises(ManifestError, match=r"before its first key frame.* use --films cut"):
        index_dataset(
            _short(cuts), out, format="ava", annotations=[lists], films="whole", workers=0
        )
    film(cuts / "goneFilm.mp4", seconds=4000)
    with pytest.raises(ManifestError, match=r"goneFilm.mp4: lasts .* --films whole"):
        index_dataset(cuts, out, format="ava", annotations=[lists], films="cut", workers=0)
    assert not out.exists()
    assert not (tmp_path / "boxes.csv").exists()


def _short(folder: Path) -> Path:
    """The same films, so short that no container's idea of the last frame's length matters."""
    for path in folder.iterdir():
        film(path, seconds=700)
    return folder


def test_without_the_list_of_key_frames_they_are_the_official_ones(
    cuts: Path, lists: Path, tmp_path: Path
) -> None:
    (lists / "ava_included_timestamps_v2.2.txt").unlink()
    (lists / "ava_action_list_v2.2_for_activitynet_2019.pbtxt").unlink()
    index_dataset(
        cuts, tmp_path / "a.csv", format="ava", annotations=[lists], films="cut", workers=0
    )
    frames = read_boxes(tmp_path / "boxes.csv")
    train = [frame.timestamp for frame in frames if frame.split == "train"]
    assert train == [second for second in range(902, 1799) if second != 904]
    assert [frame.labels for frame in frames if len(frame.boxes)] == [(("crawl",),)]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("ava_train_v2.2.csv", "a,0902,0.1,0.1,0.2,0.2,12\n", "line 1: .* does not have 8 fields"),
        ("ava_train_v2.2.csv", "a,0902,0.1,0.1,0.2,1.2,12,0\n", "line 1: box 0.1,0.1,0.2,1.2 is"),
        ("ava_train_v2.2.csv", "a,0902,0.3,0.1,0.2,0.2,12,0\n", "line 1: box 0.3,0.1,0.2,0.2 is"),
        ("ava_train_v2.2.csv", "\na,0902,0.1,0.1,0.2,0.2,81,0\n", "line 2: action '81' is not"),
        ("ava_train_v2.2.csv", "a,nine,0.1,0.1,0.2,0.2,12,0\n", "line 1: timestamp 'nine' is not"),
        ("ava_train_v2.2.csv", "1j20qq1JyX4,0902,0,0,1,1,12,0\n", "is in another list, too"),
        ("ava_val_excluded_timestamps_v2.2.csv", "a\n", "line 1: 'a' does not have 2 fields"),
        ("ava_included_timestamps_v2.2.txt", "0902\nx\n", "line 2: timestamp 'x' is not"),
        ("ava_action_list_v2.2_for_activitynet_2019.pbtxt", "item {}", "is not a list of item"),
    ],
)
def test_lists_that_cannot_be_understood(
    cuts: Path, lists: Path, tmp_path: Path, name: str, text: str, message: str
) -> None:
    (lists / name).write_text(text)
    with pytest.raises(ManifestError, match=message):
        index_dataset(cuts, tmp_path / "a.csv", format="ava", annotations=[lists], films="cut")
    assert not (tmp_path / "a.csv").exists()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["ava_val_excluded_timestamps_v2.2.csv"], "ava_val_excluded_timestamps_v2.2.csv is need"),
        (["ava_train_v2.2.csv", "ava_val_v2.2.csv"], "no ava_train_v2.2.csv or ava_val_v2.2.csv"),
        (
            ["ava_action_list_v2.2.pbtxt", "ava_action_list_v2.2_for_activitynet_2019.pbtxt"],
            "ava_action_list_v2.2_for_activitynet_2019.pbtxt is needed",
        ),
    ],
)
def test_lists_that_are_not_there(
    cuts: Path, lists: Path, tmp_path: Path, names: list[str], message: str
) -> None:
    for name in names:
        (lists / name).unlink()
    with pytest.raises(ManifestError, match=message):
        index_dataset(cuts, tmp_path / "a.csv", format="ava", annotations=[lists], films="cut")


HEADER = "path,id,timestamp,seconds,split,x1,y1,x2,y2,label\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\n", "line 1: the header is not path,id,timestamp"),
        (HEADER + "a.mp4,a,902,2,train\n", "line 2: 5 fields, not 10"),
        (HEADER + "a.mp4,a,x,2,train,0,0,1,1,sit\n", "line 2: 'x' is not a number of seconds"),
        (HEADER + "a.mp4,a,902,2,train,0,0,1,2,sit\n", "line 2: box 0,0,1,2 is not"),
        (HEADER + "a.mp4,a,902,2,train,0,0,1,1,\n", "line 2: the box has no label"),
        (HEADER + "a.mp4,a,902,2,train,,,,,sit\n", "line 2: box ,,, is not"),
        (HEADER + "a.mp4,a,9,2,train,,,,,\na.mp4,a,9,2,val,,,,,\n", "line 3: path, seconds or"),
    ],
)
def test_boxes_that_cannot_be_understood(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "boxes.csv"
    path.write_text(text)
    with pytest.raises(ManifestError, match=message):
        read_boxes(path)


def test_boxes_in_any_order(tmp_path: Path) -> None:
    """An action that is said twice counts once; absolute paths stay as they are."""
    path = tmp_path / "boxes.csv"
    sit, run = "/v/a.mp4,a,902,2,val,0,0,1,0.5,sit\n", "/v/a.mp4,a,903.5,3.5,val,0,0,1,1,run\n"
    path.write_text(HEADER + sit + run + sit + sit.replace("sit", "read"))
    first, second = read_boxes(path)
    assert facts(first) == ("a", 902, 2, "val", [[0, 0, 1, 0.5]], (("sit", "read"),))
    assert facts(second) == ("a", 903.5, 3.5, "val", [[0, 0, 1, 1]], (("run",),))
    assert first.path == Path("/v/a.mp4")


def test_no_boxes(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="No such file or directory; m3video index --format"):
        read_boxes(tmp_path / "boxes.csv")
