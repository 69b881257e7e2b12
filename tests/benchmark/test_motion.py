"""The motion benchmark: what it says, of which estimators. No time is asserted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch

from m3video.benchmark import motion
from m3video.benchmark.accuracy import LENGTHS, RANGES
from m3video.benchmark.motion import (
    ESTIMATORS,
    benchmark_motion,
    find_estimators,
    gpu_figures,
    print_table,
)
from m3video.config import FlowName
from m3video.errors import ConfigError
from m3video.motion.flow import FlowEstimator, make_flow
from m3video.targets import MAKERS
from tests.benchmark.test_accuracy import write_pair

NAMES: tuple[FlowName, ...] = ("dis-ultrafast", "dis-medium")
SMALL: dict[str, Any] = {
    "repeats": 1,
    "only": NAMES,
    "sizes": ("nano", "ti"),
    "frame_size": (64, 96),
    "scenes": 2,
}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("pairs")
    write_pair(folder, "slow", (0.5, 0.0))
    write_pair(folder, "fast", (2.0, -1.0))
    threads = torch.get_num_threads(), cv2.getNumThreads()
    result = benchmark_motion(folder, **SMALL)
    assert (torch.get_num_threads(), cv2.getNumThreads()) == threads
    return result


def test_it_says_what_was_asked_at_the_top_level(measured: dict[str, Any]) -> None:
    assert json.loads(json.dumps(measured, allow_nan=False)) == measured
    for key in ("targets_share_of_step", "targets_share_of_step_b", "hog_share_of_step"):
        assert measured[key] > 0
    for key in ("seed_error", "within_px", "visibility", "estimators", "ms_per_clip", "flow_epe"):
        assert list(measured[key]) == sorted(NAMES, key=ESTIMATORS.index)
    assert list(measured["targets"]) == ["mme", "tracks", *MAKERS]
    row = measured["targets"]["mme"]
    assert row["share_of_step"] == measured["targets_share_of_step"]
    assert row["share_of_step_b"] == measured["targets_share_of_step_b"]
    assert measured["hog_share_of_step"] == measured["targets"]["trajectory_hog"]["share_of_step"]
    for name in NAMES:
        seconds = measured["estimators"][name]["seconds"]
        assert measured["ms_per_clip"][name] == pytest.approx(1e3 * seconds)
    assert list(measured["camera"]) == ["exact", "dis", "dis-fast"]
    assert measured["gpu"] is None or measured["gpu"]["batch"] == motion.GPU_BATCH


def test_tracks_are_judged_by_range_length_and_distance(measured: dict[str, Any]) -> None:
    lengths = [str(length) for length in LENGTHS]
    for name in NAMES:
        for kind in RANGES:
            assert list(measured["seed_error"][name][kind]) == lengths
            assert list(measured["within_px"][name][kind]) == lengths
            for length in lengths:
                assert list(measured["within_px"][name][kind][length]) == ["1", "2", "4"]
        scores = measured["visibility"][name]
        keys = ["precision", "recall", "hidden_precision", "hidden_recall"]
        assert list(scores) == [*keys, "frame"]
        assert list(scores["frame"]) == keys
    motion = measured["seed_motion"]["sub-pixel"]["6"]
    assert 0 < measured["seed_error"]["dis-medium"]["sub-pixel"]["6"] < 6 * motion["mean"]


def test_flow_errors_are_those_of_the_pairs(measured: dict[str, Any]) -> None:
    """Pairs and truth that agree: small errors; no motion would be wrong by 0.5 and 2.2 px."""
    for name in NAMES:
        for key in ("flow_epe", "flow_epe_seeds"):
            assert list(measured[key][name]) == ["fast", "slow"]
            assert 0 < measured[key][name]["slow"] < 0.35
            assert 0 < measured[key][name]["fast"] < 0.7
        assert list(measured["flow_outliers"][name]["fast"]) == ["1", "3"]


def test_costs_are_shares_of_both_steps() -> None:
    names = ("tracks", *MAKERS, *NAMES)
    cost = {name: [0.5, 0.5, 0.5] for name in names}
    cost |= {"step": [2.0, 4.0, 4.0], "step_b": [20.0, 10.0, 10.0], "mme": [0.2, 0.2, 0.2]}
    cost |= {"trajectory_hog": [0.1, 0.1, 0.4]}
    found = motion._costs(cost, NAMES)
    assert found["targets_share_of_step"] == pytest.approx(0.05)
    assert found["targets_share_of_step_b"] == pytest.approx(0.02)
    assert found["hog_share_of_step"] == pytest.approx(0.05)
    assert found["targets"]["hog"]["share_of_step"] == pytest.approx(0.125)
    assert found["targets"]["trajectory_hog"]["seconds"] == pytest.approx(0.1)
    assert found["ms_per_clip"] == pytest.approx(dict.fromkeys(NAMES, 500.0))
    assert (found["step_seconds"], found["step_seconds_b"]) == (4.0, 10.0)


def test_estimators_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(name: FlowName, weights: Path | None = None) -> FlowEstimator:
        if name == "tvl1":
            raise ConfigError("no contrib package")
        if name == "codec":
            raise ImportError("no codec")
        if name == "raft":
            raise ConfigError(f"no RAFT in {weights}")
        return make_flow("farneback")

    monkeypatch.setattr(motion, "make_flow", make)
    found, missing = find_estimators()
    assert list(found) == [name for name in ESTIMATORS if name not in {"tvl1", "codec", "raft"}]
    assert missing == {
        "tvl1": "no contrib package",
        "raft": "flow raft needs torchvision, and its weights: --weights FILE",
        "codec": "no codec",
    }
    found, missing = find_estimators(["batched", "dis-fast"])
    assert list(found) == ["dis-fast", "batched"]
    assert missing == {}
    with pytest.raises(ConfigError, match="tvl1 cannot be used: no contrib package"):
        find_estimators(["dis-fast", "tvl1"])
    with pytest.raises(ConfigError, match=r"raft cannot be used: no RAFT in a\.pth"):
        find_estimators(weights=Path("a.pth"))
    with pytest.raises(ConfigError, match=r"raft cannot be used: .*--weights FILE"):
        find_estimators(["raft"])
    with pytest.raises(
        ConfigError, match="'exact' is no estimator that can be judged; use dis, dis-"
    ):
        find_estimators(["exact"])


def test_the_way_of_the_gpu_runs_on_any_device() -> None:
    found = gpu_figures("nano", (64, 96), 1, torch.device("cpu"), 1)
    assert found["device"] == "cpu"
    assert found["targets_share_of_step"] > 0
    assert found["clips_per_second"] == pytest.approx(1e3 / found["ms_per_clip"])


def shown(result: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> str:
    print_table(result)
    printed = capsys.readouterr().out
    assert max(len(line) for line in printed.splitlines()) <= 100
    assert "…" not in printed
    return printed


def test_tables_show_all(measured: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    gpu = {"device": "A GPU", "batch": 64, "size": "b", "step_seconds": 0.5}
    gpu |= {"targets_share_of_step": 0.123, "clips_per_second": 321.0, "ms_per_clip": 3.1}
    printed = shown(measured | {"gpu": gpu, "missing": {"tvl1": "no [contrib]"}}, capsys)
    for text in (*NAMES, *RANGES, "all of recipe mme", "trajectory_hof (after tracks)", "slow"):
        assert text in printed
    assert "tvl1: not measured: no [contrib]" in printed
    assert "On A GPU" in printed
    assert "12.3%" in printed
    ends = (measured[key]["dis-medium"]["fast"] for key in ("flow_epe", "flow_epe_seeds"))
    assert " / ".join(f"{error:.2f}" for error in ends) in printed
    assert f"{measured['camera']['dis-fast']['after']:.3f}" in printed


def test_tables_say_what_was_not_measured(
    measured: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    without: dict[str, Any] = {
        "flow_epe": {},
        "flow_epe_seeds": {},
        "flow_outliers": {},
        "gpu": None,
    }
    printed = shown(measured | without, capsys)
    assert "No pairs with known flow were given" in printed
    assert "not measured" in printed


def test_nothing_to_do_is_refused() -> None:
    with pytest.raises(ConfigError, match="repeats 0 and scenes 1"):
        benchmark_motion(None, repeats=0, scenes=1)
