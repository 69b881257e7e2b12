"""The reader against plain sequential decoding with PyAV, and OpenCV for the orientation."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from av.packet import Packet
from av.video.stream import VideoStream
from numpy.typing import NDArray

from m3video.errors import VideoError
from m3video.video.reader import VideoReader, read_frames
from tests.video.made_clips import MADE, UNEVEN, picture, remux, write_clip

CLIPS = Path(__file__).parents[2].parent / "shared" / "data" / "clips"
REAL = {
    "av1_video.mkv": 125,
    "bikes.mp4": 250,
    "carphone_pristine.mp4": 120,
    "flipping_a_pancake.mkv": 310,
    "h264_10bits.mp4": 30,
    "h265_video.mp4": 10,
    "mmaction2_demo.mp4": 280,
    "nasa_13013.mp4": 325,
    "part_0.mp4": 32,
    "unordered.mov": 4,
    "v_ApplyEyeMakeup_g01_c01.avi": 164,
    "v_BaseballPitch_g01_c01.avi": 107,
    "video_0.mov": 3,
    "video_90.mov": 3,
}
TURNS = {"video_90.mov": -1, "turned.mov": 1}
"""Quarter turns anticlockwise to what is displayed."""

Made = Callable[[str], Path]


def real(name: str) -> Path:
    if not (CLIPS / name).exists():
        pytest.skip(f"no ../shared/data/clips/{name}")
    return CLIPS / name


def plain(path: Path) -> list[NDArray[np.uint8]]:
    """All frames by one pass of PyAV."""
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        turns = TURNS.get(path.name, 0)
        return [
            np.rot90(frame.to_ndarray(format="rgb24", threads=1), turns)  # type: ignore[arg-type]
            for frame in container.decode(video=0)
        ]


def check_all_ways(path: Path) -> None:
    """A sweep equals plain decoding, and every kind of random access equals the sweep."""
    expected = plain(path)
    with VideoReader(path) as reader:
        count = len(reader)
        assert count == len(expected)
        for frame, other in zip(reader, expected, strict=True):
            np.testing.assert_array_equal(frame, other)
        assert (reader.height, reader.width) == expected[0].shape[:2]
        reader.verify()
    draw = random.Random(0)
    asked = [[count - 1, 0, count // 2, 0], list(range(count // 3, count, 4))]
    asked += [[draw.randrange(count) for _ in range(4)] for _ in range(6)]
    asked += [list(range(start, min(start + 3, count))) for start in range(0, count, 11)]
    with VideoReader(path) as reader:
        for indices in asked:
            frames = reader.frames(indices)
            np.testing.assert_array_equal(frames, np.stack([expected[i] for i in indices]))
    with VideoReader(path) as fresh:  # the first read of a reader, in the middle
        np.testing.assert_array_equal(fresh.frames([count * 3 // 4])[0], expected[count * 3 // 4])


@pytest.mark.parametrize("name", REAL)
def test_real_clips_read_the_same_in_all_ways(name: str) -> None:
    path = real(name)
    check_all_ways(path)
    with VideoReader(path) as reader:
        assert len(reader) == REAL[name]


@pytest.mark.parametrize("name", MADE)
def test_made_clips_read_the_same_in_all_ways(name: str, made: Made) -> None:
    frames = plain(made(name))
    assert not any(np.array_equal(a, b) for a, b in pairwise(frames))
    check_all_ways(made(name))


@pytest.mark.parametrize("name", ["b_frames.mp4", "lossless.mkv", "uneven.mkv"])
def test_frame_n_shows_picture_n(name: str, made: Made) -> None:
    with VideoReader(made(name)) as reader:
        frames = reader.frames(range(40)).astype(np.int16)
    pictures = np.stack([picture(number) for number in range(40)]).astype(np.int16)
    error = np.abs(frames[:, None] - pictures[None]).mean((2, 3, 4))
    assert (error.argmin(1) == np.arange(40)).all()


def test_frames_that_are_hidden_by_an_edit_list_have_no_number(made: Made) -> None:
    path = made("edit_list.mp4")
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    hidden = sum(packet.is_discard for packet in packets)
    assert hidden > 0
    with VideoReader(path) as reader:
        assert len(reader) == len(packets) - hidden


@pytest.mark.parametrize(("index", "most"), [(0, 8), (20, 20), (39, 12)])
def test_only_what_is_needed_is_read(
    index: int, most: int, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keyframes are 12 frames apart at most, and the decoder holds back a few frames."""
    read: list[int] = []
    with VideoReader(made("b_frames.mp4")) as reader:
        seek = reader._seek

        def counted(pts: int, dts: int) -> Iterator[Packet[VideoStream]]:
            for packet in seek(pts, dts):
                read.append(1)
                yield packet

        monkeypatch.setattr(reader, "_seek", counted)
        reader.frames([index])
    assert 1 <= len(read) <= most


