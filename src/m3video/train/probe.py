"""The probe: how much frozen features say about labels.

- encodes every labelled video once (`features.py`);
- splits by the manifest's column `split` (`test`, or `val` where there is no `test`), or by
  cross-validation over folds;
- fits linear and attentive probes and asks the nearest neighbours, with all labels and with few
  (`evaluate.py`);
- writes one JSON file with accuracies between 0 and 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from m3video.config import ClipConfig, ProbeConfig
from m3video.errors import ConfigError
from m3video.model.checkpoint import load_encoder
from m3video.model.vit import VisionTransformer
from m3video.train.classified import check_above
from m3video.train.evaluate import KIND_NAMES, evaluate_features
from m3video.train.features import Features, extract_features
from m3video.train.labelled import shapes_test, shapes_train
from m3video.train.labelled_videos import check_labels, load_labelled
from m3video.train.splits import Split, check_shots, folds
from m3video.train.step import choose_device
from m3video.train.tokens import TokenFile, open_tokens
from m3video.train.world import ALONE, World, join, local_device
from m3video.video.loader import ClipSource, VideoClips
from m3video.video.manifest import Manifest, Video
from m3video.video.moving_shapes import CLASSES
from m3video.video.sampling import plan_clip
from m3video.whole import write_json


def probe(config: ProbeConfig) -> dict[str, Any]:
    """Measure frozen features and write the result as JSON.

    Returns:
        data, init, untrained, classes, chance (share of the commonest class in the test videos),
        linear, knn and attentive (accuracies of the kinds asked for), clips {train, test} (videos
        in each part), labels, unreadable. With `linear` chosen (lr and weight_decay a fold),
        confusion (rows: truth) and, for moving shapes, by_texture (its accuracy on the test clips
        of each texture); with `attentive` attentive_chosen and attentive_confusion; with shots
        few_shot {kind: {shots: {mean, error, accuracies}}}, the standard error over the draws.

    Raises:
        ConfigError: no labels, too few videos to split or for the shots, no room for tokens, or
            `out` is a folder.
        CheckpointError: `init` holds no encoder.
    """
    device = choose_device(local_device(config.device))
    world = join(device)
    encoder = load_encoder(config.init)
    path = _result_path(config)
    if path.is_dir():
        raise ConfigError(f"{path}: is a folder; give the name of a JSON file to write")
    check_above(path)
    if config.untrained:
        encoder = untrained_like(encoder, config.seed)
    if config.data == "moving-shapes":
        measured = _shapes_result(encoder, config, device, world)
    else:
        measured = _video_result(encoder, config, device, world)
    result = {
        "data": config.data,
        "init": str(config.init),
        "untrained": config.untrained,
        **measured,
    }
    if world.main:
        write_json(path, result)
    return result


def _shapes_result(
    encoder: VisionTransformer, config: ProbeConfig, device: torch.device, world: World
) -> dict[str, Any]:
    labels = torch.arange(config.train_clips) % len(CLASSES)
    check_shots(labels, [(torch.arange(len(labels)), labels)], config.shots, CLASSES)
    train = shapes_train(encoder.clip, config.train_clips, config.texture)
    tests = shapes_test(encoder.clip, config.test_clips, config.texture)
    textures = [source.texture for source in tests for _ in range(len(source))]
    measured = probe_shapes(encoder, train, tests, textures, config, device, world)
    return {**measured, "labels": list(CLASSES), "unreadable": []}


def _video_result(
    encoder: VisionTransformer, config: ProbeConfig, device: torch.device, world: World
) -> dict[str, Any]:
    manifest = world.first(lambda: probe_manifest(config))
    with _token_file(encoder, len(manifest.videos) * config.segments, config, world) as keep:
        features = _video_features(encoder, manifest, config, keep, device, world)
        videos = [manifest.videos[i] for i in features.videos.tolist()]
        splits = _splits(videos, features.labels, config)
        measured = world.first(
            lambda: evaluate_features(
                features, splits, names=manifest.labels, config=config, console=world.console()
            )
        )
    return {
        **measured,
        "labels": list(manifest.labels),
        "unreadable": [list(entry) for entry in features.unreadable],
    }


@contextmanager
def _token_file(
    encoder: VisionTransformer, clips: int, config: ProbeConfig, world: World
) -> Iterator[TokenFile | None]:
    """A file for the tokens of all clips, beside the result; None where no probe reads them."""
    if "attentive" not in config.kinds:
        yield None
        return
    shape = encoder.clip.token_count, encoder.width
    folder = _result_path(config).parent
    with open_tokens(folder, clips=clips, shape=shape, world=world) as keep:
        yield keep


def untrained_like(encoder: VisionTransformer, seed: int) -> VisionTransformer:
    """The same architecture with fresh weights. Seeds torch's global generator."""
    torch.manual_seed(seed)
    settings: dict[str, Any] = {
        **encoder.clip.model_dump(exclude={"stride"}),
        **encoder.architecture,
        "position_grid": encoder.position_grid,
    }
    fresh = VisionTransformer(**settings)
    fresh.clip = encoder.clip
    return fresh.eval()


