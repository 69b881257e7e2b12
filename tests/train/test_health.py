"""Effective rank and explained variance beside scipy and scikit-learn; the runs they warn of."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from sklearn.metrics import r2_score

from m3video.config import TrainConfig
from m3video.model.vit import VisionTransformer
from m3video.report.curves import metric_charts
from m3video.report.facts import read_metrics as read_columns
from m3video.targets.base import Target
from m3video.train.health import Health, effective_rank, measured, warnings
from m3video.train.pretrain import pretrain
from tests.train.test_prepare import first_clips
from tests.train.test_step import make_trainer
from tests.train.tiny import read_metrics, tiny_config


def test_effective_rank_is_that_of_centred_singular_values() -> None:
    features = torch.randn(12, 7, generator=torch.Generator().manual_seed(0)) * torch.arange(7) + 5
    values = np.linalg.svd(features.numpy() - features.numpy().mean(0), compute_uv=False)
    assert effective_rank(features).item() == pytest.approx(math.exp(entropy(values)), rel=1e-4)


def test_effective_rank_of_what_is_known() -> None:
    same = torch.full((8, 5), 0.3) * (1 + 1e-6 * torch.randn(8, 5))
    assert effective_rank(same).item() == 1
    assert effective_rank(torch.zeros(8, 5)).item() == 1
    line = torch.arange(8.0)[:, None] * torch.ones(5)
    assert effective_rank(line).item() == pytest.approx(1, abs=1e-3)
    corners = torch.cat((torch.eye(5), -torch.eye(5)))
    assert effective_rank(corners).item() == pytest.approx(5)
    assert effective_rank(torch.full((8, 5), math.nan)).isfinite()


def test_explained_variance_is_that_of_scikit_learn() -> None:
    """In two micro-batches, where some tokens are visible and some targets are not known."""
    draw = torch.Generator().manual_seed(1)
    values = torch.randn(4, 6, 3, generator=draw) * torch.tensor([1.0, 2, 3]) + 1
    predicted = values + 0.5 * torch.randn(4, 6, 3, generator=draw)
    decoded = torch.rand(4, 6, generator=draw) < 0.7
    valid = torch.rand(4, 6, 1, generator=draw) < 0.8
    known = decoded & valid[..., 0]
    expected = r2_score(values[known], predicted[known], multioutput="variance_weighted")
    loss = (values - predicted)[known].square().mean()
    values[~valid[..., 0]] = math.nan
    health = Health()
    for part in (slice(0, 1), slice(1, 4)):
        target = Target(values[part], valid[part])
        health.add(torch.zeros(1, 3), {"flow": target}, decoded[part])
    figures = health.figures({"flow": loss})
    assert figures["explained/flow"].item() == pytest.approx(expected, rel=1e-5)


def test_nothing_to_explain_is_no_number() -> None:
    health = Health()
    target = Target(torch.zeros(2, 4, 3), torch.ones(2, 4, 1, dtype=torch.bool))
    health.add(torch.zeros(2, 3), {"flow": target}, torch.ones(2, 4, dtype=torch.bool))
    assert health.figures({"flow": torch.zeros(())})["explained/flow"].isnan()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"epochs": 3}, [50, 100, 150]),
        ({"steps": 100_000}, [50, 100, 150]),
        ({"steps": 800}, [40, 80, 120, 160]),
        ({"steps": 6}, list(range(1, 161))),
        ({"epochs": 3, "log_every": 20}, [60, 120]),
    ],
)
def test_steps_that_are_measured_are_logged(settings: Any, expected: list[int]) -> None:
    train = TrainConfig(**settings)
    assert [step for step in range(1, 161) if measured(step, train)] == expected


def test_what_is_warned_of_and_when() -> None:
    poor = {"effective_rank": 1.5, "explained/flow": -0.2, "explained/pixel": math.nan}
    assert warnings(poor, 24, 100, 8) == {}
    assert list(warnings(poor, 25, 100, 8)) == ["collapse"]
    assert list(warnings(poor, 50, 100, 8)) == ["collapse", "nothing"]
    assert list(warnings(poor, 50, 100, 4)) == ["nothing"]
    fine = {"effective_rank": 2.5, "explained/flow": -0.2, "explained/pixel": 0.02}
    assert warnings(fine, 100, 100, 8) == {}
    assert warnings({}, 100, 100, 8) == {}
    assert warnings(poor, 99, 99, 8) == {}, "a trial"


def test_a_run_that_collapses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The encoder says the same of everything, as with weights of zero."""
    forward = VisionTransformer.forward

    def zeroed(self: VisionTransformer, *arguments: Any, **settings: Any) -> torch.Tensor:
        return 0 * forward(self, *arguments, **settings)

    monkeypatch.setattr(VisionTransformer, "forward", zeroed)
    monkeypatch.setattr("m3video.train.health.LEAST_STEPS", 2)
    run = pretrain(tiny_config(tmp_path, train={"batch": 8, "steps": 2}))
    assert [line["effective_rank"] for line in read_metrics(run)] == [1, 1]
    shown = capsys.readouterr().err
    assert shown.count("the features have collapsed: those of 8 clips have an effective rank") == 1


def test_a_run_that_learns_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("m3video.train.health.LEAST_STEPS", 6)
    run = pretrain(tiny_config(tmp_path, train={"lr": 1e-9, "min_lr": 0}))
    assert "step 3 of 6: nothing is learned yet" in capsys.readouterr().err
    assert all(line["explained/trajectory"] < 0.01 for line in read_metrics(run))


def test_the_page_shows_what_was_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = pretrain(tiny_config(tmp_path, train={"batch": 8, "log_every": 2}))
    assert "collapsed" not in capsys.readouterr().err
    assert all(2 < line["effective_rank"] <= 7 for line in read_metrics(run))
    columns = read_columns(run / "metrics.jsonl")
    charts = {chart.title: chart for chart in metric_charts(columns, {"trajectory": "Loss"})}
    assert list(charts["Effective rank of the features"].steps) == [2, 4, 6]
    assert list(charts["Explained of trajectory hog"].steps) == [2, 4, 6]


def test_what_is_learned_by_heart_is_explained(tmp_path: Path) -> None:
    """One batch again and again: first worse than the mean, then better."""
    config = tiny_config(tmp_path, train={"steps": 100})
    clips, trainer = first_clips(config), make_trainer(config)
    shares = []
    for step in range(1, 91):
        health = trainer.step(clips, step, 2e-3).health
        assert bool(health) == (step % 5 == 0)
        if health:
            shares.append(health["explained/trajectory"])
    assert shares[0] < 0 < 0.2 < shares[-1] < 1
