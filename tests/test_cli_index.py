"""The verb `index`."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import get_args

import pytest

from m3video.cli import main
from m3video.cli.index import Format
from m3video.video.datasets import FORMATS, DatasetName
from tests.conftest import write_video

SHARED = Path(__file__).parents[2] / "shared" / "data"
LISTS = {
    "classInd.txt": "1 ApplyEyeMakeup\n2 BaseballPitch\n",
    "trainlist02.txt": "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi 1\n",
    "testlist02.txt": "BaseballPitch/v_BaseballPitch_g01_c01.avi\n",
}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    folder = tmp_path / "ucfTrainTestlist"
    folder.mkdir()
    for name, text in LISTS.items():
        (folder / name).write_text(text)
    return folder


def test_the_formats_of_the_verb_are_those_of_the_function() -> None:
    assert get_args(Format) == ("plain", *get_args(DatasetName))
    assert set(get_args(DatasetName)) == set(FORMATS)


def test_plain_folders_as_ever(made_folder: Path, tmp_path: Path) -> None:
    arguments = ["index", str(made_folder), "--out", str(tmp_path / "m.csv"), "--workers", "0"]
    assert main([*arguments, "--labels-from-folders", "--no-decode"]) == 0
    assert [row["label"] for row in rows(tmp_path / "m.csv")] == ["left"] * 3 + ["right"] * 3
    assert main(arguments) == 0
    assert {row["label"] for row in rows(tmp_path / "m.csv")} == {""}


def test_a_data_set(lists: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_video(tmp_path / "v" / "v_ApplyEyeMakeup_g01_c01.mp4")
    out = tmp_path / "m.csv"
    arguments = ["index", str(tmp_path / "v"), "--format=ucf101", "--annotations", str(lists)]
    assert main([*arguments, "--split", "2", "--out", str(out)]) == 0
    (row,) = rows(out)
    assert (row["path"], row["label"], row["split"], row["id"], row["frames"]) == (
        "v/v_ApplyEyeMakeup_g01_c01.mp4",
        "ApplyEyeMakeup",
        "train",
        "v_ApplyEyeMakeup_g01_c01",
        "40",
    )
    captured = capsys.readouterr()
    assert "missing test 1: v_BaseballPitch_g01_c01" in captured.err
    assert captured.out == ""


def test_the_real_clips_of_ucf101(lists: Path, tmp_path: Path) -> None:
    if not (SHARED / "clips").exists():
        pytest.skip("no ../shared/data/clips")
    out = tmp_path / "m.csv"
    arguments = ["index", str(SHARED / "clips"), "--format=ucf101", "--split=2", f"--out={out}"]
    assert main([*arguments, f"--annotations={lists}"]) == 0
    found = [(row["label"], row["split"], row["width"], row["height"]) for row in rows(out)]
    assert found == [
        ("ApplyEyeMakeup", "train", "320", "240"),
        ("BaseballPitch", "test", "320", "240"),
    ]
    surplus = [row["status"] for row in rows(tmp_path / "m.missing.csv")]
    assert surplus == ["surplus"] * 13


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "kinetics400"], "'kinetics400'"),
        (["--split", "1"], "--split goes with the lists of a data set: name its --format"),
        (["--films", "cut"], "--films goes with the lists"),
        (["--annotations", "."], "--annotations goes with the lists"),
        (["--no-open-files"], "--no-open-files goes with the lists"),
        (["--reencode", "33"], "reencode 33: the short side must be an even number of pixels"),
        (["--reencode", "small"], "--reencode"),
        (["--format", "hmdb51", "--reencode", "2"], "reencode 2: the short side must be"),
        (["--engine", "slurm"], "engine 'slurm': use processes, ray"),
        (["--format", "hmdb51", "--engine", "ray:"], "engine 'ray:': use processes, ray"),
        (["--format", "hmdb51", "--labels-from-folders"], "goes with --format plain"),
        (["--format", "hmdb51"], "holds no list of hmdb51"),
        (["--format", "ucf101", "--split", "9"], "split 9: ucf101 has the splits 1, 2 and 3"),
        (["--format", "ava"], "--films whole or --films cut is needed"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["index", str(tmp_path), "--out", str(tmp_path / "m.csv"), *options]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1, captured.err
    assert message in captured.err
    assert list(tmp_path.iterdir()) == []