def probe_metadata(config: ProbeConfig) -> dict[str, Any]:
    """Probe width, height, number of frames and rate of videos: what needs no pixel to be known.

    Labels that these tell are no proof of what an encoder has seen. `config.init` is not read.
    There are no tokens, so an attentive probe is left out.

    Returns:
        As `probe`, less init and untrained; nothing is written.
    """
    manifest = _labelled_manifest(config)
    videos, labels = manifest.videos, manifest.labels
    known = [[video.width, video.height, video.frames, video.fps] for video in videos]
    features = Features(
        values=torch.tensor(known, dtype=torch.float32),
        labels=torch.tensor([labels.index(str(video.label)) for video in videos]),
        videos=torch.arange(len(videos)),
        unreadable=[(str(entry.path), entry.reason) for entry in manifest.unreadable],
        groups=_groups(videos, config),
    )
    splits = _splits(videos, features.labels, config)
    kinds = tuple(kind for kind in config.kinds if kind != "attentive")
    config = config.model_copy(update={"kinds": kinds})
    return {
        "data": config.data,
        **evaluate_features(features, splits, names=manifest.labels, config=config),
        "labels": list(manifest.labels),
        "unreadable": [list(entry) for entry in features.unreadable],
    }


def probe_manifest(config: ProbeConfig) -> Manifest:
    """The labelled videos, after a look at whether they can be split as the config says.

    Raises:
        ConfigError: no labels, or too few videos, groups or labels of a class.
    """
    manifest = _labelled_manifest(config)
    labels = manifest.labels
    known = torch.tensor([labels.index(str(video.label)) for video in manifest.videos])
    planned = _splits(manifest.videos, known, config)
    check_shots(known, planned, config.shots, labels)
    return manifest


def _labelled_manifest(config: ProbeConfig) -> Manifest:
    manifest = load_labelled(config.data, config.workers)
    check_labels(manifest, config.data, least=2)
    for video in manifest.videos:
        if video.label is None:
            raise ConfigError(
                f"{config.data}: {video.path} has no label; give it one, or leave it out"
            )
    return manifest


def _video_features(
    encoder: VisionTransformer,
    manifest: Manifest,
    config: ProbeConfig,
    keep: TokenFile | None,
    device: torch.device,
    world: World,
) -> Features:
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
        device=device,
        keep=keep,
        world=world,
    )
    skipped = [(str(entry.path), entry.reason) for entry in manifest.unreadable]
    videos = [manifest.videos[i] for i in features.videos.tolist()]
    return replace(
        features, unreadable=skipped + features.unreadable, groups=_groups(videos, config)
    )


def _groups(videos: Sequence[Video], config: ProbeConfig) -> list[str] | None:
    if config.group is None:
        return None
    if any(config.group not in video.extra for video in videos):
        raise ConfigError(
            f"{config.data}: no column {config.group!r} to group by; "
            f"there are: {', '.join(videos[0].extra) or 'none'}"
        )
    return [video.extra[config.group] for video in videos]


