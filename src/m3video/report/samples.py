"""Sample clips of a run: which, from where, and by which of its checkpoints they are predicted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from m3video.config import PretrainConfig
from m3video.errors import ManifestError, UnreachableError, VideoError
from m3video.model.checkpoint import WEIGHTS, load_weights, read_tensors
from m3video.model.masked_autoencoder import MaskedAutoencoder, build_model
from m3video.report.facts import read_run_config
from m3video.report.predictions import Sample, predict
from m3video.train.prepare import Finish
from m3video.train.run import RunDirectory
from m3video.video.loader import Clips, ClipSource, VideoClips
from m3video.video.manifest import load_manifest
from m3video.video.moving_shapes import CLASSES, MovingShapes
from m3video.video.sampling import ClipPlan, plan_run, sample_generator

HELD_OUT = 2_000_000
"""First number of the rendered clips that are shown; training and probes use smaller ones."""
TRIES = 12
"""Videos that are tried in all before fewer clips are shown."""

TRUTH_USED = {
    "patch-std": "z-scores over the points of a patch",
    "clip-std": "displacements in units of the clip's motion",
    "sum-of-norms": "shares of a trajectory's length",
}
"""What is predicted when the true clip's numbers are needed to turn it into pixels."""

Found = tuple[str, Clips]


@dataclass(frozen=True)
class Samples:
    """Clips with their predictions, and what a reader must know about them."""

    clips: list[Sample]
    notes: list[str]


def load_run_model(run: Path) -> tuple[MaskedAutoencoder, PretrainConfig]:
    """Rebuild the masked autoencoder of a run from its config and its newest checkpoint.

    Returns:
        The model in evaluation mode on the CPU, and the run's config.

    Raises:
        CheckpointError: not a run directory, no checkpoint, or one that does not fit the config.
        ConfigError: config.yaml is broken.
    """
    config = read_run_config(run)
    weights = RunDirectory(run).last / WEIGHTS
    tensors = read_tensors(weights)
    plan = plan_run(config)
    with torch.random.fork_rng(devices=[]):  # the random weights are overwritten
        model = build_model(config, Finish(config, plan).dims)
    load_weights(model, tensors, weights)
    return model.eval(), config


def sample_clips(run: Path, config: PretrainConfig, *, count: int) -> Samples:
    """Choose up to `count` clips by the run's seed and predict what is hidden in them.

    Rendered clips are ones that training has not seen. Videos are those of the run, cropped at the
    centre; one that cannot be read is named and another takes its place.

    Raises:
        CheckpointError: the checkpoint is damaged or does not fit the config.
    """
    place = RunDirectory(run).last
    if not (place / WEIGHTS).is_file():
        return Samples([], ["There is no checkpoint yet, so there is nothing to predict with."])
    model, _ = load_run_model(run)
    plan = plan_run(config)
    notes: list[str] = []
    clips = [
        predict(model, config, plan, clip, name)
        for name, clip in _find_clips(run, config, plan, count, notes)
    ]
    step = place.resolve().name.removeprefix("step-")
    notes.insert(0, f"Predicted by the checkpoint of step {step}.")
    if clips:
        notes += _drawing_notes(config)
    return Samples(clips, notes)


def _drawing_notes(config: PretrainConfig) -> Iterator[str]:
    """What is drawn otherwise than it was seen, and what with the help of the truth."""
    active, targets = config.targets.active, config.targets
    if config.motion.camera and config.plan_length:
        yield (
            "The camera's motion is removed: flow and trajectories are those of things by "
            "themselves, drawn over the frame where they start."
        )
    if "trajectory" in active and targets.trajectory.normalise in TRUTH_USED:
        predicted = TRUTH_USED[targets.trajectory.normalise]
        yield (
            f"The model predicts {predicted}. The true clip's numbers turn them into pixels, so "
            "the predicted trajectories and their errors look better than the model alone would."
        )
    if "pixel" in active and targets.pixel.normalise:
        yield (
            "The model predicts each patch up to its mean and contrast; the reconstruction takes "
            "those from the true clip."
        )


def _find_clips(
    run: Path, config: PretrainConfig, plan: ClipPlan, count: int, notes: list[str]
) -> Iterator[Found]:
    if config.data == "moving-shapes":
        notes.append("These are rendered clips that training has never seen.")
        source: ClipSource = MovingShapes(
            clips=count,
            clip=config.clip,
            plan=plan,
            texture=config.shapes.texture,
            fixed=True,
            offset=HELD_OUT,
            flow=config.motion.flow == "exact" and config.needs_flow,
        )
        for index in range(count):
            clip = source.clip(index, 0, sample_generator(config.train.seed, 0, index))
            yield CLASSES[int(clip.label)].replace("-", " "), clip
        return
    yield from _video_clips(run, config, plan, count, notes)


def _video_clips(
    run: Path, config: PretrainConfig, plan: ClipPlan, count: int, notes: list[str]
) -> Iterator[Found]:
    listing = RunDirectory(run).manifest
    try:
        videos = load_manifest(listing)
    except (ManifestError, UnreachableError, OSError) as error:
        notes.append(f"No clips can be shown: {error}.")
        return
    gone = {str(entry.path): entry.reason for entry in videos.unreadable}
    source = VideoClips(
        videos,
        clip=config.clip,
        plan=plan,
        augment=None,
        flow=config.motion.flow == "codec" and config.needs_flow,
    )
    generator = sample_generator(config.train.seed, 0, HELD_OUT)
    order = torch.randperm(len(source), generator=generator).tolist()
    found = 0
    for index in order[:TRIES]:
        if found == count:
            break
        path = videos.videos[index].path
        try:
            clip = source.clip(index, 0, sample_generator(config.train.seed, 0, index))
        except (VideoError, UnreachableError) as error:
            gone[str(path)] = str(error).removeprefix(f"{path}: ")
            continue
        found += 1
        yield _name(path), clip
    if found:
        notes.append("These videos are part of the training data, cropped at the centre.")
    for path, reason in gone.items():
        notes.append(f"Cannot be read: {path}: {reason}")


def _name(path: Path) -> str:
    """File and folder: what tells two videos of a data set apart."""
    return f"{path.parent.name}/{path.name}" if path.parent.name else path.name