def test_wrong_promises_lead_to_reading_from_the_start(made: Made) -> None:
    """Keyframes that decoding does not bear out (intra refresh) are not used."""
    path = made("intra_refresh.mp4")
    with VideoReader(path) as reader:
        assert len(reader._keys) > 1
        for index, frame in enumerate(plain(path)):
            np.testing.assert_array_equal(reader.frames([index])[0], frame)
        assert not reader._keys


def test_orientation_is_that_of_opencv() -> None:
    for name in ("video_0.mov", "video_90.mov"):
        ok, frame = cv2.VideoCapture(str(real(name))).read()
        assert ok
        with VideoReader(CLIPS / name) as reader:
            np.testing.assert_array_equal(reader.frames([0])[0], frame[..., ::-1])
            assert (reader.height, reader.width) == frame.shape[:2]


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_made_rotations_are_those_of_opencv(rotation: int, tmp_path: Path) -> None:
    path = write_clip(tmp_path / "turned.mp4", "libx264", frames=3, rotation=rotation)
    ok, frame = cv2.VideoCapture(str(path)).read()
    assert ok
    found = read_frames(path, count=1)[0].numpy()
    assert found.shape == frame.shape
    assert np.abs(found.astype(int) - frame[..., ::-1]).mean() < 2  # its own colour conversion


