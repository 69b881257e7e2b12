"""Lists and folders that cannot be right: one line that names the place, and nothing written."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from m3video.errors import ManifestError
from m3video.video.datasets import index_dataset
from tests.video.release import lay_out, rows, write_lists

Made = Callable[[str], Path]
HEADER = "label,youtube_id,time_start,time_end,split\n"
CLASSES = {"classInd.txt": "1 Run\n", "testlist01.txt": "Run/b.avi\n"}
SSV2 = {"labels.json": '{"Moving something": "0"}'}
DIVING = {"Diving48_vocab.json": '[["Back"]]'}
JESTER = {"labels.csv": "Thumb Up\n"}


@pytest.mark.parametrize(
    ("format", "lists", "message"),
    [
        ("kinetics", {"a.csv": "path label\n"}, "a.csv: has no header with youtube_id"),
        ("kinetics", {"a.csv": HEADER + "run,x,1,11\n"}, "line 2: has 4 fields, the header 5"),
        ("kinetics", {"a.csv": HEADER + "run,x,1,11,dev\n"}, "line 2: split 'dev' is not one of"),
        ("kinetics", {"a.csv": HEADER + "run,x,-1,11,val\n"}, "line 2: time '-1' is not a whole"),
        ("kinetics", {"a.csv": HEADER + "\nrun,,1,11,val\n"}, "line 3: youtube_id is empty"),
        ("kinetics", {"a.csv": HEADER}, "names no labelled video"),
        (
            "kinetics",
            {"a.csv": HEADER + "run,x,1,11,val\n", "b.csv": HEADER + "sit,x,1,11,val\n"},
            "b.csv, line 2: x_000001_000011 is 'sit' of val here and 'run' of val in .*a.csv, line",
        ),
        ("kinetics", {"a.csv": HEADER + "a\0b,x,1,11,val\n"}, "line 2: not text"),
        ("kinetics", {}, r"holds no list of kinetics \(train.csv"),
        ("ssv2", {"labels.json": "{}"}, "labels.json and at least one of train.json"),
        ("ssv2", {"labels.json": "[]", "train.json": "[]"}, "labels.json: is not {"),
        ("ssv2", {**SSV2, "train.json": '[\n{"id": 1},\n'}, "train.json, line 3: not JSON"),
        ("ssv2", {**SSV2, "train.json": "{}"}, "train.json: is not a JSON list of records"),
        ("ssv2", {**SSV2, "train.json": '[{"id": "1"}]'}, "record 1: is not a record with id, tem"),
        (
            "ssv2",
            {**SSV2, "train.json": '[{"id": "1", "template": "Moving [a thing]"}]'},
            "train.json, record 1: template 'Moving a thing' is not a class of labels.json",
        ),
        ("ssv2", {**SSV2, "test-answers.csv": "1;Sitting\n"}, "line 1: 'Sitting' is not a class"),
        ("ssv2", {**SSV2, "something-something-v2-labels.json": "{}"}, "labels.json and at least"),
        (
            "ssv2",
            {**SSV2, "train.json": "[]", "something-something-v2-train.json": "[]"},
            "two releases",
        ),
        ("ucf101", CLASSES, "trainlist01.txt is needed beside"),
        (
            "ucf101",
            {**CLASSES, "classInd.txt": "Run\n", "trainlist01.txt": ""},
            "classInd.txt, line 1: 'Run' is not the number and name of a class",
        ),
        ("ucf101", {**CLASSES, "trainlist01.txt": "Run/a.avi\n"}, "line 1: 'Run/a.avi' is not of"),
        ("ucf101", {**CLASSES, "trainlist01.txt": "Sit/a.avi 1\n"}, "class 'Sit' is not in class"),
        ("ucf101", {**CLASSES, "trainlist01.txt": "Run/a.avi 2\n"}, "Run is 1 in classInd.txt, h"),
        (
            "ucf101",
            {**CLASSES, "trainlist01.txt": "Run/b.avi 1\n"},
            r"testlist01.txt, line 1: b is 'Run' of test here and 'Run' of train in .*trainlist01",
        ),
        ("hmdb51", {"run_test_split2.txt": "a.avi 1\n"}, r"no list CLASS_test_split1.txt beside"),
        ("hmdb51", {"run_test_split1.txt": "a.avi 1\n\na.avi 3\n"}, "line 3: 'a.avi 3' is not of"),
        ("jester", {"labels.csv": "Thumb Up\n"}, "jester-v1-labels.csv and at least one of"),
        ("jester", {**JESTER, "train.csv": "1;Thumb\n"}, "train.csv, line 1: 'Thumb' is not a cl"),
        ("jester", {**JESTER, "train.csv": ";Thumb Up\n"}, "line 1: ';Thumb Up' has no id"),
        ("jester", {**JESTER, "train.csv": "1\n"}, "train.csv, line 1: '' is not a class"),
        (
            "jester",
            {**JESTER, "train.csv": "", "jester-v1-train.csv": "1;Thumb Up\n"},
            "two releases",
        ),
        ("diving48", DIVING, "Diving48_vocab.json and a list of videos are needed"),
        ("diving48", {"Diving48_vocab.json": '["a"]', "Diving48_test.json": "[]"}, "of lists of"),
        (
            "diving48",
            {**DIVING, "Diving48_train.json": "[]", "Diving48_V2_train.json": "[]"},
            "both versions",
        ),
        (
            "diving48",
            {**DIVING, "Diving48_V2_train.json": '[{"vid_name": "a", "label": 1}]'},
            "record 1: label 1 is not a number from 0 to 0",
        ),
        ("videomae", {"train.csv": "a.mp4 run\n"}, "line 1: 'a.mp4 run' is not a path and the num"),
        ("videomae", {"train.csv": "a.mp4 0 -1\n"}, "line 1: 'a.mp4 0 -1' is not a path"),
        ("videomae", {"train.csv": "folder 0 32\n"}, "line 1: 'folder 0 32' is not a path"),
        ("videomae", {"train_val.csv": "a.mp4 0\n"}, "the name must hold one of train, val and"),
    ],
)
def test_lists_that_cannot_be_understood(
    made: Made, tmp_path: Path, format: Any, lists: dict[str, str], message: str
) -> None:
    folder = lay_out(tmp_path / "videos", made("plain.avi"), ["a.avi"])
    where = write_lists(tmp_path / "lists", lists)
    with pytest.raises(ManifestError, match=message) as caught:
        index_dataset(folder, tmp_path / "m.csv", format=format, annotations=[where], workers=0)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lists", "videos"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"format": "ucf"}, "format 'ucf': use one of kinetics, ssv2"),
        ({"split": 4}, "split 4: ucf101 has the splits 1, 2 and 3"),
        ({"format": "jester", "split": 1}, "split 1: jester has one split"),
        ({"films": "cut"}, "films cut: --films goes with --format ava"),
        ({"format": "ava"}, "--films whole or --films cut is needed"),
        (
            {"format": "ava", "films": "cut", "open_files": False},
            "--no-open-files does not go with --format ava",
        ),
        ({"annotations": ["nowhere"]}, "nowhere: there is no such file or folder"),
        ({"annotations": [__file__]}, "test_datasets_refused.py: is no list of ucf101"),
        ({"workers": -1}, "workers -1: use 0"),
    ],
)
def test_settings_that_do_not_go_together(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    write_lists(tmp_path, {**CLASSES, "trainlist01.txt": "Run/a.avi 1\n"})
    with pytest.raises(ManifestError, match=message):
        index_dataset(tmp_path, tmp_path / "m.csv", **{"format": "ucf101", **settings})


def test_folders_that_cannot_be_right(made: Made, tmp_path: Path) -> None:
    lists = write_lists(tmp_path / "lists", {**CLASSES, "trainlist01.txt": "Run/a.avi 1\n"})
    other = lay_out(tmp_path / "other", made("plain.avi"), ["c.avi"])
    for folder, message in {
        tmp_path / "nowhere": "nowhere: is not a folder",
        lists: "lists: no videos found",
        other: r"holds none of the 2 listed videos; .*trainlist01.txt, line 1 names Run/a, the fol"
        r"der holds .*other/c.avi",
    }.items():
        with pytest.raises(ManifestError, match=message):
            index_dataset(folder, tmp_path / "m.csv", format="ucf101", annotations=[lists])
    with pytest.raises(ManifestError, match=r"trainlist01.txt: is one of the lists"):
        index_dataset(other, lists / "trainlist01.txt", format="ucf101", annotations=[lists])
    assert (lists / "trainlist01.txt").read_text() == "Run/a.avi 1\n"
    second = write_lists(tmp_path / "more", CLASSES)
    with pytest.raises(ManifestError, match="have the same name; give one of them"):
        index_dataset(other, tmp_path / "m.csv", format="ucf101", annotations=[lists, second])


def test_folders_of_pictures_are_refused_with_what_makes_videos_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The release of Jester; not all its folders are looked at."""
    lists = write_lists(tmp_path / "lists", {**JESTER, "train.csv": "1;Thumb Up\n"})
    frames = tmp_path / "20bn-jester-v1"
    for folder in range(1, 30):
        write_lists(frames / str(folder), {"00001.jpg": "", "00002.jpg": ""})
    opened: list[str] = []
    scandir = os.scandir

    def watched(path: str) -> Iterator[os.DirEntry[str]]:
        opened.append(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", watched)
    with pytest.raises(ManifestError) as caught:
        index_dataset(frames, tmp_path / "m.csv", format="jester", annotations=[lists])
    assert f"ffmpeg -framerate 12 -i {frames}/1/%05d.jpg " in str(caught.value)
    assert "VIDEOS/1.mp4" in str(caught.value)
    assert len([path for path in opened if Path(path).parent == frames]) == 20
    assert "\n" not in str(caught.value)


def test_a_line_said_twice_counts_once(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = "run,x,1,11,val\n"
    write_lists(tmp_path, {"a.csv": HEADER + line + line, "b.csv": HEADER + line})
    lay_out(tmp_path, made("b_frames.mp4"), ["x_000001_000011.mp4"])
    index_dataset(tmp_path, tmp_path / "m.csv", format="kinetics", workers=0, decode=False)
    assert len(rows(tmp_path / "m.csv")) == 1
    assert "lines that repeat another one: 2" in capsys.readouterr().err
