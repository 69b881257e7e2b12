"""The verb `track`: its numbers are those of `m3video.track`, its films those of the video."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import torch

import m3video
from m3video.cli import main
from m3video.config import TrackConfig
from m3video.motion.fields import Fields
from m3video.motion.trajectory import Tracks, follow, seed_grid
from m3video.report import track, track_page
from m3video.report.track_figures import Figures, two_digits
from m3video.report.track_motion import Follower
from m3video.report.track_pictures import Look, add_key, panel_size, sheet, tail
from m3video.video.augment import Crop
from m3video.video.reader import VideoReader
from m3video.video.vector_reader import VectorReader
from tests.conftest import write_video


def settings_for(video: Path, out: Path, **changes: Any) -> TrackConfig:
    return TrackConfig(video=video, out=out, device="cpu", **changes)


def same(found: np.ndarray, tracks: Tracks, part: str) -> None:
    np.testing.assert_array_equal(found, getattr(tracks, part).numpy(), err_msg=part)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"camera": True, "visibility": "forward-backward", "length": 4, "spacing": 7},
        {"flow": ("farneback",), "length": 11, "start": "3", "count": "24"},
    ],
)
def test_numbers_are_those_of_the_whole_video_at_once(
    made_clip: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    config = settings_for(made_clip, tmp_path / "tracks.npz", **changes)
    assert track.track_video(config) == config.out
    start = int(config.start)
    count = None if config.count is None else int(config.count)
    expected = m3video.track(
        m3video.read_frames(made_clip, start=start, count=count),
        length=config.length,
        spacing=config.spacing,
        flow=config.flow[0],
        camera=config.camera,
        visibility=config.visibility,
    )
    with np.load(config.out, allow_pickle=False) as held:
        for part in ("points", "displacements", "visible"):
            same(held[part], expected, part)
        windows = range(start, start + config.length * len(held["points"]), config.length)
        assert held["starts"].tolist() == list(windows)
        assert held["size"].tolist() == [72, 96]
        assert held["fps"] == pytest.approx(25)
        assert json.loads(str(held["settings"]))["length"] == config.length


def test_several_estimators_are_kept_by_name(made_clip: Path, tmp_path: Path) -> None:
    config = settings_for(
        made_clip, tmp_path / "t.npz", flow=("farneback", "dis-ultrafast"), count="14"
    )
    track.track_video(config)
    frames = m3video.read_frames(made_clip, count=14)
    with np.load(config.out) as held:
        for name in config.flow:
            same(held[f"{name}/points"], m3video.track(frames, flow=name), "points")
        assert not np.array_equal(held["farneback/points"], held["dis-ultrafast/points"])


def write_drift(path: Path, step: tuple[int, int]) -> Path:
    """Ten frames of a soft texture that moves as one by `step` pixels (x, y) a frame."""
    noise = np.random.default_rng(0).integers(0, 255, (40, 50, 3)).astype(np.uint8)
    texture = cv2.resize(noise, (300, 240), interpolation=cv2.INTER_CUBIC)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("h264", rate=25, options={"crf": "12"})
        stream.width, stream.height, stream.pix_fmt = 192, 144, "yuv420p"
        for number in range(10):
            left, top = 50 - number * step[0], 50 - number * step[1]
            picture = np.ascontiguousarray(texture[top : top + 144, left : left + 192])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def test_a_smaller_size_gives_numbers_of_the_video_itself(tmp_path: Path) -> None:
    video = write_drift(tmp_path / "drift.mp4", (3, -2))
    found = {}
    for size in (None, 80):
        config = settings_for(
            video, tmp_path / "t.npz", size=size, camera=True, flow=("dis-medium",)
        )
        track.track_video(config)
        with np.load(config.out) as held:
            found[size] = {key: held[key] for key in ("points", "displacements", "size")}
            assert held["size"].tolist() == [144, 192]
    inner = np.s_[0, 4:-4, 4:-4]
    for size, arrays in found.items():
        points = arrays["points"][inner]
        np.testing.assert_array_equal(points[..., 0, :], found[None]["points"][inner][..., 0, :])
        np.testing.assert_allclose(
            np.median(points[..., -1, :] - points[..., 0, :], axis=(0, 1)),
            [18, -12],
            atol=0.9,
            err_msg=str(size),
        )
        own = np.median(arrays["displacements"][inner], axis=(0, 1, 2))
        np.testing.assert_allclose(own, [0, 0], atol=0.1, err_msg="all of it is the camera's")


@pytest.mark.parametrize("frames", [(0, 9), (2, 5)])
def test_codec_reads_the_vectors_of_the_file(tmp_path: Path, frames: tuple[int, int]) -> None:
    video = write_drift(tmp_path / "drift.mp4", (4, -2))
    start, count = frames
    config = settings_for(
        video, tmp_path / "t.npz", flow=("codec",), length=2, start=str(start), count=str(count)
    )
    track.track_video(config)
    with VectorReader(video) as reader, np.load(config.out) as held:
        list(reader.images(range(start, start + count)))
        crop = Crop((0, 0, 144, 192), (144, 192), flip=False)
        flow = reader.flow([(start, start + 1)], crop)
        fields = Fields(torch.from_numpy(flow)[None])
        expected = follow(fields, torch.tensor([[0]]), seed_grid(144, 192, 8))
        same(held["displacements"][0, ..., :1, :], expected_tracks(expected), "displacements")
        inner = held["displacements"][:, 4:-4, 4:-4]
        np.testing.assert_allclose(np.median(inner, axis=(0, 1, 2, 3)), [4, -2], atol=0.3)


def expected_tracks(tracks: Tracks) -> Tracks:
    return Tracks(tracks.points[0, 0], tracks.displacements[0, 0], tracks.visible[0, 0])


def film_of(path: Path) -> tuple[np.ndarray, float]:
    with VideoReader(path) as reader:
        return reader.frames(range(len(reader))), reader.fps


def test_film_has_every_frame_at_the_same_rate(made_clip: Path, tmp_path: Path) -> None:
    config = settings_for(
        made_clip, tmp_path / "t.mp4", count="0.6s", start="5", flow=("dis-fast",)
    )
    track.track_video(config)
    frames, fps = film_of(config.out)
    assert len(frames) == 15
    assert fps == pytest.approx(25)
    height, width = panel_size((72, 96), 2, 1)
    assert frames.shape[1:3] == (height + 30, 2 * width + 8)
    still, square = frames[8, 30:, width + 60 : width + 80], frames[8, 30:, width + 8 :]
    assert still[-60:].min() > 200, "what stands still is white"
    red = square[180, 100].astype(int)  # what moves right is red
    assert red[0] - red[1:].max() > 40
    assert {each.name for each in tmp_path.iterdir()} == {"made.mp4", "t.mp4"}


@pytest.mark.parametrize(("show", "columns"), [("tracks", 2), ("flow", 2), ("both", 2)])
def test_estimators_stand_side_by_side(
    made_clip: Path, tmp_path: Path, show: str, columns: int
) -> None:
    config = settings_for(
        made_clip, tmp_path / "t.mp4", flow=("dis-fast", "farneback"), show=show, count="9"
    )
    track.track_video(config)
    frames, _ = film_of(config.out)
    rows = 2 if show == "both" else 1
    height, width = panel_size((72, 96), columns, rows)
    assert frames.shape == (9, rows * (height + 30) + 8 * (rows - 1), columns * (width + 8) - 8, 3)


@pytest.mark.parametrize(("camera", "kept"), [(False, ""), (True, " without the camera")])
def test_a_film_says_whether_the_camera_was_removed(
    made_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, camera: bool, kept: str
) -> None:
    titles: list[str] = []

    def noted(rows: list[list[tuple[str, track.Frame]]]) -> track.Frame:
        titles.extend(title for row in rows for title, _ in row)
        return sheet(rows)

    monkeypatch.setattr(track, "sheet", noted)
    track.track_video(settings_for(made_clip, tmp_path / "t.mp4", camera=camera, count="8"))
    assert set(titles) == {f"dis: trajectories{kept}", f"dis: flow{kept}"}


def test_page_stands_alone_and_says_what_it_leaves_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(track, "PAGE_FRAMES", 20)
    video = write_video(tmp_path / "a <b>.mp4")
    config = settings_for(video, tmp_path / "t.html", flow=("dis-fast", "farneback"))
    track.track_video(config)
    page = config.out.read_text()
    assert page.count("data:video/mp4;base64,") == 4
    assert "first 20 of 40 frames" in page
    assert "a &lt;b&gt;.mp4" in page
    assert "<b>" not in page
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    for words in ("Mean speed", "Camera speed", "Visible after 6 steps", "agree"):
        assert words in page


@pytest.mark.parametrize("camera", [False, True])
def test_the_page_measures_more_than_it_follows(
    made_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, camera: bool
) -> None:
    """Its figures need the camera and the flow back; its trajectories only what was asked for."""
    found: list[Figures] = []
    kept = track.track_page

    def keep(*arguments: Any) -> Any:
        found.extend(arguments[3])
        return kept(*arguments)

    monkeypatch.setattr(track, "track_page", keep)
    config = settings_for(made_clip, tmp_path / "t.html", camera=camera, count="13")
    track.track_video(config)
    frames = m3video.read_frames(made_clip, count=13)
    tracks = m3video.track(frames, flow=config.flow[0], camera=camera)
    seen = tracks.visible[..., 1:]
    (figures,) = found
    assert figures.speed == pytest.approx(float(tracks.displacements.norm(dim=-1)[seen].mean()))
    assert figures.steps == int(seen.sum())
    assert figures.camera_speed is not None
    assert figures.agreed_share is not None
    assert 0 < figures.agreed_share <= 1


def test_figures_are_those_of_the_numbers(made_clip: Path) -> None:
    tracks = m3video.track(m3video.read_frames(made_clip), length=5)
    figures = Figures("dis-fast")
    for window in range(len(tracks.points)):
        figures.add_window(
            Tracks(tracks.points[window], tracks.displacements[window], tracks.visible[window])
        )
    seen = tracks.visible[..., 1:]
    speed = tracks.displacements.norm(dim=-1)[seen].mean()
    assert figures.speed == pytest.approx(float(speed), rel=1e-5)
    assert figures.seen_share == pytest.approx(float(seen[..., -1].float().mean()))
    assert figures.camera_speed is None
    assert figures.agreed_share is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--length", "40"], "length 40 with 40 frames: use --length 1 to 39"),
        (["--spacing", "73"], "spacing 73: use 1 to 72 for 72×96"),
        (["--start", "40"], "it has 40 frames, 1.60 s"),
        (["--start", "1s", "--count", "1s"], "start 1s, count 1s: it has 40 frames"),
        (["--count", "1"], "1 frame shows no motion"),
        (["--count", "0"], "it has 40 frames"),
        (["--flow", "raft", "--weights", "nowhere.pth"], "raft"),
        (["--out", "made.mp4"], "is the video itself"),
        (["--out", "folder.mp4"], "is a folder"),
        (["--device", "abacus"], "abacus"),
    ],
)
def test_what_does_not_fit_the_video_is_one_line(
    made_clip: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(made_clip.parent)
    Path("folder.mp4").mkdir()
    assert main(["track", "made.mp4", "--out", "t.npz", *arguments]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert words in said
    assert {each.name for each in Path().iterdir()} == {"made.mp4", "folder.mp4"}


@pytest.mark.parametrize(("kind", "start"), [("mp4", "0"), ("html", "0"), ("npz", "0.2s")])
def test_what_comes_before_a_broken_frame_can_be_had(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, start: str
) -> None:
    video = write_video(tmp_path / "v.mp4")
    data = bytearray(video.read_bytes())
    with av.open(str(video)) as container:
        packets = list(container.demux(video=0))
    broken = sorted((p for p in packets if p.size), key=lambda p: p.pts)[30]
    assert broken.pos is not None
    data[broken.pos : broken.pos + broken.size] = bytes(broken.size)
    video.write_bytes(data)
    command = ["track", str(video), "--out", str(tmp_path / f"t.{kind}"), "--start", start]
    assert main([*command, "--spacing", "16", "--device", "cpu"]) == 2
    said = re.search(r"frame (\d+) cannot .*; use --count (\d+) for", capsys.readouterr().err)
    assert said is not None
    assert int(said[1]) - int(said[2]) == (0 if start == "0" else 5)
    assert main([*command, "--spacing", "16", "--device", "cpu", "--count", said[2]]) == 0


@pytest.mark.parametrize("kind", ["mp4", "html", "npz"])
def test_an_interruption_leaves_nothing(
    made_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    def stop(*_: object) -> Iterator[None]:
        whole = moments(*_)
        for _ in range(12):
            yield next(whole)
        raise KeyboardInterrupt

    moments = track.moments
    monkeypatch.setattr(track, "moments", stop)
    assert main(["track", str(made_clip), "--out", str(tmp_path / f"t.{kind}")]) == 130
    assert [each.name for each in tmp_path.iterdir()] == ["made.mp4"]


def test_a_tail_without_the_camera_leads_to_where_the_point_is() -> None:
    follower = Follower(8, 8, 8, 5)
    window = follower.current
    window.points += [torch.tensor([[[4.5, 3.5]]]), torch.tensor([[[6.0, 4.0]]])]
    window.displacements += [torch.tensor([[[0.0, 0.0]]]), torch.tensor([[[0.5, 0.25]]])]
    window.visible += [torch.ones(1, 1, dtype=torch.bool)] * 2
    points, visible = tail(window)
    assert points.tolist() == [[[5.5, 3.75], [5.5, 3.75], [6.0, 4.0]]]
    assert visible.all()
    window.visible[-1] = torch.zeros(1, 1, dtype=torch.bool)
    points, _ = tail(window)
    assert points[0, :2].tolist() == [[4.5, 3.5], [4.5, 3.5]], "where it was last seen"


@pytest.mark.parametrize("video", [(72, 96), (1080, 1920), (96, 72), (2160, 3840), (16, 16)])
@pytest.mark.parametrize(("columns", "rows"), [(1, 1), (2, 1), (3, 2)])
def test_panels_are_even_and_fit(video: tuple[int, int], columns: int, rows: int) -> None:
    height, width = panel_size(video, columns, rows)
    assert height % 2 == width % 2 == 0
    assert columns * width <= 1922
    assert rows * height <= 1202
    assert height / width == pytest.approx(video[0] / video[1], rel=0.02)
    panel = np.zeros((height, width, 3), np.uint8)
    keyed = add_key(panel, Look(video, (height, width), 4.2).fastest)
    assert keyed[-40:, -40:].any()
    whole = sheet([[("a title that is long " * 3, keyed)] * columns] * rows)
    assert whole.shape[0] % 2 == whole.shape[1] % 2 == 0


@pytest.mark.parametrize(("value", "shown"), [(1.0, 1.0), (2.849, 2.8), (41.3, 41.0), (123, 120)])
def test_the_scale_has_two_digits(value: float, shown: float) -> None:
    assert two_digits(value) == shown


def test_a_page_is_bounded() -> None:
    for films, frames, fps in [(2, 600, 25.0), (6, 600, 30.0), (2, 20, 1000.0), (8, 600, 1.0)]:
        rate = track_page.film_rate(films, frames, fps)
        assert 1000 * rate / 8 * frames / fps * films <= track_page.PAGE_BYTES * 1.01


MEMORY = """
import resource, sys
from pathlib import Path
from m3video.config import TrackConfig
from m3video.report.track import track_video
track_video(TrackConfig(video=Path(sys.argv[1]), out=Path(sys.argv[2]), device="cpu"))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["npz", "mp4"])
def test_memory_does_not_grow_with_the_video(tmp_path: Path, kind: str) -> None:
    """600 frames are 138 MB more than 60 as pixels, and 332 MB more as flow."""
    peaks = []
    for frames in (60, 600):
        video = write_video(tmp_path / f"{frames}.mp4", frames=frames, height=240, width=320)
        done = subprocess.run(
            [sys.executable, "-c", MEMORY, str(video), str(tmp_path / f"t.{kind}")],
            capture_output=True,
            text=True,
            check=True,
        )
        peaks.append(int(done.stdout) / 1024)
    assert peaks[1] - peaks[0] < 25, peaks
