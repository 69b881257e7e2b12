"""How much features say about labels: probes of several kinds over one or more splits.

- all settings of a grid (learning rates and weight decays) are fitted in one pass;
- one is chosen on a part of the training videos and fitted again on all of them: test videos choose
  nothing;
- the k nearest neighbours vote;
- the same with few labels a class, where that is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from m3video.config import ProbeConfig
from m3video.train.attentive import AttentiveProbe
from m3video.train.features import Features
from m3video.train.few_shot import FewShot
from m3video.train.linear import GridPoint, LinearProbe, NeighbourProbe, Probe
from m3video.train.progress import Counter, say
from m3video.train.splits import Split, check_shots, hold_out
from m3video.train.step import choose_device

KIND_NAMES = {"linear": "linear probe", "attentive": "attentive probe", "knn": "k-NN"}
"""What the kinds are called where they are shown, in this order."""


def evaluate_features(
    features: Features,
    splits: list[Split],
    *,
    names: Sequence[str],
    config: ProbeConfig,
    textures: Sequence[str] = (),
    console: Console | None = None,
) -> dict[str, Any]:
    """Probe features over one or more splits; every test video is counted once.

    Args:
        features: of all videos; with tokens where the attentive probe is asked for.
        splits: training and test positions, one pair a fold.
        names: of the C classes.
        config: the kinds, their grids, epochs, k and seed; the shots.
        textures: of every video, if accuracies of the linear probe are wanted for each of the test
            videos'.
        console: where progress goes, and what each kind measured as soon as it is known.

    Returns:
        See `m3video.train.probe.probe`.

    Raises:
        ConfigError: fewer than two groups to choose settings on, or fewer videos than shots.
    """
    classes = len(names)
    confusion: dict[str, Tensor] = {
        kind: torch.zeros(classes, classes, dtype=torch.int64) for kind in config.kinds
    }
    chosen: dict[str, list[dict[str, float]]] = {}
    by_texture: dict[str, list[bool]] = {}
    console = console or Console(quiet=True)
    check_shots(features.labels, splits, config.shots, names)
    tested = torch.cat([features.labels[test] for _, test in splits])
    few = FewShot(config, len(tested))
    for kind in config.kinds:
        fits = len(splits) * (1 + len(config.shots) * config.draws)
        with Counter(console, KIND_NAMES[kind], fits) as counter:
            for train, test in splits:
                probe = _probe(kind, features, train, classes, config)
                truth = features.labels[test]
                point = _choose(probe, train, features.groups, config.seed)
                predicted = probe.predict(train, test, point)
                counter.advance()
                confusion[kind].index_put_(
                    (truth, predicted), torch.ones_like(truth), accumulate=True
                )
                if point is not None:
                    setting = {"lr": point.lr, "weight_decay": point.weight_decay}
                    chosen.setdefault(kind, []).append(setting)
                if textures and kind == "linear":
                    right = (predicted == truth).tolist()
                    for row, hit in zip(test.tolist(), right, strict=True):
                        by_texture.setdefault(textures[row], []).append(hit)
                few.add(kind, probe, features.labels, (train, test), counter)
        say(console, _measured(kind, confusion[kind], few))
    result: dict[str, Any] = {
        "classes": classes,
        "chance": float(tested.bincount().max()) / len(tested),
        **{kind: float(found.diagonal().sum()) / len(tested) for kind, found in confusion.items()},
        "clips": {"train": len(splits[0][0]), "test": len(tested)},
    }
    if "linear" in confusion:
        result |= {"chosen": chosen["linear"], "confusion": confusion["linear"].tolist()}
    if "attentive" in confusion:
        result |= {
            "attentive_chosen": chosen["attentive"],
            "attentive_confusion": confusion["attentive"].tolist(),
        }
    if by_texture:
        result["by_texture"] = {name: fmean(hits) for name, hits in by_texture.items()}
    if config.shots:
        result["few_shot"] = few.result()
    return result


def _measured(kind: str, confusion: Tensor, few: FewShot) -> str:
    """The accuracies of a kind in one line."""
    right = float(confusion.diagonal().sum()) / float(confusion.sum())
    shots = few.result().get(kind, {})
    parts = [f"{count} a class {100 * found['mean']:.1f} %" for count, found in shots.items()]
    return f"{KIND_NAMES[kind]}: {', '.join([f'{100 * right:.1f} %', *parts])}"


def _probe(
    kind: str, features: Features, train: Tensor, classes: int, config: ProbeConfig
) -> Probe:
    """A probe of one kind; all training videos standardise features."""
    if kind == "attentive":
        assert features.tokens is not None
        assert features.clips is not None
        return AttentiveProbe(
            features.tokens,
            features.clips,
            features.labels,
            classes=classes,
            config=config,
            device=choose_device(config.device),
        )
    mean, deviation = features.values[train].mean(0), features.values[train].std(0)
    values = (features.values - mean) / (deviation + 1e-6)
    if kind == "linear":
        return LinearProbe(values, features.labels, classes=classes, config=config)
    return NeighbourProbe(values, features.labels, classes=classes, config=config)


def _choose(probe: Probe, train: Tensor, groups: list[str] | None, seed: int) -> GridPoint | None:
    """The settings, chosen on a fifth of the training videos, of whole groups."""
    if not probe.grid:
        return None
    names = [str(i) for i in range(len(train))]
    if groups is not None:
        names = [groups[i] for i in train.tolist()]
    kept, held = hold_out(names, seed)
    return probe.choose(train[kept], train[held])