def test_mirrored_video_is_mirrored_back(tmp_path: Path) -> None:
    plain_path = write_clip(tmp_path / "plain.mp4", "libx264", frames=2)
    path = tmp_path / "mirrored.mp4"
    with av.open(str(plain_path)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        stream.set_display_matrix([-1, 0, 0, 0, 1, 0, 80, 0, 1])
        for packet in old.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                new.mux(packet)
    np.testing.assert_array_equal(read_frames(path)[0], plain(plain_path)[0][:, ::-1])


def test_rate_and_duration_come_from_the_frames(made: Made) -> None:
    with VideoReader(made("uneven.mp4")) as reader:
        seconds = (UNEVEN[-1] - UNEVEN[0]) / 1000
        assert reader.duration == pytest.approx(seconds, rel=0.05)
        assert reader.fps == pytest.approx(len(reader) / reader.duration)
    with VideoReader(made("b_frames.mp4")) as reader:
        assert (reader.fps, reader.duration) == (25.0, 1.6)


@pytest.mark.parametrize(("name", "codec"), [("a.webm", "libvpx"), ("a.mkv", "mpeg4")])
def test_rate_and_duration_where_packets_are_not_frames(
    name: str, codec: str, tmp_path: Path
) -> None:
    """A browser's recordings: VP8, few frames a second, and a header that says 25."""
    options = {"bf": "2"} if codec == "mpeg4" else {"deadline": "realtime"}
    times = [137 * number for number in range(20)]
    path = write_clip(tmp_path / name, codec, frames=20, times=times, options=options)
    with VideoReader(path) as reader:
        assert not reader._keys
        assert len(reader) == 20
        assert reader.fps == pytest.approx(1000 / 137, rel=1e-3)
        assert reader.duration == pytest.approx(20 * 0.137, rel=1e-3)


def test_a_header_that_lies_about_the_count_is_not_believed(made: Made, tmp_path: Path) -> None:
    data = made("plain.avi").read_bytes()
    count = (40).to_bytes(4, "little")
    at = data.index(b"strh") + 8 + 32  # dwLength of the stream header
    assert data[at : at + 4] == count
    path = tmp_path / "lies.avi"
    path.write_bytes(data[:at] + (55).to_bytes(4, "little") + data[at + 4 :])
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 55
    with VideoReader(path) as reader:
        assert len(reader) == 40


def test_cut_file_is_read_to_its_last_whole_frame_or_named(made: Made, tmp_path: Path) -> None:
    for name in ("b_frames.avi", "stream.ts", "uneven.mkv", "vp9.webm"):
        data = made(name).read_bytes()
        path = tmp_path / name
        path.write_bytes(data[: len(data) * 2 // 3])
        reason = ""
        try:
            with VideoReader(path) as reader:
                assert len(reader) < 40
                reader.verify()
                assert len(list(reader)) == len(reader)
        except VideoError as error:
            reason = str(error)
        assert reason == "" or reason.startswith(f"{path}: ")
        assert "\n" not in reason


def test_the_frame_where_decoding_stopped_is_named() -> None:
    path = real("corrupted.mp4")
    with VideoReader(path) as reader:
        assert reader.frames([27]).shape == (1, 720, 1280, 3)
        for read in (reader.verify, lambda: reader.frames([40]), lambda: list(reader)):
            with pytest.raises(VideoError, match=r"corrupted.mp4: frame 28 cannot be decoded: \w"):
                read()
        assert len(reader.frames([3])) == 1  # what comes before can still be read


def test_what_is_no_video_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("not a video")
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
    for name, why in {
        "missing.mp4": "No such file",
        "empty.mp4": "is empty",
        "text.mp4": "Invalid data",
        "sound.wav": "sound or text, not a video",
        ".": "is a directory",
    }.items():
        with pytest.raises(VideoError) as caught:
            VideoReader(tmp_path / name)
        assert str(caught.value).startswith(f"{tmp_path / name}: ")
        assert why in str(caught.value)
        assert "\n" not in str(caught.value)


def test_playlists_open_nothing_else(made: Made, tmp_path: Path) -> None:
    clip = made("stream.ts")
    playlist = tmp_path / "list.m3u8"
    playlist.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{clip}\n#EXT-X-ENDLIST\n")
    concat = tmp_path / "list.mp4"
    concat.write_text("ffconcat version 1.0\nfile stream.ts\n")
    (tmp_path / "stream.ts").write_bytes(clip.read_bytes())
    for path in (playlist, concat):
        with pytest.raises(VideoError, match="is a playlist"):
            VideoReader(path)


def test_names_that_look_like_addresses_are_files(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("http:a.mp4", "pipe:0.mp4", "a %03d ü.mp4"):
        Path(name).write_bytes(made("b_frames.mp4").read_bytes())
        with VideoReader(name) as reader:
            assert len(reader) == 40


def test_a_cover_picture_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as new:
        song = new.add_stream("aac", rate=8000, layout="mono")
        cover = new.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 32, 32, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        new.mux(cover.encode(av.VideoFrame.from_ndarray(picture(0, 32, 32), "rgb24")))
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), "fltp", "mono")
        sound.sample_rate = 8000
        new.mux(song.encode(sound))
        new.mux(song.encode(None))
    with av.open(str(path)) as container:
        assert len(container.streams.video) == 1
    with pytest.raises(VideoError, match="has no video stream"):
        VideoReader(path)


@pytest.mark.parametrize("name", ["b_frames.mp4", "b_pyramid.mkv", "open_gop.mp4", "hevc.mp4"])
def test_seeking_is_relied_on_where_packets_tell_the_truth(name: str, made: Made) -> None:
    with VideoReader(made(name)) as reader:
        for index in (39, 3, 20, 11):
            reader.frames([index])
        assert len(reader._keys) > 1


@pytest.mark.parametrize("name", ["b_frames.avi", "stream.ts", "raw.h264", "mpeg2.mpg", "vp8.webm"])
def test_seeking_is_not_relied_on_where_times_are_guessed(name: str, made: Made) -> None:
    with VideoReader(made(name)) as reader:
        assert not reader._keys


@pytest.mark.parametrize("skip", [1, 3])
@pytest.mark.parametrize("name", ["b_frames.mp4", "hevc.mp4"])
def test_a_stream_that_begins_without_a_keyframe(
    name: str, skip: int, made: Made, tmp_path: Path
) -> None:
    check_all_ways(remux(made(name), tmp_path / "headless.mkv", skip=skip, options={}))


def test_times_guessed_for_avi_and_copied_are_not_believed(made: Made, tmp_path: Path) -> None:
    path = remux(made("b_frames.avi"), tmp_path / "copied.mkv", options={})
    check_all_ways(path)
    with VideoReader(path) as reader:
        assert not reader._keys


def test_threads_change_nothing(made: Made) -> None:
    path = made("b_frames.mp4")
    with VideoReader(path, threads=3) as reader:
        np.testing.assert_array_equal(reader.frames(range(40)), np.stack(plain(path)))


def test_read_frames(made: Made) -> None:
    path = made("b_frames.mp4")
    expected = np.stack(plain(path))
    found = read_frames(str(path), start=5, count=8, stride=3)
    assert found.shape == (8, 48, 80, 3)
    np.testing.assert_array_equal(found, expected[5:29:3])
    np.testing.assert_array_equal(read_frames(path, start=30, stride=2), expected[30::2])


def test_frames_that_are_not_there_are_refused(made: Made) -> None:
    path = made("b_frames.mp4")
    with pytest.raises(VideoError, match="frames 35 … 40 were asked for, but it has 40"):
        read_frames(path, start=35, count=6)
    with pytest.raises(VideoError, match="frames 40 … 40 were asked for"):
        read_frames(path, start=40)
    with pytest.raises(VideoError, match="stride 0"):
        read_frames(path, stride=0)
    with VideoReader(path) as reader:
        assert reader.frames([]).shape == (0, 48, 80, 3)
        for index in (-1, 40):
            with pytest.raises(IndexError, match=f"frame {index} is not in 0 … 39"):
                reader.frames([3, index])


@pytest.mark.parametrize("name", ["b_frames.avi", "vp8.webm"])
def test_a_known_count_spares_decoding_the_file_to_count(
    name: str, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = plain(made(name))
    passes: list[VideoReader] = []
    count = VideoReader._count_by_decoding

    def counted(reader: VideoReader) -> int:
        passes.append(reader)
        return count(reader)

    monkeypatch.setattr(VideoReader, "_count_by_decoding", counted)
    with VideoReader(made(name)) as reader:
        assert len(reader) == len(expected)
    assert len(passes) == 1, "this file tells its count by its packets: the test shows nothing"
    with VideoReader(made(name), frames=len(expected)) as reader:
        np.testing.assert_array_equal(reader.frames([3])[0], expected[3])
    assert len(passes) == 1
    with (
        VideoReader(made(name), frames=len(expected) + 5) as reader,
        pytest.raises(VideoError, match=f"decoding ends at frame {len(expected)}"),
    ):
        reader.frames([len(expected) + 2])


def test_a_moment_is_a_frame_where_the_rate_varies(tmp_path: Path) -> None:
    shown = [500, 540, 580, 1500, 1540, 1580, 3500]  # ms; the first is where seconds begin
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.codec_context.time_base = 96, 72, Fraction(1, 1000)
        for moment in shown:
            frame = av.VideoFrame.from_ndarray(np.zeros((72, 96, 3), np.uint8), format="rgb24")
            frame.pts, frame.time_base = moment, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with VideoReader(path) as reader:
        moments = (0, 0.01, 0.03, 0.5, 0.55, 1.0, 2.1, 3.0)
        assert [reader.frame_at(moment) for moment in moments] == [0, 0, 1, 2, 3, 3, 6, 6]
        assert reader.frame_at(3.0 + 2 / reader.fps) == 8
