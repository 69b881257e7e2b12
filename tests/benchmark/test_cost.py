"""How cost is taken: turns and shares. No time is asserted."""

from __future__ import annotations

import pytest

from m3video.benchmark import cost
from m3video.benchmark.cost import _all_targets, mme_config, summarise
from m3video.targets import MAKERS


def test_shares_are_of_the_step_turn_by_turn() -> None:
    seconds = {"step": [2.0, 4.0, 4.0], "step_b": [8.0, 8.0, 8.0], "mme": [0.2, 0.2, 0.2]}
    assert summarise(seconds)["mme"] == pytest.approx({"seconds": 0.2, "share_of_step": 0.05})
    assert summarise(seconds, "step_b")["mme"]["share_of_step"] == pytest.approx(0.025)


def test_what_was_timed_once_is_compared_with_the_first_step() -> None:
    found = summarise({"step": [2.0, 4.0, 4.0], "slow": [6.0]})["slow"]
    assert found == pytest.approx({"seconds": 6.0, "share_of_step": 3.0})


def test_turns_warm_up_first_and_wait_no_longer_than_needed_for_the_slow() -> None:
    now = 0.0
    calls: list[str] = []

    def takes(name: str, seconds: float) -> cost.Timed:
        def run() -> None:
            nonlocal now
            now += seconds * (100 if name not in calls else 1)  # the first time compiles
            calls.append(name)

        return run

    timed = {"quick": takes("quick", 1.0), "slow": takes("slow", 2 * cost._PATIENCE)}
    found = cost._take_turns(timed, 3, lambda: now)
    assert found == {"quick": [1.0, 1.0, 1.0], "slow": [2 * cost._PATIENCE]}
    assert calls == ["quick", "slow", "quick", "slow", "quick", "quick"]


def test_every_target_is_timed_whatever_the_recipe_trains() -> None:
    config = mme_config("nano", (64, 96))
    assert list(config.targets.active) == ["trajectory", "trajectory_hog"]
    assert list(_all_targets(config.targets).active) == list(MAKERS)
    assert _all_targets(config.targets).hog.colour == "rgb"
