"""How much features say about labels: linear probes, nearest neighbours, cross-validation.

- all linear probes of a grid of learning rates and weight decays are fitted in one pass;
- one is chosen on a part of the training videos and fitted again on all of them: test videos choose
  nothing;
- the k nearest neighbours vote.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from m3video.config import ProbeConfig
from m3video.errors import ConfigError
from m3video.train.features import Features

Split = tuple[Tensor, Tensor]  # positions of the training and of the test videos


@dataclass(frozen=True)
class LinearChoice:
    """The chosen member of the grid."""

    lr: float
    weight_decay: float


def evaluate_features(
    features: Features,
    splits: list[Split],
    *,
    classes: int,
    config: ProbeConfig,
    textures: Sequence[str] = (),
) -> dict[str, Any]:
    """Probe features over one or more splits; every test video is counted once.

    Args:
        features: of all videos.
        splits: training and test positions, one pair a fold.
        classes: C.
        config: the grid, epochs, k and seed.
        textures: of every video, if accuracies are wanted for each of the test videos'.
    """
    confusion = torch.zeros(classes, classes, dtype=torch.int64)
    neighbour_hits = 0
    chosen = []
    by_texture: dict[str, list[bool]] = {}
    for train, test in splits:
        mean, deviation = features.values[train].mean(0), features.values[train].std(0)
        values = (features.values - mean) / (deviation + 1e-6)
        groups = features.groups
        choice, predicted = linear_probe(
            values[train],
            features.labels[train],
            values[test],
            classes=classes,
            config=config,
            groups=None if groups is None else [groups[i] for i in train.tolist()],
        )
        chosen.append({"lr": choice.lr, "weight_decay": choice.weight_decay})
        truth = features.labels[test]
        confusion.index_put_((truth, predicted), torch.ones_like(truth), accumulate=True)
        nearest = nearest_neighbours(
            values[train],
            features.labels[train],
            values[test],
            classes=classes,
            k=config.neighbours,
        )
        neighbour_hits += int((nearest == truth).sum())
        if textures:
            for row, right in zip(test.tolist(), (predicted == truth).tolist(), strict=True):
                by_texture.setdefault(textures[row], []).append(right)
    total = int(confusion.sum())
    return {
        "classes": classes,
        "chance": float(confusion.sum(1).max()) / total,
        "linear": float(confusion.diagonal().sum()) / total,
        "knn": neighbour_hits / total,
        "clips": {"train": len(splits[0][0]), "test": total},
        "chosen": chosen,
        "confusion": confusion.tolist(),
        **({"by_texture": {k: fmean(hits) for k, hits in by_texture.items()}} if textures else {}),
    }


def linear_probe(
    train: Tensor,
    labels: Tensor,
    test: Tensor,
    *,
    classes: int,
    config: ProbeConfig,
    groups: list[str] | None = None,
) -> tuple[LinearChoice, Tensor]:
    """Choose among the grid on a fifth of the training videos, fit again on all, and predict.

    Args:
        train: float32 [V, D], standardised.
        labels: int64 [V].
        test: float32 [U, D].
        classes: C.
        config: the grid, epochs and seed.
        groups: what each training video belongs to; the fifth is one of whole groups.

    Returns:
        The choice and the predicted classes, int64 [U].

    Raises:
        ConfigError: fewer than two groups.
    """
    grid = [LinearChoice(*pair) for pair in product(config.lr, config.weight_decay)]
    kept, held = _hold_out(groups or [str(i) for i in range(len(train))], config.seed)
    heads = fit_linear(train[kept], labels[kept], grid, classes=classes, config=config)
    hits = [(head(train[held]).argmax(1) == labels[held]).float().mean() for head in heads]
    best = grid[int(torch.stack(hits).argmax())]
    (head,) = fit_linear(train, labels, [best], classes=classes, config=config)
    return best, head(test).argmax(1)


def _hold_out(groups: list[str], seed: int) -> Split:
    """Positions of four fifths and of one fifth of the groups, at least one group each."""
    names = sorted(set(groups))
    if len(names) < 2:
        raise ConfigError(
            "only one group of training videos: settings cannot be chosen on others; "
            "give more videos, or another --group"
        )
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(names), generator=generator).tolist()
    chosen = {names[i] for i in order[: max(1, len(names) // 5)]}
    inside = torch.tensor([name in chosen for name in groups])
    return (~inside).nonzero().squeeze(1), inside.nonzero().squeeze(1)


def fit_linear(
    values: Tensor, labels: Tensor, grid: list[LinearChoice], *, classes: int, config: ProbeConfig
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
    for _ in range(config.epochs):
        order = torch.randperm(len(values), generator=generator)
        for rows in torch.split(order, batch):
            losses = [
                nn.functional.cross_entropy(head(values[rows]), labels[rows]) for head in heads
            ]
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


def folds(labels: Tensor, groups: list[str] | None, count: int, seed: int) -> list[Split]:
    """Cross-validation: every video is tested once; groups stay together, labels are spread evenly.

    Groups (single videos when there are none) are dealt out in random order, largest first, each to
    the fold that has the fewest videos of its labels so far, then the fewest in all.

    Raises:
        ConfigError: fewer groups than folds.
    """
    names = groups if groups is not None else [str(i) for i in range(len(labels))]
    members: dict[str, list[int]] = {}
    for position, name in enumerate(names):
        members.setdefault(name, []).append(position)
    if len(members) < count:
        raise ConfigError(
            f"folds {count}: there are only {len(members)} groups of videos; use fewer folds"
        )
    generator = torch.Generator().manual_seed(seed)
    shuffled = [sorted(members)[int(i)] for i in torch.randperm(len(members), generator=generator)]
    shuffled.sort(key=lambda name: -len(members[name]))
    held = torch.zeros(count, int(labels.max()) + 1)
    assigned = torch.zeros(len(labels), dtype=torch.int64)
    for name in shuffled:
        rows = labels[members[name]]
        load = held[:, rows].sum(1) + held.sum(1) / (1 + held.sum())
        fold = int(load.argmin())
        held[fold].index_add_(0, rows, torch.ones(len(rows)))
        assigned[members[name]] = fold
    return [
        ((assigned != fold).nonzero().squeeze(1), (assigned == fold).nonzero().squeeze(1))
        for fold in range(count)
    ]
