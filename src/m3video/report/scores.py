"""How much of each target the model explains, in the hidden tokens of some clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Outcome:
    """One target of one clip: the truth and what the model says of it."""

    true: Tensor
    """float32 [N, D]."""
    predicted: Tensor
    """float32 [N, D]; 0 where visible."""
    valid: Tensor
    """bool [N, D]: where the truth is known."""
    hidden: Tensor
    """bool [N]."""

    @property
    def scored(self) -> Tensor:
        """bool [N, D]: known and hidden."""
        return self.valid & self.hidden[:, None]

    @property
    def squared_error(self) -> Tensor:
        """float64 [N, D]; 0 where not scored."""
        missed = (self.predicted - self.true).double().square()
        return torch.where(self.scored, missed, 0)


@dataclass(frozen=True)
class EndPointError:
    """Mean distances in pixels between where things are and where they are said to be."""

    predicted: float
    still: float
    """Of the guess that nothing moves."""
    count: int
    """Points, or cells, that were compared."""


@dataclass(frozen=True)
class Score:
    """One target over the hidden tokens of several clips."""

    error: float
    """Mean squared error."""
    variance: float
    """Mean squared error of predicting the mean: that of each of the D numbers over these tokens,
    which is the best that can be said without looking at the clip."""
    tokens: int
    """Hidden tokens with at least one known number."""

    @property
    def explained(self) -> float | None:
        """1 − error / variance; below 0 is worse than the mean; None where nothing varies."""
        return 1 - self.error / self.variance if self.variance > 0 else None


def score(outcomes: Sequence[Outcome]) -> Score | None:
    """The score of one target over clips; None if nothing is known of any hidden token."""
    scored = torch.cat([outcome.scored for outcome in outcomes])
    count = int(scored.sum())
    if not count:
        return None
    true = torch.cat([outcome.true for outcome in outcomes]).double()
    total = torch.where(scored, true, 0).sum(dim=0)
    mean = total / scored.sum(dim=0).clamp(min=1)
    spread = torch.where(scored, (true - mean).square(), 0).sum()
    error = sum(float(outcome.squared_error.sum()) for outcome in outcomes)
    return Score(error / count, float(spread) / count, int(scored.any(dim=1).sum()))


def token_errors(outcome: Outcome, variance: float) -> NDArray[np.float64]:
    """Mean squared error of each token in units of `variance`: [N], NaN where nothing is scored."""
    count = outcome.scored.sum(dim=1)
    mean = outcome.squared_error.sum(dim=1) / count.clamp(min=1)
    relative = (mean / max(variance, 1e-12)).numpy()
    return np.where(count.numpy() > 0, relative, np.nan)


def end_point_error(
    true: NDArray[np.floating], predicted: NDArray[np.floating]
) -> EndPointError | None:
    """Mean distance of [n, 2] predicted from true displacements; None if there are none."""
    if not len(true):
        return None
    missed = np.linalg.norm(predicted - true, axis=-1).mean()
    moved = np.linalg.norm(true, axis=-1).mean()
    return EndPointError(float(missed), float(moved), len(true))


def pooled(errors: Sequence[EndPointError | None]) -> EndPointError | None:
    """The error over the points of all clips; None if there are none."""
    known = [error for error in errors if error is not None]
    count = sum(error.count for error in known)
    if not count:
        return None
    return EndPointError(
        sum(error.predicted * error.count for error in known) / count,
        sum(error.still * error.count for error in known) / count,
        count,
    )


def scores(outcomes: Sequence[Mapping[str, Outcome]]) -> dict[str, Score]:
    """The score of each target over clips, those without any known number left out."""
    names = list(outcomes[0]) if outcomes else []
    found = {name: score([clip[name] for clip in outcomes]) for name in names}
    return {name: value for name, value in found.items() if value is not None}