def _splits(videos: Sequence[Video], labels: Tensor, config: ProbeConfig) -> list[Split]:
    named = [video.extra.get("split", "") for video in videos]
    if any(named):
        tested = "test" if "test" in named else "val"
        train = torch.tensor([i for i, name in enumerate(named) if name == "train"])
        test = torch.tensor([i for i, name in enumerate(named) if name == tested])
        if not set(named) <= {"train", "val", "test"} or not {"val", "test"} & set(named):
            found = ", ".join(repr(name) for name in sorted(set(named)))
            raise ConfigError(
                f"{config.data}: column split holds {found}; it must name `train` and `val` or "
                "`test` for every video, and some of each must be readable"
            )
        if len(set(labels[train].tolist())) < 2:
            raise ConfigError(
                f"{config.data}: the videos of the split `train` must have two or more labels"
            )
        return [(train, test)]
    return folds(labels, _groups(videos, config), config.folds, config.seed)


def probe_shapes(
    encoder: VisionTransformer,
    train: ClipSource,
    tests: Sequence[ClipSource],
    textures: Sequence[str],
    config: ProbeConfig,
    device: torch.device,
    world: World = ALONE,
) -> dict[str, Any]:
    """Probe an encoder on moving shapes.

    Args:
        encoder: reads the clips of the sets.
        train: the clips that the probes are fitted to.
        tests: one or more test sets; the result counts them together.
        textures: of each test clip; what the clips of each kind alone score is `by_texture`.
        config: how to probe.
        device: where the encoder runs.
        world: the processes that the clips are dealt out to.
    """
    with _token_file(encoder, sum(map(len, (train, *tests))), config, world) as keep:
        parts = [
            extract_features(
                encoder,
                source,
                clip=encoder.clip,
                batch=config.batch,
                workers=config.workers,
                device=device,
                keep=keep,
                world=world,
            )
            for source in (train, *tests)
        ]
        labels = torch.cat([part.labels for part in parts])
        merged = Features(
            values=torch.cat([part.values for part in parts]),
            labels=labels,
            videos=torch.arange(len(labels)),
            unreadable=[],
            clips=torch.arange(len(labels)),
            tokens=parts[-1].tokens,  # the file holds those of all parts
        )
        split = (torch.arange(len(train)), torch.arange(len(train), len(labels)))
        every = [*[""] * len(train), *textures] if textures else []
        return world.first(
            lambda: evaluate_features(
                merged,
                [split],
                names=CLASSES,
                config=config,
                textures=every,
                console=world.console(),
            )
        )


def _result_path(config: ProbeConfig) -> Path:
    if config.out is not None:
        return config.out
    name = Path(config.data).resolve().stem if config.data != "moving-shapes" else config.data
    suffix = "-untrained" if config.untrained else ""
    return config.init / f"probe-{name}{suffix}.json"


def format_result(result: dict[str, Any]) -> str:
    """A table for the terminal: accuracies in per cent, with all labels and with few."""
    few = result.get("few_shot", {})
    shots = list(dict.fromkeys(count for found in few.values() for count in found))
    rows = [["", "all labels", *(f"{count} a class" for count in shots)]]
    for kind, name in KIND_NAMES.items():
        if kind not in result:
            continue
        drawn = [few[kind][count] for count in shots]
        cells = [f"{100 * entry['mean']:.1f} ± {100 * entry['error']:.1f}" for entry in drawn]
        rows.append([name, f"{100 * result[kind]:.1f} %", *cells])
    rows.append(["chance", f"{100 * result['chance']:.1f} %", *("" for _ in shots)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        ).rstrip()
        for row in rows
    ]
    if shots:
        draws = len(next(iter(few.values()))[shots[0]]["accuracies"])
        lines.append(f"± is the standard error over {draws} draws of the labelled videos")
    return "\n".join(lines)
