"""The loader's benchmark compares what it says it compares."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from m3video.benchmark import loader
from m3video.errors import ConfigError, ManifestError, VideoError
from m3video.video.manifest import load_manifest
from m3video.video.reader import VideoReader
from tests.conftest import write_video
from tests.video.made_clips import MADE


def test_both_sides_read_the_same_frames(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", frames=100)
    times = loader._frame_times(load_manifest(tmp_path).videos[0])
    assert len(times) == 100
    with VideoReader(path) as reader:
        expected = reader.frames(range(20, 84))
    np.testing.assert_array_equal(np.stack(loader._plain(path, times[20:84])), expected)


def test_the_figures_and_their_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        write_video(tmp_path / f"{name}.mp4", frames=80)
    result = loader.benchmark_loader(tmp_path, clips=3)
    assert json.loads(json.dumps(result)) == result
    assert (result["span"], result["rows"], result["clips"], result["repeats"]) == (64, 64, 3, 4)
    assert min(result["loader"], result["repeated"], result["plain"]) > 0
    loader.print_table(result)
    out = capsys.readouterr().out
    for value in (f"{result['share_of_decoding']:.3f}", f"{result['repeated_gain']:.2f} ×"):
        assert value in out


def test_ratios_are_of_turns_and_clips_of_a_span_share_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_video(tmp_path / "a.mp4", frames=80)
    seconds = {
        "loader": [1.0, 2.0, 8.0],
        "repeated": [2.0, 4.0, 40.0],
        "plain": [0.5, 1.6, 7.2],
        "decord": [2.0, 4.0, 4.0],
    }
    monkeypatch.setattr(loader, "_take_turns", lambda manifest, plan, clips: dict(seconds))
    monkeypatch.setattr(loader, "version", lambda name: "1")
    result = loader.benchmark_loader(tmp_path, clips=3)
    assert result["share_of_decoding"] == pytest.approx(0.8)
    assert result["share_of_decord"] == 2.0
    assert result["repeated_gain"] == 2.0
    rates = [result[name] for name in ("loader", "repeated", "plain", "decord")]
    assert rates == [0.5, 1.0, 1 / 1.6, 0.25]


def test_all_sides_read_the_same_span_and_take_turns_to_be_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_video(tmp_path / "a.mp4", frames=120)
    asked: list[tuple[str, int]] = []

    class Decord:
        class VideoReader:
            def __init__(self, path: str, num_threads: int) -> None:
                assert num_threads == 1

            def __len__(self) -> int:
                return 120

            def get_batch(self, rows: list[int]) -> Any:
                assert rows == list(range(rows[0], rows[0] + 64))
                asked.append(("decord", rows[0]))
                return SimpleNamespace(asnumpy=lambda: np.zeros(1, np.uint8))

    def plain(path: Path, times: list[int]) -> None:
        every = loader._frame_times(load_manifest(tmp_path).videos[0])
        asked.append(("plain", every.index(times[0])))

    images = VideoReader.images

    def read(self: VideoReader, rows: list[int]) -> Any:
        asked.append(("loader", rows[0]))
        return images(self, rows)

    monkeypatch.setattr(loader, "import_module", lambda name: Decord)
    monkeypatch.setattr(loader, "version", lambda name: "1")
    monkeypatch.setattr(loader, "_plain", plain)
    monkeypatch.setattr(VideoReader, "images", read)
    result = loader.benchmark_loader(tmp_path, clips=3)
    turns = [asked[at : at + 4] for at in range(0, 16, 4)]
    assert len({turn[0][1] for turn in turns}) > 1
    for turn in turns:
        assert len({start for _, start in turn}) == 1
        assert sorted(name for name, _ in turn) == ["decord", "loader", "loader", "plain"]
    assert len({tuple(name for name, _ in turn) for turn in turns}) >= 3
    assert result["versions"]["decord"] == "1"


def test_without_decord_it_is_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_video(tmp_path / "a.mp4", frames=80)
    monkeypatch.setitem(sys.modules, "decord", None)
    result = loader.benchmark_loader(tmp_path, clips=1)
    assert result["decord"] is None
    assert result["share_of_decord"] is None
    assert "decord" not in result["versions"]
    loader.print_table(result)
    assert "not measured" in capsys.readouterr().out


def test_without_videos_it_makes_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    make = loader.make_clips
    monkeypatch.setattr(loader, "make_clips", lambda folder, count: make(folder, 1, 70))
    result = loader.benchmark_loader(clips=2)
    assert result["made"]
    assert result["share_of_decoding"] > 0


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="clips 0 must be at least 1"):
        loader.benchmark_loader(tmp_path, clips=0)
    with pytest.raises(ManifestError, match="no videos found"):
        loader.benchmark_loader(tmp_path)
    MADE["raw.h264"](tmp_path / "a.h264")
    (tmp_path / "list.txt").write_text("a.h264 0\n")
    with pytest.raises(VideoError, match=r"a.h264: does not store when each frame is shown"):
        loader.benchmark_loader(tmp_path / "list.txt", clips=1)
    data = write_video(tmp_path / "b.mp4", frames=80).read_bytes()
    with VideoReader(tmp_path / "b.mp4") as reader:
        assert len(reader) == 80
    cut = bytearray(data)
    middle = data.index(b"mdat") + 4 + len(data) // 3
    cut[middle : middle + 2000] = bytes(2000)
    (tmp_path / "b.mp4").write_bytes(bytes(cut))
    with pytest.raises((VideoError, ManifestError), match=r"b.mp4: "):
        loader.benchmark_loader(tmp_path, clips=1)
