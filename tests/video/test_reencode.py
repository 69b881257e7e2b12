"""Small copies: their size, their frames and times, and that nothing is lost or done twice."""

from __future__ import annotations

import csv
import errno
import shutil
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from m3video.errors import ManifestError
from m3video.video import reencode
from m3video.video.datasets import index_dataset
from m3video.video.index import index
from m3video.video.manifest import load_manifest
from m3video.video.reader import VideoReader
from m3video.video.reencode import copy_name, copy_size
from m3video.video.scan import Unreadable, Video
from tests.conftest import write_video

Made = Callable[[str], Path]
NAMES = ("uneven.mkv", "b_frames.mp4", "odd.mp4", "turned.mov", "b_frames.avi", "vp9.webm")


@pytest.fixture
def folder(made: Made, tmp_path: Path) -> Path:
    """Videos of many kinds, and one that is none."""
    folder = tmp_path / "videos"
    for number, name in enumerate(NAMES):
        place = folder / ("left", "right")[number % 2] / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(made(name), place)
    (folder / "broken.mp4").write_bytes(b"this is not a video")
    return folder


def shown(path: Path) -> tuple[list[Fraction], list[int]]:
    """By FFmpeg: seconds at which frames are shown, and the numbers of the keyframes."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    times = [frame.pts * frame.time_base for frame in frames]  # type: ignore[operator]
    return times, [number for number, frame in enumerate(frames) if frame.key_frame]


def test_copies_have_the_frames_at_their_times(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "small.csv"
    manifest = index(folder, out, labels_from_folders=True, workers=0, reencode=32)
    assert [entry.path.name for entry in manifest.unreadable] == ["broken.mp4"]
    again = load_manifest(out)
    assert again.videos == manifest.videos
    assert {video.label for video in again.videos} == {"left", "right"}
    assert sorted(str(video.path.relative_to(tmp_path / "small")) for video in again.videos) == [
        "left/b_frames.avi.mp4",
        "left/odd.mp4",
        "left/uneven.mkv.mp4",
        "right/b_frames.mp4",
        "right/turned.mov.mp4",
        "right/vp9.webm.mp4",
    ]
    for video in again.videos:
        name = str(video.path.relative_to(tmp_path / "small"))
        source = folder / (name if (folder / name).exists() else name.removesuffix(".mp4"))
        with VideoReader(source) as old, VideoReader(video.path) as new:
            assert len(new) == len(old) == video.frames
            assert min(new.height, new.width) == 32
            assert new.height * old.width == pytest.approx(old.height * new.width, rel=0.05)
            # Where frames are uneven, a header that is near is believed, and MP4 has none.
            assert new.fps == pytest.approx(old.fps, rel=0.05 if "uneven" in name else 1e-6)
            # Each frame is that of the same number: nearer to it than to the one after it.
            small = new.frames([3, 17]).mean((1, 2)), old.frames([3, 17]).mean((1, 2))
            np.testing.assert_allclose(*small, atol=4)
        times, keys = shown(video.path)
        before, _ = shown(source)
        if source.suffix != ".avi":  # whose times are guesses
            steps = np.diff(np.array(times, float)), np.diff(np.array(before, float))
            np.testing.assert_allclose(*steps, atol=1e-6)
        assert times[0] == 0
        assert max(np.diff([*keys, len(times)])) <= 12
        with av.open(str(video.path)) as container:
            assert [stream.type for stream in container.streams] == ["video"]


def test_what_is_there_is_not_made_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "small.csv"
    first = index(folder, out, workers=0, reencode=32)
    text = out.read_bytes()
    lost, cut, kept = (video.path for video in first.videos[:3])
    lost.unlink()
    cut.write_bytes(cut.read_bytes()[:900])
    (kept.parent / f".{kept.name}.partial").write_bytes(b"of a killed process")
    (kept.parent / f".{kept.name}.7-c0ffee.partial").write_bytes(b"of a killed process")
    made: list[str] = []
    write = reencode._write
    monkeypatch.setattr(
        reencode, "_write", lambda *given: (made.append(given[1].name), write(*given))
    )
    assert index(folder, out, workers=0, reencode=32) == first
    assert sorted(made) == sorted([lost.name, cut.name])
    assert list((tmp_path / "small").rglob("*.partial")) == []
    assert out.read_bytes() == text


def test_another_video_of_the_same_name_has_a_copy_of_its_own(made: Made, tmp_path: Path) -> None:
    place, out = tmp_path / "videos" / "a.mp4", tmp_path / "small.csv"
    write_video(place, frames=8)
    index(place.parent, out, workers=0, reencode=32)
    with VideoReader(tmp_path / "small" / "a.mp4") as reader:
        first = reader.frames([0])
    write_video(tmp_path / "other.mp4", frames=9)
    with VideoReader(tmp_path / "other.mp4") as reader:
        pictures = 255 - reader.frames(range(8))
    with av.open(str(place), "w") as container:  # as many frames, of the same size
        stream = container.add_stream("h264", rate=25)
        stream.height, stream.width = pictures.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    index(place.parent, out, workers=0, reencode=32)
    with VideoReader(tmp_path / "small" / "a.mp4") as reader:
        assert len(reader) == 8
        assert np.abs(reader.frames([0]).astype(int) - first).mean() > 50


def hang_or_take(copy: reencode._Copy, short_side: int) -> Video | Unreadable:
    if copy.video.path.name == "0.mp4":
        time.sleep(3600)
    return copy.video


def test_a_copy_that_never_comes_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(2):
        write_video(tmp_path / "videos" / f"{number}.mp4", frames=2)
    monkeypatch.setattr(reencode, "PATIENCE", 0.5)
    monkeypatch.setattr(reencode, "_make", hang_or_take)
    manifest = index(tmp_path / "videos", tmp_path / "small.csv", workers=1, reencode=32)
    assert [video.path.name for video in manifest.videos] == ["1.mp4"]
    assert [entry.path.name for entry in manifest.unreadable] == ["0.mp4"]
    assert manifest.unreadable[0].reason == "the decoder gave nothing for 60 seconds"


def test_what_one_video_is_or_is_called_costs_its_own_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "videos"
    for name in ("a.mp4", "b.mp4", f"{'c' * 250}.mp4"):
        write_video(tmp_path / "v.mp4", frames=2)
        folder.mkdir(exist_ok=True)
        shutil.move(tmp_path / "v.mp4", folder / name)
    write, raised = reencode._write, av.error.ExternalError(-542398533, "Generic error", "libx264")

    def refuse_b(reader: VideoReader, *given: object) -> None:
        if reader.path.name == "b.mp4":
            raise raised
        write(reader, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(reencode, "_write", refuse_b)
    manifest = index(folder, tmp_path / "small.csv", workers=0, reencode=32)
    assert [video.path.name for video in manifest.videos] == ["a.mp4"]
    assert [entry.reason for entry in manifest.unreadable] == [
        "no copy can be made: Generic error",
        "no copy can be made: File name too long",
    ]
    raised = OSError(errno.ENOSPC, "No space left on device")  # every other would fail, too
    with pytest.raises(OSError, match="No space"):
        index(folder, tmp_path / "small.csv", workers=0, reencode=32)


def test_rows_of_one_video_share_its_copy(tmp_path: Path) -> None:
    write_video(tmp_path / "videos" / "a.mp4", frames=2)
    (tmp_path / "twice.csv").write_text("path,label\nvideos/a.mp4,x\nvideos/../videos/a.mp4,y\n")
    manifest = index(tmp_path / "twice.csv", tmp_path / "small.csv", workers=0, reencode=32)
    assert [video.label for video in manifest.videos] == ["x", "y"]
    assert len({video.path for video in manifest.videos}) == 1


def test_a_video_that_breaks_off_has_no_copy(made: Made, tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    shutil.copy(made("b_frames.mp4"), folder / "good.mp4")
    data = bytearray(made("plain.avi").read_bytes())
    data[len(data) // 2 : len(data) // 2 + 6000] = bytes(6000)
    (folder / "bad.avi").write_bytes(data)
    manifest = index(folder, tmp_path / "small.csv", workers=0, reencode=32)
    assert [video.path.name for video in manifest.videos] == ["good.mp4"]
    assert [entry.path.name for entry in manifest.unreadable] == ["bad.avi"]
    assert sorted(path.name for path in (tmp_path / "small").iterdir()) == [
        "good.mp4",
        "reencode.json",
    ]


def test_copies_of_a_data_set_keep_labels_and_splits(made: Made, tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    for name in ("a.mp4", "b.mp4"):
        shutil.copy(made("b_frames.mp4"), tmp_path / "videos" / name)
    (tmp_path / "train.csv").write_text("videos/a.mp4 3\n")
    (tmp_path / "val.csv").write_text("videos/b.mp4 5\n")
    out = tmp_path / "small.csv"
    index_dataset(
        *(tmp_path / "videos", out),
        format="videomae",
        annotations=[tmp_path / "train.csv", tmp_path / "val.csv"],
        workers=0,
        reencode=16,
    )
    with out.open(newline="") as file:
        rows = [
            (row["path"], row["height"], row["label"], row["split"]) for row in csv.DictReader(file)
        ]
    assert rows == [("small/a.mp4", "16", "3", "train"), ("small/b.mp4", "16", "5", "val")]


@pytest.mark.parametrize(
    ("frame", "short_side", "size"),
    [
        ((240, 320), 128, (128, 170)),  # 170.67
        ((1920, 1080), 256, (456, 256)),  # 455.1
        ((45, 67), 128, (44, 66)),  # never enlarged
        ((45, 67), 32, (32, 48)),
        ((2, 4000), 128, (2, 4000)),
    ],
)
def test_sizes(frame: tuple[int, int], short_side: int, size: tuple[int, int]) -> None:
    if frame[0] > frame[1]:  # upright, as phones film
        assert copy_size(frame[0], frame[1], short_side) == size
    assert copy_size(*frame, short_side) == size


def test_names_stay_in_the_folder() -> None:
    root = Path("/data/videos")
    assert copy_name(root / "a" / "b.MKV", root) == "a/b.MKV.mp4"
    assert copy_name(Path("/elsewhere/c.mp4"), root) == "elsewhere/c.mp4"
    assert copy_name(Path("/data/x.tar::512+9::../../etc/d.mp4"), root) == "x/etc/d.mp4"
    assert copy_name(Path("/data/...tar::512+9::x.mp4"), root) == "x.mp4"


def test_what_cannot_be_done_is_refused_first(folder: Path, tmp_path: Path) -> None:
    def refused(match: str, out: Path, short_side: int) -> None:
        with pytest.raises(ManifestError, match=match):
            index(folder, out, workers=0, reencode=short_side)

    before = sorted(tmp_path.rglob("*"))
    refused("reencode 33: the short side must be an even number", tmp_path / "m.csv", 33)
    refused("reencode 8: .* 16 or more", tmp_path / "m.csv", 8)
    refused("would stand among the videos", tmp_path / "videos.csv", 32)
    refused("would stand among the videos", folder / "m.csv", 32)
    refused("let it end in .csv", tmp_path / "m", 32)
    assert sorted(tmp_path.rglob("*")) == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    refused("holds something else", tmp_path / "other.csv", 32)


def test_copies_of_another_size_are_not_mixed(made: Made, tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    shutil.copy(made("b_frames.mp4"), tmp_path / "videos")
    index(tmp_path / "videos", tmp_path / "small.csv", workers=0, reencode=32)
    with pytest.raises(ManifestError, match="copies of another size"):
        index(tmp_path / "videos", tmp_path / "small.csv", workers=0, reencode=16)
