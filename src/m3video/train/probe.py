"""The probe: how much frozen features say about labels.

- encodes every labelled video once (`features.py`);
- splits by the manifest's column `split` (`test`, or `val` where there is no `test`), or by
  cross-validation over folds;
- fits all linear probes of a grid of learning rates and weight decays in one pass, chooses one on a
  part of the training videos, and fits that one again on all of them: test videos choose nothing;
- votes among the k nearest neighbours;
- writes one JSON file with accuracies between 0 and 1.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from m3video.config import ClipConfig, ProbeConfig
from m3video.errors import ConfigError
from m3video.model.checkpoint import load_encoder, write_json
from m3video.model.vit import VisionTransformer
from m3video.train.features import Features, extract_features
from m3video.train.step import choose_device
from m3video.video.loader import VideoClips
from m3video.video.manifest import Video, load_manifest
from m3video.video.moving_shapes import CLASSES, MovingShapes
from m3video.video.sampling import plan_clip

# A moving-shapes test set starts here, so that no clip that is trained on is ever tested.
_SHAPES_TEST_OFFSET = 1_000_000

Split = tuple[Tensor, Tensor]  # positions of the training and of the test videos


@dataclass(frozen=True)
class LinearChoice:
    """The chosen member of the grid."""

    lr: float
    weight_decay: float


def probe(config: ProbeConfig) -> dict[str, Any]:
    """Measure frozen features and write the result as JSON.

    Returns:
        data, init, untrained, classes, chance (share of the commonest class in the test videos),
        linear and knn (accuracies), clips {train, test} (videos in each part), chosen (lr and
        weight_decay a fold), confusion (rows: truth), labels, unreadable.

    Raises:
        ConfigError: no labels, too few videos to split, or `out` is a folder.
        CheckpointError: `init` holds no encoder.
    """
    encoder = load_encoder(config.init)
    path = _result_path(config)
    if path.is_dir():
        raise ConfigError(f"{path}: is a folder; give the name of a JSON file to write")
    if config.untrained:
        encoder = untrained_like(encoder, config.seed)
    if config.data == "moving-shapes":
        features, splits, labels = _shapes_features(encoder, config)
    else:
        features, splits, labels = _video_features(encoder, config)
    result = {
        "data": config.data,
        "init": str(config.init),
        "untrained": config.untrained,
        **evaluate_features(features, splits, classes=len(labels), config=config),
        "labels": list(labels),
        "unreadable": [list(entry) for entry in features.unreadable],
    }
    write_json(path, result)
    return result


def untrained_like(encoder: VisionTransformer, seed: int) -> VisionTransformer:
    """The same architecture with fresh weights. Seeds torch's global generator."""
    torch.manual_seed(seed)
    settings: dict[str, Any] = {
        **encoder.clip.model_dump(exclude={"stride"}),
        **encoder.architecture,
    }
    fresh = VisionTransformer(**settings)
    fresh.clip = encoder.clip
    return fresh.eval()


def evaluate_features(
    features: Features, splits: list[Split], *, classes: int, config: ProbeConfig
) -> dict[str, Any]:
    """Probe features over one or more splits; every test video is counted once.

    Args:
        features: of all videos.
        splits: training and test positions, one pair a fold.
        classes: C.
        config: the grid, epochs, k and seed.
    """
    confusion = torch.zeros(classes, classes, dtype=torch.int64)
    neighbour_hits = 0
    chosen = []
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
    total = int(confusion.sum())
    return {
        "classes": classes,
        "chance": float(confusion.sum(1).max()) / total,
        "linear": float(confusion.diagonal().sum()) / total,
        "knn": neighbour_hits / total,
        "clips": {"train": len(splits[0][0]), "test": total},
        "chosen": chosen,
        "confusion": confusion.tolist(),
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


def _video_features(
    encoder: VisionTransformer, config: ProbeConfig
) -> tuple[Features, list[Split], tuple[str, ...]]:
    manifest = load_manifest(
        config.data,
        workers=config.workers,
        labels_from_folders=True,
        decode=False,
        progress=True,
    )
    if len(manifest.labels) < 2 or any(video.label is None for video in manifest.videos):
        raise ConfigError(
            f"{config.data}: a probe needs videos of two or more labels: give class folders, "
            "or a manifest with a column `label`"
        )
    clip: ClipConfig = encoder.clip
    source = VideoClips(
        manifest, clip=clip, plan=plan_clip(clip, 0), augment=None, segments=config.segments
    )
    features = extract_features(
        encoder,
        source,
        clip=clip,
        segments=config.segments,
        batch=config.batch,
        workers=config.workers,
        device=choose_device(config.device),
    )
    skipped = [(str(entry.path), entry.reason) for entry in manifest.unreadable]
    videos = [manifest.videos[i] for i in features.videos.tolist()]
    features = replace(
        features, unreadable=skipped + features.unreadable, groups=_groups(videos, config)
    )
    return features, _splits(videos, features, config), manifest.labels


def _groups(videos: list[Video], config: ProbeConfig) -> list[str] | None:
    if config.group is None:
        return None
    if any(config.group not in video.extra for video in videos):
        raise ConfigError(
            f"{config.data}: no column {config.group!r} to group by; "
            f"there are: {', '.join(videos[0].extra) or 'none'}"
        )
    return [video.extra[config.group] for video in videos]


def _splits(videos: list[Video], features: Features, config: ProbeConfig) -> list[Split]:
    named = [video.extra.get("split", "") for video in videos]
    if any(named):
        tested = "test" if "test" in named else "val"
        train = torch.tensor([i for i, name in enumerate(named) if name == "train"])
        test = torch.tensor([i for i, name in enumerate(named) if name == tested])
        if not set(named) <= {"train", "val", "test"} or len(train) == 0 or len(test) == 0:
            found = ", ".join(repr(name) for name in sorted(set(named)))
            raise ConfigError(
                f"{config.data}: column split holds {found}; it must name `train` and `val` or "
                "`test` for every video"
            )
        return [(train, test)]
    return folds(features.labels, features.groups, config.folds, config.seed)


def _shapes_features(
    encoder: VisionTransformer, config: ProbeConfig
) -> tuple[Features, list[Split], tuple[str, ...]]:
    clip: ClipConfig = encoder.clip
    parts = []
    for count, offset in ((config.train_clips, 0), (config.test_clips, _SHAPES_TEST_OFFSET)):
        source = MovingShapes(
            clips=count,
            clip=clip,
            plan=plan_clip(clip, 0),
            texture=config.texture,
            fixed=True,
            offset=offset,
        )
        parts.append(
            extract_features(
                encoder,
                source,
                clip=clip,
                batch=config.batch,
                workers=config.workers,
                device=choose_device(config.device),
            )
        )
    train, test = parts
    count = len(train.labels)
    merged = Features(
        values=torch.cat([train.values, test.values]),
        labels=torch.cat([train.labels, test.labels]),
        videos=torch.cat([train.videos, test.videos + count]),
        unreadable=[],
    )
    split = (torch.arange(count), torch.arange(count, count + len(test.labels)))
    return merged, [split], CLASSES


def _result_path(config: ProbeConfig) -> Path:
    if config.out is not None:
        return config.out
    name = Path(config.data).resolve().stem if config.data != "moving-shapes" else config.data
    suffix = "-untrained" if config.untrained else ""
    return config.init / f"probe-{name}{suffix}.json"


def format_result(result: dict[str, Any]) -> str:
    """One line for the terminal."""
    return json.dumps({key: round(result[key], 4) for key in ("linear", "knn", "chance")})
