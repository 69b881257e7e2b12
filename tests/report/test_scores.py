"""Scores against numpy's moments and numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from m3video.report.scores import (
    EndPointError,
    Outcome,
    end_point_error,
    pooled,
    score,
    scores,
    token_errors,
)


def outcome(seed: int, tokens: int = 40, dim: int = 3, error: float = 0.5) -> Outcome:
    generator = torch.Generator().manual_seed(seed)
    scale = torch.tensor([0.1, 1.0, 5.0])[:dim]
    true = torch.randn(tokens, dim, generator=generator) * scale + 7
    noise = torch.randn(tokens, dim, generator=generator) * error * scale
    hidden = torch.rand(tokens, generator=generator) < 0.7
    predicted = torch.where(hidden[:, None], true + noise, 0)
    valid = torch.ones(tokens, dim, dtype=torch.bool)
    return Outcome(true, predicted, valid, hidden)


def test_explained_is_r_squared_weighted_by_variance() -> None:
    clips = [outcome(0), outcome(1, tokens=25)]
    true = torch.cat([clip.true[clip.hidden] for clip in clips]).double().numpy()
    predicted = torch.cat([clip.predicted[clip.hidden] for clip in clips]).double().numpy()
    variance = true.var(axis=0)
    each = 1 - ((true - predicted) ** 2).mean(axis=0) / variance
    wanted = np.average(each, weights=variance)
    found = score(clips)
    assert found is not None
    assert found.explained == pytest.approx(wanted, abs=1e-6)
    assert found.tokens == sum(int(clip.hidden.sum()) for clip in clips)


def test_explained_is_one_for_the_truth_and_zero_for_the_mean() -> None:
    clip = outcome(0)
    known = score([Outcome(clip.true, clip.true, clip.valid, clip.hidden)])
    mean = clip.true[clip.hidden].mean(dim=0).expand_as(clip.true)
    middle = score([Outcome(clip.true, mean, clip.valid, clip.hidden)])
    assert known is not None
    assert known.explained == 1
    assert middle is not None
    assert middle.explained == pytest.approx(0, abs=1e-6)


def test_what_is_visible_or_unknown_does_not_count() -> None:
    clip = outcome(0)
    before = score([clip])
    clip.predicted[~clip.hidden] = 1e6
    assert score([clip]) == before
    first = int(clip.hidden.nonzero()[0])
    clip.valid[first, 0] = False
    once = score([clip])
    assert once != before
    clip.true[first, 0] = 1e6
    assert score([clip]) == once


def test_nothing_known_has_no_score_and_nothing_that_varies_is_not_explained() -> None:
    clip = outcome(0)
    assert score([Outcome(clip.true, clip.predicted, ~clip.valid, clip.hidden)]) is None
    still = torch.ones_like(clip.true)
    found = score([Outcome(still, still, clip.valid, clip.hidden)])
    assert found is not None
    assert found.explained is None
    nothing = Outcome(clip.true, clip.predicted, ~clip.valid, clip.hidden)
    assert set(scores([{"a": clip, "b": nothing}])) == {"a"}
    assert scores([]) == {}


def test_errors_of_tokens_average_to_what_is_not_explained() -> None:
    clip = outcome(0)
    found = score([clip])
    assert found is not None
    assert found.explained is not None
    errors = token_errors(clip, found.variance)
    assert (np.isfinite(errors) == clip.hidden.numpy()).all()
    assert np.nanmean(errors) == pytest.approx(1 - found.explained)


def test_end_point_errors_are_distances() -> None:
    true = np.array([[3.0, 4.0], [0.0, 0.0]])
    assert end_point_error(true, 0 * true) == EndPointError(2.5, 2.5, 2)
    assert end_point_error(true, true) == EndPointError(0.0, 2.5, 2)
    assert end_point_error(true[:0], true[:0]) is None


def test_pooled_errors_count_points_and_not_clips() -> None:
    one, other = EndPointError(1.0, 2.0, 1), EndPointError(4.0, 5.0, 2)
    assert pooled([one, None, other]) == EndPointError(3.0, 4.0, 3)
    assert pooled([None]) is None
