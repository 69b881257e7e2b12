"""Each data set in the layout and syntax of its release, a few videos of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from m3video.errors import ManifestError
from m3video.video import scan
from m3video.video.datasets import flip_changes_labels, index_dataset
from m3video.video.manifest import load_manifest
from tests.video.release import lacking, lay_out, rows, told, write_lists

Made = Callable[[str], Path]


def test_kinetics(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Class folders with spaces and underscores, flat, endings that downloaders wrote twice."""
    write_lists(
        tmp_path / "annotations",
        {
            "train.csv": "label,youtube_id,time_start,time_end,split,is_cc\n"
            "abseiling,-3B32lodo2M,59,69,train,0\n"
            '"air drumming",_dbcJuKJQNs,40,50,train,0\n'
            "air drumming,_dbcJuKJQNs,140,150,train,0\n"
            "air drumming,gone_video1,1,11,train,0\n",
            "validate.csv": "label,youtube_id,time_start,time_end,split\n"
            "testifying,---QUuC4vJs,84,94,validate\n"
            "testifying,bareIdBareI,4,14,validate\n",
            "test.csv": "youtube_id,time_start,time_end,split\n--testtestA,7,17,test\n",
            "classes.csv": "id,name\n0,abseiling\n",
        },
    )
    lay_out(
        tmp_path / "videos",
        made("b_frames.mp4"),
        [
            "train/abseiling/-3B32lodo2M_000059_000069.mp4",
            "train/air_drumming/_dbcJuKJQNs_000040_000050.mp4.mp4",
            "train/air drumming/_dbcJuKJQNs_000140_000150.mp4",
            "val/---QUuC4vJs_000084_000094.mp4",
            "val/bareIdBareI.mp4",
            "test/--testtestA_000007_000017.mp4",
            "train/abseiling/extra.mp4",
        ],
    )
    out = tmp_path / "k.csv"
    manifest = index_dataset(
        tmp_path / "videos", out, format="kinetics", annotations=[tmp_path / "annotations"]
    )
    drumming = "videos/train/air_drumming/_dbcJuKJQNs_000040_000050.mp4.mp4"
    assert told(out) == [
        (
            "videos/train/abseiling/-3B32lodo2M_000059_000069.mp4",
            "abseiling",
            "train",
            "-3B32lodo2M_000059_000069",
        ),
        (drumming, "air drumming", "train", "_dbcJuKJQNs_000040_000050"),
        (
            "videos/train/air drumming/_dbcJuKJQNs_000140_000150.mp4",
            "air drumming",
            "train",
            "_dbcJuKJQNs_000140_000150",
        ),
        ("videos/val/---QUuC4vJs_000084_000094.mp4", "testifying", "val", rows(out)[3]["id"]),
        ("videos/val/bareIdBareI.mp4", "testifying", "val", "bareIdBareI_000004_000014"),
    ]
    assert load_manifest(out).videos == manifest.videos
    assert manifest.videos[0].frames == 40
    assert lacking(tmp_path / "k.missing.csv") == [
        ("missing", "train", "gone_video1_000001_000011"),
        ("surplus", "", "videos/train/abseiling/extra.mp4"),
    ]
    said = capsys.readouterr().err
    assert "5 of 6 listed videos (train 3, val 2), 3 labels" in said
    assert "left out: 1 videos without a label" in said
    assert "missing train 1: gone_video1_000001_000011" in said


def test_a_kinetics_id_alone_is_no_clip_where_a_video_has_two(made: Made, tmp_path: Path) -> None:
    text = "label,youtube_id,time_start,time_end,split\na,abc,1,11,train\na,abc,21,31,train\n"
    write_lists(tmp_path, {"train.csv": text + "a,def,1,11,train\n"})
    lay_out(tmp_path, made("b_frames.mp4"), ["abc.mp4", "def.mp4"])
    index_dataset(tmp_path, tmp_path / "m.csv", format="kinetics", workers=0, decode=False)
    assert [row["id"] for row in rows(tmp_path / "m.csv")] == ["def_000001_000011"]
    assert ("surplus", "", "abc.mp4") in lacking(tmp_path / "m.missing.csv")


