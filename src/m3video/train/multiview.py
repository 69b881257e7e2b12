"""The verb `evaluate`: a classifier is tested on several views of each video."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from m3video.config import (
    ClipConfig,
    EvaluateConfig,
    FinetuneConfig,
    LabelledShapesConfig,
    Sampling,
    load_config,
)
from m3video.errors import ConfigError, M3VideoError, VideoError
from m3video.model.checkpoint import load_classifier
from m3video.model.classifier import Classifier
from m3video.train.batches import cores_shared
from m3video.train.classified import EVALUATION, check_folder, write_evaluation
from m3video.train.labelled import TEST_OFFSET, shapes_test
from m3video.train.labelled_videos import read_labelled, tested_videos, training_videos
from m3video.train.progress import say
from m3video.train.run import RunDirectory
from m3video.train.step import choose_device
from m3video.train.views import predict_views
from m3video.train.world import World, join, local_device
from m3video.video.loader import Clips, ClipSource
from m3video.video.manifest import Video, load_manifest
from m3video.video.moving_shapes import CLASSES
from m3video.video.views import EvaluationViews, LabelledVideos, RepeatedCrops

MOVING_SHAPES = "moving-shapes"


@dataclass(frozen=True)
class EvaluationSet:
    """What is tested.

    Attributes:
        source: item i is clip i mod `segments` of video i div `segments`.
        paths: of the videos.
        truth: their classes, int64 [V].
        segments: clips of a video.
        crops: of each clip.
        facts: what the result says of it.
    """

    source: ClipSource
    paths: tuple[str, ...]
    truth: torch.Tensor
    segments: int
    crops: int
    facts: dict[str, Any]


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Test a classifier and write evaluation.json, predictions.csv and confusion.json.

    Returns:
        What evaluation.json holds: model, data, split, trained_on (how many of the videos the run
        was trained on; null where that is not known), views, left_out (path and reason of the
        videos with a view that could not be read; they are not counted), unreadable (the same of
        those that could not even be opened, in any split), and what `accuracies` gives.

    Raises:
        CheckpointError: no classifier there.
        ConfigError: no labelled videos, an unknown label, or a folder that holds other things.
        ManifestError: no such data.
        VideoError: no video could be read.
    """
    device = choose_device(local_device(config.device))
    world = join(device)
    world.first(lambda: check_folder(config.out))
    console = world.console()
    if (config.out / EVALUATION).exists():
        say(console, f"the evaluation in {config.out} will be replaced")
    model = load_classifier(config.model)
    trained = _training_config(config.model)
    clip = model.encoder.clip
    if config.stride is not None:
        clip = clip.model_copy(update={"stride": config.stride})
    if config.data == MOVING_SHAPES:
        tests = shapes_tests(model.labels, clip, config.shapes)
    else:
        manifest = world.first(lambda: read_labelled(config.data, config.workers, console, least=1))
        split, videos = tested_videos(manifest, config, model.labels)
        trained_on = _trained_on(trained, videos)
        if trained_on:
            say(console, f"{trained_on} of the {len(videos)} videos were trained on")
        views = None if trained is None else trained.views
        tests = video_tests(
            videos,
            model.labels,
            clip,
            sampling=config.sampling or (trained.sampling if trained else "dense"),
            segments=config.segments or (views.segments if views else 5),
            crops=config.crops or (views.crops if views else 3),
            facts={
                "split": split,
                "trained_on": trained_on,
                "unreadable": [[str(e.path), e.reason] for e in manifest.unreadable],
            },
        )
    return evaluate_on(
        model,
        tests,
        config.out,
        facts={"model": str(config.model), "data": config.data},
        batch=config.batch,
        workers=config.workers,
        device=device,
        bf16=config.precision == "bf16" or (config.precision == "auto" and device.type != "cpu"),
        world=world,
    )


def video_tests(
    videos: Sequence[Video],
    labels: tuple[str, ...],
    clip: ClipConfig,
    *,
    sampling: Sampling,
    segments: int,
    crops: int,
    facts: dict[str, Any],
) -> EvaluationSet:
    """Labelled videos as a test set of `segments` × `crops` views each."""
    data = LabelledVideos(videos, labels, clip, sampling)
    return EvaluationSet(
        EvaluationViews(data, segments, crops),
        tuple(str(video.path) for video in videos),
        torch.tensor([labels.index(str(video.label)) for video in videos]),
        segments,
        crops,
        {
            **facts,
            "views": {
                "segments": segments,
                "crops": crops,
                "sampling": sampling,
                "stride": clip.stride,
            },
        },
    )


