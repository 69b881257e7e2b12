"""Classifiers of one feature a video: linear ones, many settings in one pass, and neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Protocol

import torch
from torch import Tensor, nn

from m3video.config import ProbeConfig
from m3video.train.batches import threads_for


@dataclass(frozen=True)
class GridPoint:
    """A member of a grid of settings."""

    lr: float
    weight_decay: float


def make_grid(rates: Sequence[float], decays: Sequence[float]) -> list[GridPoint]:
    """All pairs, rates first."""
    return [GridPoint(rate, decay) for rate, decay in product(rates, decays)]


class Probe(Protocol):
    """A kind of classifier of frozen features. All positions are those of videos, int64.

    Attributes:
        grid: the settings to choose among; empty where there is nothing to choose.
    """

    grid: list[GridPoint]

    def choose(self, kept: Tensor, held: Tensor) -> GridPoint:
        """The member of the grid that, fitted to `kept`, is right about most of `held`."""
        ...

    def predict(self, train: Tensor, test: Tensor, point: GridPoint | None) -> Tensor:
        """Fit to `train` and tell the classes of `test`, int64 [U]."""
        ...


class LinearProbe:
    """A linear classifier of standardised features.

    Args:
        values: float32 [V, D], standardised.
        labels: int64 [V].
        classes: C.
        config: the grid, epochs and seed.
    """

    def __init__(
        self, values: Tensor, labels: Tensor, *, classes: int, config: ProbeConfig
    ) -> None:
        self.values, self.labels = values, labels
        self.classes, self.config = classes, config
        self.grid = make_grid(config.lr, config.weight_decay)

    def choose(self, kept: Tensor, held: Tensor) -> GridPoint:
        """See `Probe`; the whole grid is fitted in one pass."""
        heads = self._fit(kept, self.grid)
        truth = self.labels[held]
        hits = [(head(self.values[held]).argmax(1) == truth).float().mean() for head in heads]
        return self.grid[int(torch.stack(hits).argmax())]

    def predict(self, train: Tensor, test: Tensor, point: GridPoint | None) -> Tensor:
        """See `Probe`."""
        assert point is not None
        (head,) = self._fit(train, [point])
        found: Tensor = head(self.values[test]).argmax(1)
        return found

    def _fit(self, rows: Tensor, grid: list[GridPoint]) -> list[nn.Linear]:
        return fit_linear(
            self.values[rows], self.labels[rows], grid, classes=self.classes, config=self.config
        )


class NeighbourProbe:
    """The vote of the nearest neighbours; nothing is to be chosen.

    Args:
        values: float32 [V, D], standardised.
        labels: int64 [V].
        classes: C.
        config: k.
    """

    def __init__(
        self, values: Tensor, labels: Tensor, *, classes: int, config: ProbeConfig
    ) -> None:
        self.values, self.labels = values, labels
        self.classes, self.k = classes, config.neighbours
        self.grid: list[GridPoint] = []

    def choose(self, kept: Tensor, held: Tensor) -> GridPoint:
        """There is no grid: an error of the caller."""
        raise ValueError("nearest neighbours have no settings to choose among")

    def predict(self, train: Tensor, test: Tensor, point: GridPoint | None) -> Tensor:
        """See `Probe`."""
        return nearest_neighbours(
            self.values[train],
            self.labels[train],
            self.values[test],
            classes=self.classes,
            k=self.k,
        )


def fit_linear(
    values: Tensor, labels: Tensor, grid: list[GridPoint], *, classes: int, config: ProbeConfig
) -> list[nn.Linear]:
    """Fit one linear classifier a grid point, all in one pass over the features.

    Args:
        values: float32 [V, D], standardised.
        labels: int64 [V].
        grid: learning rates and weight decays.
        classes: C.
        config: epochs and seed.
    """
    heads = [nn.Linear(values.shape[1], classes) for _ in grid]
    for head in heads:
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
    groups = [
        {"params": list(head.parameters()), "lr": point.lr, "weight_decay": point.weight_decay}
        for head, point in zip(heads, grid, strict=True)
    ]
    optimiser = torch.optim.SGD(groups, momentum=0.9, foreach=True)
    batch = min(256, len(values))
    steps = config.epochs * -(-len(values) // batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    generator = torch.Generator().manual_seed(config.seed)
    with threads_for(batch * values.shape[1] * classes):
        for _ in range(config.epochs):
            order = torch.randperm(len(values), generator=generator)
            for rows in torch.split(order, batch):
                some, truth = values[rows], labels[rows]
                losses = [nn.functional.cross_entropy(head(some), truth) for head in heads]
                optimiser.zero_grad()
                torch.autograd.backward(losses)
                optimiser.step()
                schedule.step()
    return [head.requires_grad_(False) for head in heads]


def nearest_neighbours(
    train: Tensor, labels: Tensor, test: Tensor, *, classes: int, k: int, temperature: float = 0.07
) -> Tensor:
    """Vote of the k nearest training videos by cosine, weighted by exp(similarity / temperature).

    The weighting is that of Wu et al. 2018 (instance discrimination, section 3.4).

    Args:
        train: float32 [V, D].
        labels: int64 [V].
        test: float32 [U, D].

    Returns:
        Predicted classes, int64 [U].
    """
    similarity = nn.functional.normalize(test, dim=1) @ nn.functional.normalize(train, dim=1).T
    top, index = similarity.topk(min(k, len(train)), dim=1)
    votes = torch.zeros(len(test), classes)
    votes.scatter_add_(1, labels[index], (top / temperature).exp())
    return votes.argmax(1)
