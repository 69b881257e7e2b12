"""The motion benchmark: what it says, and that its errors are errors. No time is asserted."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from m3video.benchmark import motion
from m3video.benchmark.motion import benchmark_motion, print_table
from m3video.config import FLOW_NAMES
from m3video.errors import ConfigError
from m3video.targets import MAKERS
from tests.motion.textures import panned

SMALL: dict[str, Any] = {"repeats": 1, "size": "nano", "frame_size": (64, 96), "scenes": 2}


def write_pair(folder: Path, name: str, velocity: tuple[float, float]) -> None:
    """A pair on 64 × 96 pixels whose flow is the same everywhere."""
    frames = panned(2, 64, 96, velocity)
    for number in (1, 2):
        cv2.imwrite(str(folder / f"{name}_frame{number}.png"), frames[number - 1].numpy())
    flow = np.broadcast_to(np.array(velocity, "<f4"), (64, 96, 2))
    header = struct.pack("<fii", 202021.25, 96, 64)
    (folder / f"{name}_flow.flo").write_bytes(header + flow.tobytes())


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("pairs")
    write_pair(folder, "slow", (0.5, 0.0))
    write_pair(folder, "fast", (2.0, -1.0))
    return benchmark_motion(folder, **SMALL)


def test_it_says_what_was_asked_at_the_top_level(measured: dict[str, Any]) -> None:
    assert json.loads(json.dumps(measured)) == measured
    assert measured["targets_share_of_step"] > 0
    assert measured["hog_share_of_step"] > 0
    assert list(measured["seed_error"]) == list(FLOW_NAMES)
    assert list(measured["estimators"]) == list(FLOW_NAMES)
    assert list(measured["targets"]) == ["mme", "tracks", *MAKERS]
    assert measured["targets"]["mme"]["share_of_step"] == measured["targets_share_of_step"]


def test_flow_errors_are_those_of_the_pairs(measured: dict[str, Any]) -> None:
    """Pairs and truth that agree: small errors; no motion would be wrong by 0.5 and 2.2 px."""
    for name in FLOW_NAMES:
        for key in ("flow_epe", "flow_epe_seeds"):
            assert list(measured[key][name]) == ["fast", "slow"]
            assert 0 < measured[key][name]["slow"] < 0.35
            assert 0 < measured[key][name]["fast"] < 0.7


def test_seed_errors_are_below_the_motion(measured: dict[str, Any]) -> None:
    assert measured["seed_motion"] > 0.1
    assert 0 < measured["seed_error"]["dis-medium"] < measured["seed_motion"]


def test_seed_errors_are_distances_from_the_exact_tracks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tracks that stay where they begin are wrong by just what the seeds truly move."""
    original = motion.track

    def still(*args: Any, **options: Any) -> Any:
        tracks = original(*args, **options)
        return type(tracks)(
            tracks.points[..., :1, :].expand_as(tracks.points),
            tracks.displacements * 0,
            tracks.visible,
        )

    monkeypatch.setattr(motion, "track", still)
    result = benchmark_motion(None, **SMALL)
    for error in result["seed_error"].values():
        assert error == pytest.approx(result["seed_motion"])


def test_shares_are_of_the_step_turn_by_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("tracks", *MAKERS, *FLOW_NAMES)
    cost = {name: [0.5, 0.5, 0.5] for name in names}
    cost |= {"step": [2.0, 4.0, 4.0], "mme": [0.2, 0.2, 0.2], "trajectory_hog": [0.1, 0.1, 0.4]}
    monkeypatch.setattr(motion, "_cost", lambda config, repeats: cost)
    result = benchmark_motion(None, **SMALL)
    assert result["targets_share_of_step"] == pytest.approx(0.05)
    assert result["hog_share_of_step"] == pytest.approx(0.05)
    assert result["targets"]["hog"]["share_of_step"] == pytest.approx(0.125)
    assert result["targets"]["trajectory_hog"]["seconds"] == pytest.approx(0.1)
    assert result["step_seconds"] == 4.0


def test_end_point_errors_are_distances(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An estimator that is wrong by (3, 4) everywhere is wrong by 5."""
    write_pair(tmp_path, "pair", (2.0, -1.0))
    wrong = torch.tensor([2.0 + 3, -1.0 + 4])[None, :, None, None].expand(1, 2, 64, 96)
    monkeypatch.setattr(motion, "make_flow", lambda name: lambda first, second: wrong)
    errors = motion._end_point_errors("dis-fast", motion._read_pairs(tmp_path))
    assert errors == {"all": {"pair": pytest.approx(5)}, "seeds": {"pair": pytest.approx(5)}}


def test_without_pairs_the_table_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads(), cv2.getNumThreads()
    result = benchmark_motion(None, **SMALL)
    assert (torch.get_num_threads(), cv2.getNumThreads()) == threads
    assert result["flow_epe"] == {}
    print_table(result)
    printed = capsys.readouterr().out
    assert "No pairs with known flow were given" in printed
    for name in (*FLOW_NAMES, "all of recipe mme", "trajectory_hog"):
        assert name in printed


def test_the_table_has_the_pairs(
    measured: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    print_table(measured)
    printed = capsys.readouterr().out
    assert "slow" in printed
    assert f"{measured['flow_epe']['dis-fast']['fast']:.2f}" in printed


def test_folders_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no NAME_frame1\.png with NAME_frame2\.png"):
        benchmark_motion(tmp_path, **SMALL)
    write_pair(tmp_path, "pair", (1.0, 0.0))
    (tmp_path / "pair_frame2.png").unlink()
    with pytest.raises(ConfigError, match=r"pair_frame2\.png: is missing or cannot be read"):
        benchmark_motion(tmp_path, **SMALL)
    cv2.imwrite(str(tmp_path / "pair_frame2.png"), np.zeros((64, 90, 3), np.uint8))
    with pytest.raises(ConfigError, match=r"must have one size, and have 64×96 and 64×90"):
        benchmark_motion(tmp_path, **SMALL)
    write_pair(tmp_path, "pair", (1.0, 0.0))
    (tmp_path / "pair_flow.flo").unlink()
    with pytest.raises(ConfigError, match=r"pair_flow\.flo: is missing"):
        benchmark_motion(tmp_path, **SMALL)
    with pytest.raises(ConfigError, match="repeats 0 and scenes 1"):
        benchmark_motion(None, repeats=0, scenes=1)
