"""Histograms come back from the order of each target to the place, step and bin they are of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from m3video.motion.trajectory import seed_grid
from m3video.recipes import recipe_config
from m3video.report.histograms import histograms
from m3video.report.scores import Outcome

TOKENS = (4, 4, 6)


def config_of(**targets: Any) -> Any:
    changes: dict[str, Any] = {"clip": {"size": (32, 48)}, "targets": targets}
    return recipe_config("mme-tiny", data="moving-shapes", out=Path("unused"), changes=changes)


@pytest.mark.parametrize(
    ("name", "order", "settings"),
    [
        ("hog", "cb", {"colour": "grey", "bins": 9}),
        ("hog", "kcb", {"colour": "rgb", "bins": 9}),
        ("hof", "cb", {"bins": 8}),
        ("mbh", "cab", {"bins": 8}),
        ("trajectory_hog", "csb", {"colour": "grey", "bins": 9}),
        ("trajectory_hog", "cskb", {"colour": "rgb", "bins": 9}),
        ("trajectory_hof", "csb", {"bins": 6}),
        ("trajectory_mbh", "csab", {"bins": 5}),
    ],
)
def test_each_number_is_found_where_its_target_puts_it(
    name: str, order: str, settings: dict[str, Any]
) -> None:
    config = config_of(**{name: {"weight": 1.0, "cell": 4, **settings}})
    still = name.endswith("hof")
    bins = settings["bins"] + still
    # c cell or point, s step, k colour channel, a axis, b bin
    sizes = {"c": 4, "s": 6, "k": 3, "a": 2, "b": bins}
    shape = [sizes[letter] for letter in order]
    at = {"c": 3, "s": 3, "k": 1, "a": 1, "b": 4}
    values = torch.zeros(96, *shape)
    token = 1 * 24 + 2 * 6 + 5  # second tubelet, third row, last column
    values[(token, *(at[letter] for letter in order))] = 3.0
    flat = values.flatten(1)
    hidden = torch.zeros(96, dtype=torch.bool)
    hidden[token] = True
    found = histograms(config, name, Outcome(flat, 0.5 * flat, flat >= 0, hidden))
    step = 3 if "s" in order else 0
    part = 1 if "a" in order else 0
    place = (2 * 2 + 1) * 12 + 5 * 2 + 1  # cell 3 of a 2 × 2 patch is the lower right one
    height = 1.0 if "k" in order else 3.0  # channels are averaged
    assert found.kind == name[-3:]
    assert np.argwhere(found.true).tolist() == [[1, step, place, part, 4]]
    assert found.true[1, step, place, part, 4] == pytest.approx(height)
    assert found.predicted[1, step, place, part, 4] == pytest.approx(height / 2)
    assert found.hidden[1, place]
    assert found.hidden.sum() == 4
    assert found.spacing == 4
    np.testing.assert_allclose(found.centres, seed_grid(32, 48, 4).reshape(-1, 2))


def test_steps_that_are_not_known_are_not_shown() -> None:
    config = config_of(trajectory_hof={"weight": 1.0, "cell": 4})
    valid = torch.ones(96, 4, 6, 9, dtype=torch.bool)
    valid[0, 1, 4:] = False
    flat = torch.zeros(96, 4 * 6 * 9)
    outcome = Outcome(flat, flat, valid.flatten(1), torch.ones(96, dtype=torch.bool))
    shown = histograms(config, "trajectory_hof", outcome).valid
    assert np.argwhere(~shown).tolist() == [[0, 4, 1], [0, 5, 1]]


def test_negative_predictions_are_drawn_as_nothing() -> None:
    config = config_of(hof={"weight": 1.0, "cell": 4})
    flat = torch.ones(96, 36)
    hidden = torch.ones(96, dtype=torch.bool)
    found = histograms(config, "hof", Outcome(flat, -flat, flat > 0, hidden))
    assert found.predicted.max() == 0
    assert found.strongest == 1