def shapes_tests(
    labels: tuple[str, ...], clip: ClipConfig, shapes: LabelledShapesConfig
) -> EvaluationSet:
    """The test clips of moving shapes, one view each.

    Raises:
        ConfigError: the labels are others.
    """
    if labels != CLASSES:
        raise ConfigError(
            f"data moving-shapes has the classes {', '.join(CLASSES[:3])}, …; "
            f"the model knows {', '.join(labels[:3])}, …"
        )
    parts = shapes_test(clip, shapes.test_clips, shapes.texture)
    numbers = [part.offset + n for part in parts for n in range(len(part))]
    return EvaluationSet(
        RepeatedCrops(_Chain(parts), None),
        tuple(f"{MOVING_SHAPES}/{number - TEST_OFFSET}" for number in numbers),
        torch.tensor([number % len(CLASSES) for number in numbers]),
        1,
        1,
        {"split": "test", "unreadable": [], "views": {"segments": 1, "crops": 1}},
    )


def evaluate_on(
    model: Classifier,
    tests: EvaluationSet,
    out: Path,
    *,
    facts: dict[str, Any],
    batch: int,
    workers: int,
    device: torch.device,
    bf16: bool,
    world: World,
) -> dict[str, Any]:
    """Test a classifier on a test set and write the files; as `evaluate`.

    Raises:
        VideoError: no video could be read.
    """
    with cores_shared(device, workers, None):
        scores, unreadable = predict_views(
            model,
            tests.source,
            segments=tests.segments,
            crops=tests.crops,
            batch=batch,
            workers=workers,
            device=device,
            bf16=bf16,
            world=world,
        )
    whole = scores.whole
    if len(whole) == 0:
        path, reason = unreadable[0]
        raise VideoError(f"{path}: {reason}; no video of the test set can be read")
    return world.first(
        lambda: write_evaluation(
            out,
            scores.averages(),
            tests.truth[whole],
            [tests.paths[number] for number in whole.tolist()],
            model.labels,
            {**facts, **tests.facts, "left_out": [list(entry) for entry in unreadable]},
        )
    )


def _training_config(model: Path) -> FinetuneConfig | None:
    """How the classifier was trained, where it lies in its run; else None."""
    for folder in (model, model.parent):
        if (folder / "config.yaml").is_file() and (folder / "model").is_dir():
            config = load_config(FinetuneConfig, folder / "config.yaml")
            return config.model_copy(update={"out": folder})
    return None


def _trained_on(config: FinetuneConfig | None, videos: Sequence[Video]) -> int | None:
    """How many of the videos a run was trained on; None where that cannot be told."""
    if config is None:
        return None
    try:
        known = training_videos(load_manifest(RunDirectory(config.out).manifest), config)
    except M3VideoError:
        return None
    real = {os.path.realpath(video.path) for video in known}
    return sum(os.path.realpath(video.path) in real for video in videos)


class _Chain:
    """The clips of several sources, one after another."""

    def __init__(self, sources: Sequence[ClipSource]) -> None:
        self.labels = sources[0].labels
        self._places = [(source, n) for source in sources for n in range(len(source))]

    def __len__(self) -> int:
        return len(self._places)

    def clip(self, index: int, epoch: int, generator: torch.Generator) -> Clips:
        """One clip; see `ClipSource`."""
        source, number = self._places[index]
        return source.clip(number, epoch, generator)


def format_evaluation(result: dict[str, Any]) -> str:
    """Lines for the terminal."""
    left = len(result["left_out"])
    tested = sum(row["videos"] > 0 for row in result["per_class"])
    one = result["answered"] == 1 < tested
    said = "\nall were taken for the same class: the classifier tells none apart" if one else ""
    return (
        f"top-1 {result['top1']:.1%}  top-5 {result['top5']:.1%}  mean over classes "
        f"{result['mean_class']:.1%}  (chance {result['chance']:.1%})\n"
        f"{result['videos']} videos tested, {left} left out because they could not be read"
        f"{said}"
    )
