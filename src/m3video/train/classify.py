"""The verb `finetune`: an encoder and a classifier, trained on labelled videos, all weights.

- The recipe is that of VideoMAE (arXiv 2203.12602, appendix) and Masked Motion Encoding (arXiv
  2210.06096): `m3video.finetune_recipes` names its settings for each data set.
- A worker reads a span once, crops it `repeats` times and augments each crop; the step erases,
  mixes and trains (`classify_step`).
- The run is kept, interrupted and resumed as a pre-training is (`loop`); at its end the held-out
  videos are tested (`multiview`), in `evaluation/`.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from m3video.config import AugmentConfig, ClipConfig, FinetuneConfig
from m3video.model.checkpoint import load_classifier, load_encoder, save_model
from m3video.model.resize import fit_clips
from m3video.model.vit import VisionTransformer
from m3video.train.augment import AugmentSamples
from m3video.train.batches import Data, absolute
from m3video.train.classify_step import ClassifierTrainer
from m3video.train.labelled import shapes_train
from m3video.train.labelled_videos import (
    held_out,
    hold_out,
    never_trained,
    read_labelled,
    split_of,
    training_videos,
)
from m3video.train.learned import nothing_learned
from m3video.train.loop import Loop
from m3video.train.multiview import (
    MOVING_SHAPES,
    EvaluationSet,
    evaluate_on,
    format_evaluation,
    shapes_tests,
    video_tests,
)
from m3video.train.optim import steps_per_epoch
from m3video.train.probe import untrained_like
from m3video.train.progress import say
from m3video.train.run import RunDirectory
from m3video.train.step import choose_device
from m3video.train.world import World, join, local_device
from m3video.video.datasets.flip import flip_changes_labels
from m3video.video.loader import ClipSource
from m3video.video.manifest import Manifest, load_manifest
from m3video.video.moving_shapes import CLASSES
from m3video.video.views import LabelledVideos, RepeatedCrops, TrainingViews

EVALUATION_BATCH = 4
"""Clips at a time when the held-out videos are tested."""


@dataclass(frozen=True)
class LabelledSets:
    """What a fine-tuning reads.

    Attributes:
        train: clips [repeats, T, H, W, 3].
        labels: the names of the classes.
        counts: how many training videos each has.
        tests: the held-out videos; None where none are.
        manifest: all videos; None where the clips are rendered.
    """

    train: ClipSource
    labels: tuple[str, ...]
    counts: tuple[int, ...]
    tests: EvaluationSet | None
    manifest: Manifest | None


def finetune(config: FinetuneConfig) -> Path:
    """Fine-tune, and keep everything about it in the run directory `config.out`.

    Progress goes to stderr. Seeds torch's global generator.

    Returns:
        The run directory; its `model/` is what `load_classifier` reads, `evaluation/` what the
        held-out videos gave, where there are any.

    Raises:
        ConfigError: `out` is taken, resuming with settings that differ, or data without labels.
        ManifestError: no readable video in `data`, or a list that cannot be understood.
        CheckpointError: nothing to resume, or `init` holds no encoder.
        DivergedError: the loss was not finite several steps in a row.
        RunFailedError: out of memory, or a data worker was killed.
        TooManyUnreadableError: more videos could not be read than `train.max_unreadable`.
        KeyboardInterrupt: Ctrl-C; the run is saved and can be resumed.
    """
    device = choose_device(local_device(config.train.device))
    world = join(device)
    console = world.console()
    run = RunDirectory(config.out)
    config = world.first(lambda: run.opened(config))
    encoder = _encoder(config, run)
    sets = _open_data(config, encoder.clip, run, console, world)
    trainer = ClassifierTrainer(config, encoder, sets.labels, device, world)
    Loop(
        "finetune",
        config,
        run,
        trainer,
        Data(sets.train, AugmentSamples(config.augment), sets.manifest, ahead=False),
        lambda weights: save_model(
            trainer.result, run.model, encoder.clip, trainer.result_weights(weights)
        ),
        console,
        less="train.batch or augment.repeats",
        world=world,
    ).go()
    settings = config.train
    epoch = math.ceil(steps_per_epoch(len(sets.train), settings.batch) / settings.log_every)
    warning = nothing_learned(run.losses(), epoch, sets.counts, settings.label_smoothing)
    if warning is not None:
        say(console, warning)
    if sets.tests is not None:
        result = evaluate_on(
            load_classifier(run.model),
            sets.tests,
            run.path / "evaluation",
            facts={"model": str(run.path), "data": config.data},
            batch=EVALUATION_BATCH,
            workers=config.train.workers,
            device=device,
            bf16=trainer.bf16,
            world=world,
        )
        say(console, format_evaluation(result))
    return run.path


def _encoder(config: FinetuneConfig, run: RunDirectory) -> VisionTransformer:
    """The encoder to begin with; the weights of a resumed run come from its checkpoint."""
    resumed = config.resume and run.model.is_dir()
    encoder = load_encoder(run.model if resumed else config.init)
    if config.scratch:
        encoder = untrained_like(encoder, config.train.seed)
    return fit_clips(encoder, frames=config.frames, size=config.size, stride=config.stride)


def _open_data(
    config: FinetuneConfig, clip: ClipConfig, run: RunDirectory, console: Console, world: World
) -> LabelledSets:
    if config.data == MOVING_SHAPES:
        return _open_shapes(config, clip, console)
    if config.resume:
        manifest = world.first(lambda: absolute(load_manifest(run.manifest)))
    else:
        manifest = world.first(
            lambda: read_labelled(config.data, config.train.workers, console, least=2)
        )
        if config.val_share and not any(split_of(video) for video in manifest.videos):
            manifest = hold_out(manifest, config.val_share, config.train.seed)
    labels = manifest.labels
    videos = training_videos(manifest, config)
    split, tested = held_out(manifest)
    known = len({video.label for video in videos})
    held = f"{len(tested)} held out ({split})" if tested else _why_none(manifest, config)
    say(console, f"{len(videos)} videos of {known} classes to train on, {held}")
    for label in never_trained(labels, videos):
        say(console, f"class {label!r} has no training video: it cannot be learned")
    tests = None
    if tested:
        tests = video_tests(
            tested,
            labels,
            clip,
            sampling=config.sampling,
            segments=config.views.segments,
            crops=config.views.crops,
            facts={"split": split, "unreadable": []},
        )
    train = TrainingViews(
        LabelledVideos(videos, labels, clip, config.sampling),
        _augment(config, labels, console),
        config.augment.repeats,
    )
    counted = Counter(video.label for video in videos)
    counts = tuple(counted[label] for label in labels)
    return LabelledSets(train, labels, counts, tests, manifest)


def _why_none(manifest: Manifest, config: FinetuneConfig) -> str:
    """Why no video is held out."""
    if config.val_share:
        return f"none held out: --val-share {config.val_share:g} of each class is no whole video"
    if any(split_of(video) for video in manifest.videos):
        return "none held out: no labelled video that can be read has the split `test` or `val`"
    return "none held out: there is no column `split`; see --val-share"


def _open_shapes(config: FinetuneConfig, clip: ClipConfig, console: Console) -> LabelledSets:
    shapes = config.shapes
    count = shapes.train_clips
    if config.labels is not None:  # clip number n is of class n mod 13
        count = min(count, config.labels * len(CLASSES))
    train = RepeatedCrops(
        shapes_train(clip, count, shapes.texture),
        _augment(config, CLASSES, console),
        config.augment.repeats,
    )
    counts = tuple(len(range(number, count, len(CLASSES))) for number in range(len(CLASSES)))
    return LabelledSets(train, CLASSES, counts, shapes_tests(CLASSES, clip, shapes), None)


def _augment(config: FinetuneConfig, labels: tuple[str, ...], console: Console) -> AugmentConfig:
    """Crop and flip, where `auto` is decided by the names of the classes."""
    flip = config.augment.flip == "on"
    if config.augment.flip == "auto":
        flip = not flip_changes_labels(labels)
        if not flip:
            say(console, "no clip is flipped: names of classes hold directions (--augment.flip)")
    return AugmentConfig(scales=config.augment.scales, flip=flip)