SSV2 = {
    "labels.json": '{"Holding something next to something": "40", "Moving something up": "45",\n'
    '"Putting something similar to other things that are already on the table": "115"}',
    "train.json": '[{"id": "78687", "label": "holding potato next to vicks bottle", "template": '
    '"Holding [something] next to [something]", "placeholders": ["potato", "vicks bottle"]},\n'
    '{"id": "42326", "label": "putting a cup", "template": "Putting [something similar to other '
    'things that are already on the table]", "placeholders": ["a cup"]}]',
    "validation.json": '[{"id": "74225", "label": "moving pen up", "template": '
    '"Moving [something] up", "placeholders": ["pen"]}]',
    "test.json": '[{"id": "1420"}, {"id": "100000"}]',
}


@pytest.mark.parametrize("answers", [True, False])
@pytest.mark.parametrize("prefix", ["", "something-something-v2-"])
def test_something_something_v2(
    made: Made, tmp_path: Path, prefix: str, answers: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    lists = {f"{prefix}{name}": text for name, text in SSV2.items()}
    if answers:
        lists["test-answers.csv"] = "1420;Moving something up\n"
    write_lists(tmp_path / "labels", lists)
    clips = ["78687.webm", "42326.mp4", "74225.webm", "1420.webm", "100000.webm"]
    lay_out(tmp_path / "20bn-something-something-v2", made("vp9.webm"), clips)
    (tmp_path / "m.missing.csv").write_text("of an earlier time")
    index_dataset(
        tmp_path / "20bn-something-something-v2",
        tmp_path / "m.csv",
        format="ssv2",
        annotations=[tmp_path / "labels"],
        workers=0,
        decode=False,
    )
    found = [(row["id"], row["label"], row["split"]) for row in rows(tmp_path / "m.csv")]
    expected = [
        ("78687", "Holding something next to something", "train"),
        (
            "42326",
            "Putting something similar to other things that are already on the table",
            "train",
        ),
        ("74225", "Moving something up", "val"),
    ]
    assert found == expected + [("1420", "Moving something up", "test")] * answers
    assert not (tmp_path / "m.missing.csv").exists()
    left_out = 1 if answers else 2
    assert f"left out: {left_out} videos of the test without" in capsys.readouterr().err


UCF101 = {
    "classInd.txt": "1 ApplyEyeMakeup\n2 ApplyLipstick\n",
    "trainlist01.txt": "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1\n"
    "ApplyLipstick/v_ApplyLipstick_g08_c01.avi 2\n",
    "testlist01.txt": "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi\n",
    "trainlist02.txt": "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi 1\n",
    "testlist02.txt": "ApplyLipstick/v_ApplyLipstick_g08_c01.avi\n",
}


@pytest.mark.parametrize("flat", [True, False])
def test_ucf101(made: Made, tmp_path: Path, flat: bool) -> None:
    write_lists(tmp_path / "ucfTrainTestlist", UCF101)
    names = [
        "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi",
        "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi",
        "ApplyLipstick/v_ApplyLipstick_g08_c01.avi",
    ]
    names = [Path(name).name if flat else name for name in names]
    folder = lay_out(tmp_path / "UCF-101", made("plain.avi"), names)
    for split, expected in {
        None: [(names[0], "train"), (names[2], "train"), (names[1], "test")],
        1: [(names[0], "train"), (names[2], "train"), (names[1], "test")],
        2: [(names[1], "train"), (names[2], "test")],
    }.items():
        out = folder / f"split-{split}.csv"
        index_dataset(
            folder,
            out,
            format="ucf101",
            annotations=[tmp_path / "ucfTrainTestlist"],
            split=split,
            workers=0,
            decode=False,
        )
        assert [(row["path"], row["split"]) for row in rows(out)] == expected
        assert {row["label"] for row in rows(out)} == {"ApplyEyeMakeup", "ApplyLipstick"}
    assert lacking(folder / "split-2.missing.csv") == [("surplus", "", names[0])]


def test_hmdb51(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Names may hold odd characters; lines end in a space, as the official ones do."""
    write_lists(
        tmp_path / "testTrainMulti_7030_splits",
        {
            "brush_hair_test_split1.txt": "April_09_brush_hair_u_nm_np1_ba_goo_0.avi 1 \n"
            "Brushing_&_my_#1_brush_hair.avi 2 \nsame.avi 2 \nunused.avi 0 \n",
            "brush_hair_test_split2.txt": "unused.avi 1 \n",
            "cartwheel_test_split1.txt": "same.avi 1 \n",
        },
    )
    names = ["April_09_brush_hair_u_nm_np1_ba_goo_0", "Brushing_&_my_#1_brush_hair", "unused"]
    folder = tmp_path / "hmdb51_org"
    lay_out(folder, made("plain.avi"), [f"brush_hair/{name}.avi" for name in names])
    lay_out(folder, made("plain.avi"), ["cartwheel/same.avi"])
    index_dataset(
        folder,
        folder / "m.csv",
        format="hmdb51",
        annotations=[tmp_path / "testTrainMulti_7030_splits"],
        split=1,
        workers=0,
        decode=False,
    )
    assert told(folder / "m.csv") == [
        (f"brush_hair/{names[0]}.avi", "brush_hair", "train", f"brush_hair/{names[0]}"),
        (f"brush_hair/{names[1]}.avi", "brush_hair", "test", f"brush_hair/{names[1]}"),
        ("cartwheel/same.avi", "cartwheel", "train", "cartwheel/same"),
    ]
    # The file of one class is not taken for that of the other with the same name.
    assert lacking(folder / "m.missing.csv") == [("missing", "test", "brush_hair/same")]
    assert "left out: 1 videos in neither part of split 1" in capsys.readouterr().err


@pytest.mark.parametrize("prefix", ["", "jester-v1-"])
def test_jester(made: Made, tmp_path: Path, prefix: str) -> None:
    lists = {
        "labels.csv": "Swiping Left\nDrumming Fingers\n",
        "train.csv": "34870;Drumming Fingers\n56557;Swiping Left\n",
        "validation.csv": "9223;Swiping Left\n",
        "test.csv": "5;\n107423\n",
        "test-answers.csv": "5;Drumming Fingers\n",
    }
    write_lists(tmp_path / "lists", {f"{prefix}{name}": text for name, text in lists.items()})
    clips = ["34870.mp4", "56557.webm", "9223.mp4", "5.mp4", "107423.mp4"]
    lay_out(tmp_path / "videos", made("b_frames.mp4"), clips)
    index_dataset(
        tmp_path / "videos",
        tmp_path / "m.csv",
        format="jester",
        annotations=[tmp_path / "lists"],
        workers=0,
        decode=False,
    )
    assert told(tmp_path / "m.csv") == [
        ("videos/34870.mp4", "Drumming Fingers", "train", "34870"),
        ("videos/56557.webm", "Swiping Left", "train", "56557"),
        ("videos/9223.mp4", "Swiping Left", "val", "9223"),
        ("videos/5.mp4", "Drumming Fingers", "test", "5"),
    ]
    assert not (tmp_path / "m.missing.csv").exists()


def test_diving48(made: Made, tmp_path: Path) -> None:
    write_lists(
        tmp_path / "lists",
        {
            "Diving48_vocab.json": '[["Back","15som","05Twis","FREE"],["Back","15som","NoTwis",'
            '"PIKE"]]',
            "Diving48_V2_train.json": '[{"vid_name": "-mXo0OHdYrU_00000", "label": 1, '
            '"start_frame": 0, "end_frame": 115}]',
            "Diving48_V2_test.json": '[{"vid_name": "_8Vy3dlHg2w_00000", "label": 0, '
            '"start_frame": 0, "end_frame": 77}]',
        },
    )
    clips = ["-mXo0OHdYrU_00000.mp4", "_8Vy3dlHg2w_00000.mp4"]
    lay_out(tmp_path / "rgb", made("b_frames.mp4"), clips)
    out = tmp_path / "m.csv"
    index_dataset(
        tmp_path / "rgb",
        out,
        format="diving48",
        annotations=[tmp_path / "lists"],
        workers=0,
        decode=False,
    )
    assert told(out) == [
        (f"rgb/{clips[0]}", "Back 15som NoTwis PIKE", "train", "-mXo0OHdYrU_00000"),
        (f"rgb/{clips[1]}", "Back 15som 05Twis FREE", "test", "_8Vy3dlHg2w_00000"),
    ]


def test_videomae_lists(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Paths of another machine, the same name in two folders, a list for val and test."""
    write_lists(
        tmp_path,
        {
            "train.csv": "/there/train/run/1.mp4 0\n/there/train/jump high/1.mp4 10\n"
            "/there/train/jump high/2.mp4 10\n/there/train/sit/1.mp4 3\n",
            "val.csv": "/there/val/run/7.mp4,0\n/there/val/run/8.mp4,0\n",
            "test.csv": "/there/val/run/7.mp4,0\n",
        },
    )
    clips = [f"{name}.mp4" for name in ("run/1", "jump_high/1", "2", "val/7", "val/8")]
    lay_out(tmp_path / "v", made("b_frames.mp4"), clips)
    out = tmp_path / "m.csv"
    lists = [tmp_path / name for name in ("train.csv", "val.csv", "test.csv")]
    index_dataset(
        tmp_path / "v", out, format="videomae", annotations=lists, workers=0, decode=False
    )
    assert [entry[:3] for entry in told(out)] == [
        ("v/run/1.mp4", "0", "train"),
        ("v/jump_high/1.mp4", "10", "train"),
        ("v/2.mp4", "10", "train"),
        ("v/val/8.mp4", "0", "val"),
        ("v/val/7.mp4", "0", "test"),
    ]
    assert lacking(tmp_path / "m.missing.csv") == [("missing", "train", "/there/train/sit/1")]
    assert "lines that repeat another one: 1" in capsys.readouterr().err


def test_files_need_not_be_opened(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What uses the manifest opens them."""
    write_lists(tmp_path, UCF101)
    folder = lay_out(tmp_path / "v", made("plain.avi"), ["v_ApplyEyeMakeup_g08_c01.avi"])
    out = tmp_path / "m.csv"
    with monkeypatch.context() as patched:
        patched.setattr(scan, "scan_video", None)  # would fail
        index_dataset(folder, out, format="ucf101", annotations=[tmp_path], open_files=False)
    assert (rows(out)[0]["frames"], rows(out)[0]["duration"]) == ("", "")
    (video,) = load_manifest(out).videos
    assert (video.frames, video.label, video.extra["split"]) == (40, "ApplyEyeMakeup", "train")


def test_what_cannot_be_read_is_listed(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_lists(tmp_path / "lists", UCF101)
    name = "v_ApplyEyeMakeup_g08_c01.avi"
    folder = lay_out(tmp_path / "v", made("plain.avi"), [name])
    (folder / "v_ApplyEyeMakeup_g01_c01.avi").write_text("no video")
    index_dataset(folder, tmp_path / "m.csv", format="ucf101", annotations=[tmp_path / "lists"])
    assert lacking(tmp_path / "m.missing.csv") == [
        ("missing", "train", "v_ApplyLipstick_g08_c01"),
        ("unreadable", "test", "v_ApplyEyeMakeup_g01_c01"),
    ]
    reason = "Invalid data found when processing input"
    assert rows(tmp_path / "m.missing.csv")[1]["reason"] == reason
    said = " ".join(capsys.readouterr().err.split())
    assert f"unreadable test 1: {folder}/v_ApplyEyeMakeup_g01_c01.avi: {reason}" in said
    (folder / name).write_text("no video")
    with pytest.raises(ManifestError, match="none of its 2 videos can be read; the first: "):
        index_dataset(folder, tmp_path / "n.csv", format="ucf101", annotations=[tmp_path / "lists"])
    assert not (tmp_path / "n.csv").exists()
    assert len(rows(tmp_path / "n.missing.csv")) == 3


def test_whether_a_flip_changes_labels() -> None:
    ssv2 = ["Holding something", "Pushing something from left to right", "Putting it upright"]
    assert flip_changes_labels(ssv2)
    assert not flip_changes_labels([ssv2[0], ssv2[2], "eating leftovers", "Back 15som 05Twis FREE"])
    for label in ("Swiping Left", "swipe_right", "Turning Hand Counterclockwise", "TurnRight"):
        assert flip_changes_labels(["Thumb Up", label]), label
    assert not flip_changes_labels(["ApplyEyeMakeup", "HandstandPushups", "brush_hair", "bright"])
