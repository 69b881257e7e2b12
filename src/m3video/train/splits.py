"""Which videos are learned from and which are tested: folds, held-out parts, few labels a class."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from m3video.errors import ConfigError
from m3video.video.sampling import sample_generator

Split = tuple[Tensor, Tensor]  # positions of the training and of the test videos


def hold_out(groups: list[str], seed: int) -> Split:
    """Positions of four fifths and of one fifth of the groups, at least one group each.

    Raises:
        ConfigError: fewer than two groups.
    """
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


def check_shots(
    labels: Tensor, splits: Sequence[Split], shots: Sequence[int], names: Sequence[str]
) -> None:
    """Refuse more labels a class than there are.

    Args:
        labels: int64 [V].
        splits: training and test positions.
        shots: labels a class.
        names: of the classes.

    Raises:
        ConfigError: a class has fewer training videos.
    """
    if not shots:
        return
    for train, _ in splits:
        counts = torch.bincount(labels[train], minlength=len(names))
        rarest = int(counts.argmin())
        if counts[rarest] < max(shots):
            raise ConfigError(
                f"shots {max(shots)}: label {names[rarest]!r} has only {int(counts[rarest])} "
                "training videos; use fewer shots"
            )


def draw_shots(labels: Tensor, train: Tensor, shots: int, draw: int, seed: int) -> Tensor:
    """Exactly `shots` training videos of each class that occurs among them, int64 positions.

    A draw of more shots holds the same draw of fewer. Other draws use other seeds; their videos may
    meet, as those of any two draws do.

    Args:
        labels: int64 [V].
        train: the positions to draw from.
        shots: n.
        draw: number of the draw.
        seed: of all draws.
    """
    order = torch.randperm(len(train), generator=sample_generator(seed, 0, draw))
    shuffled = train[order]
    picked = [
        shuffled[labels[shuffled] == label][:shots] for label in sorted(set(labels[train].tolist()))
    ]
    return torch.cat(picked).sort().values


def hold_out_each(labels: Tensor, few: Tensor) -> Split:
    """Of few videos, the first fifth of each class (at least one) is held out: (kept, held)."""
    held = torch.zeros(len(few), dtype=torch.bool)
    for label in sorted(set(labels[few].tolist())):
        rows = (labels[few] == label).nonzero().squeeze(1)
        held[rows[: max(1, len(rows) // 5)]] = True
    return few[~held], few[held]
