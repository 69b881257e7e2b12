"""The loader's benchmark compares what it says it compares."""

from __future__ import annotations

import json
from pathlib import Path

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
    assert result["share_of_decoding"] == pytest.approx(result["loader"] / result["plain"])
    assert (result["span"], result["rows"], result["clips"]) == (64, 64, 3)
    loader.print_table(result)
    assert f"{result['share_of_decoding']:.3f}" in capsys.readouterr().out


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
