"""What a model predicts for one clip, turned back from tokens into pictures and pixels."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from m3video.config import ClipConfig, PretrainConfig, TrajectoryConfig
from m3video.report.grids import on_grid, per_seed
from m3video.report.histograms import HISTOGRAMS, Histograms, histograms
from m3video.report.overlays import Bools, Floats, Frame
from m3video.report.scores import EndPointError, Outcome, end_point_error
from m3video.targets.base import ClipView, by_patch
from m3video.train.prepare import Batch, Finish, Prepare, alone, clip_view
from m3video.video.loader import Clips
from m3video.video.sampling import ClipPlan, sample_generator


@dataclass(frozen=True)
class Paths:
    """Trajectories of the seeds of a clip; those relative to the camera if its motion is removed:
    each is its seed and the sum of its displacements, as the target has them."""

    true: Floats
    """[t, h, w, L + 1, 2] (x, y) in pixels."""
    visible: Bools
    """[t, h, w, L + 1]."""
    hidden: Bools
    """[t, h, w]."""
    relative: bool
    """Whether the camera's motion is removed."""
    predicted: Floats | None = None
    """[t, h, w, L + 1, 2]; None if they are not a target."""
    error: EndPointError | None = None
    """Of the last points of the visible trajectories of hidden patches."""


@dataclass(frozen=True)
class FlowCells:
    """Flow of the cells of a clip, in pixels."""

    true: Floats
    """[t, h, w, 2]."""
    predicted: Floats
    """[t, h, w, 2]."""
    valid: Bools
    """[t, h, w]."""
    hidden: Bools
    """[t, h, w]."""
    error: EndPointError | None
    """Of the known cells of hidden patches."""


@dataclass(frozen=True)
class Sample:
    """One clip, the truth and the predictions, as arrays."""

    name: str
    frames: Frame
    """[R, H, W, 3]."""
    plan: ClipPlan
    tubelet: int
    hidden: Bools
    """[t, rows, columns]."""
    outcomes: dict[str, Outcome]
    """Of every target."""
    paths: Paths | None = None
    flow: FlowCells | None = None
    histograms: dict[str, Histograms] = field(default_factory=dict)
    """By target."""
    reconstruction: Frame | None = None
    """[T, H, W, 3]."""


class Predicts(Protocol):
    """What a `MaskedAutoencoder` does with clips [B, 3, T, H, W] and masks [B, N]."""

    def __call__(self, clip: Tensor, mask: Tensor, /) -> dict[str, Any]:
        """At least `predictions`: by target, those of the hidden tokens."""


@torch.no_grad()
def predict(
    model: Predicts, config: PretrainConfig, plan: ClipPlan, clip: Clips, name: str
) -> Sample:
    """Mask one clip as in training, predict all that is hidden, and set it beside the truth.

    Args:
        model: in evaluation mode, on the CPU.
        plan: the rows of `clip`.
        clip: one clip without a batch dimension, not yet prepared.
    """
    # In the step, all rows stay at hand for drawing; the targets are the same numbers.
    motion = config.motion.model_copy(update={"where": "step"})
    config = config.model_copy(update={"motion": motion})
    generator = sample_generator(config.train.seed, 0, int(clip.index))
    single = alone(Prepare(config, plan)(clip, generator))
    batch = Finish(config, plan)(single)
    outcomes = _outcomes(batch, model(batch.clip, batch.mask)["predictions"])
    tokens = config.clip.tokens
    hidden = batch.mask[0].reshape(tokens).numpy()
    frames = single.frames[0].numpy()
    reconstruction = None
    if "pixel" in outcomes:
        predicted, normalised = outcomes["pixel"].predicted, config.targets.pixel.normalise
        inputs = frames[list(plan.inputs)]
        reconstruction = reconstruct(inputs, predicted, hidden, config.clip, normalised)
    return Sample(
        name,
        frames,
        plan,
        config.clip.tubelet,
        hidden,
        outcomes,
        paths=_paths(config, clip_view(config, plan, single), outcomes, hidden),
        flow=_flow_cells(config, outcomes["flow"], hidden) if "flow" in outcomes else None,
        histograms={
            each: histograms(config, each, outcome)
            for each, outcome in outcomes.items()
            if each in HISTOGRAMS
        },
        reconstruction=reconstruction,
    )


def _outcomes(batch: Batch, predictions: dict[str, Tensor]) -> dict[str, Outcome]:
    return {
        name: Outcome(
            target.values[0],
            spread(predictions[name], batch.mask)[0],
            target.valid[0].expand_as(target.values[0]),
            batch.mask[0],
        )
        for name, target in batch.targets.items()
    }


def spread(predicted: Tensor, mask: Tensor) -> Tensor:
    """Hidden tokens [1, N_hidden, D] to all tokens [1, N, D]; 0 where visible or not finite."""
    everywhere = torch.zeros(*mask.shape, predicted.shape[-1])
    everywhere[mask] = predicted.float().nan_to_num(0, 0, 0).flatten(0, 1)
    return everywhere


def _flow_cells(config: PretrainConfig, outcome: Outcome, hidden: Bools) -> FlowCells:
    """Flow in pixels, as the target has it: clamped, and the mean of each cell."""
    settings, tokens = config.targets.flow, config.clip.tokens
    true, predicted, valid = (
        on_grid(value.reshape(len(value), -1, 2), tokens)
        for value in (outcome.true, outcome.predicted, outcome.valid)
    )
    true, predicted = true * settings.scale, predicted * settings.scale
    known, hidden = valid[..., 0], per_seed(hidden, true.shape[1])
    chosen = known & hidden
    error = end_point_error(true[chosen], predicted[chosen])
    return FlowCells(true, predicted, known, hidden, error)


def _paths(
    config: PretrainConfig, view: ClipView, outcomes: dict[str, Outcome], hidden: Bools
) -> Paths | None:
    if not config.needs_tracks:
        return None
    tracks, settings = view.tracks, config.targets.trajectory
    seeds, moved = tracks.points[0, ..., :1, :].numpy(), tracks.displacements[0].numpy()
    visible = tracks.visible[0].numpy()
    hidden = per_seed(hidden, seeds.shape[1])
    paths = Paths(_path(seeds, moved), visible, hidden, config.motion.camera)
    if "trajectory" not in outcomes:
        return paths
    tokens = config.clip.tokens
    steps = by_patch(tracks.displacements, tokens).clamp(-settings.clamp, settings.clamp)
    valid = by_patch(tracks.visible, tokens)[..., 1:, None]
    values = outcomes["trajectory"].predicted.reshape(steps.shape)
    pixels = on_grid(displacements_in_pixels(values, steps, valid, settings)[0], tokens)
    predicted = _path(seeds, pixels)
    chosen = hidden & visible[..., -1]
    start = seeds[..., 0, :][chosen]
    ends = [path[..., -1, :][chosen] - start for path in (paths.true, predicted)]
    return replace(paths, predicted=predicted, error=end_point_error(*ends))


def _path(seeds: NDArray[np.float32], steps: NDArray[np.float32]) -> NDArray[np.float32]:
    """Seeds [..., 1, 2] and their displacements [..., L, 2] to points [..., L + 1, 2]."""
    return np.concatenate([seeds, seeds + steps.cumsum(axis=-2)], axis=-2)


def displacements_in_pixels(
    values: Tensor, moved: Tensor, valid: Tensor, config: TrajectoryConfig
) -> Tensor:
    """Undo `normalise_displacements`; all but `none` need the mean or size of the true ones.

    Args:
        values: float32 [B, N, K, L, 2], normalised.
        moved: float32 [B, N, K, L, 2], the true displacements in pixels, clamped.
        valid: bool [B, N, K, L, 1].
    """
    if config.normalise == "none":
        return values * config.scale
    moved = torch.where(valid, moved, 0)
    if config.normalise == "patch-std":
        count = valid.sum(dim=2, keepdim=True)
        mean = moved.sum(dim=2, keepdim=True) / count.clamp(min=1)
        centred = torch.where(valid, moved - mean, 0)
        variance = centred.square().sum(dim=2, keepdim=True) / (count - 1).clamp(min=1)
        return values * variance.sqrt().clamp(min=config.floor) + mean
    if config.normalise == "clip-std":
        count = valid.sum(dim=(1, 2, 3, 4), keepdim=True) * 2
        energy = moved.square().sum(dim=(1, 2, 3, 4), keepdim=True) / count.clamp(min=1)
        return values * energy.sqrt().clamp(min=config.floor)
    steps: Tensor = moved.norm(dim=-1, keepdim=True)
    travelled = steps.sum(dim=-2, keepdim=True)
    return values * travelled.clamp(min=config.floor)


def reconstruct(
    inputs: Frame, predicted: Tensor, hidden: Bools, clip: ClipConfig, normalised: bool
) -> Frame:
    """Put predicted pixels into the hidden patches of the input frames.

    Args:
        inputs: uint8 [T, H, W, 3].
        predicted: [N, D] of the pixel target, ordered (frame, row, column, channel).
        hidden: bool [t, rows, columns].
        normalised: whether they are z-scores; the true mean and deviation of each token and channel
            turn them back.
    """
    time, rows, columns = clip.tokens
    shape = (time, clip.tubelet, rows, clip.patch, columns, clip.patch, 3)
    true = torch.from_numpy(inputs).float().reshape(shape) / 255
    pixels = predicted.reshape(time, rows, columns, clip.tubelet, clip.patch, clip.patch, 3)
    pixels = pixels.permute(0, 3, 1, 4, 2, 5, 6)
    if normalised:
        variance, mean = torch.var_mean(true, dim=(1, 3, 5), keepdim=True)
        pixels = pixels * (variance.sqrt() + 1e-6) + mean
    where = torch.from_numpy(hidden)[:, None, :, None, :, None, None]
    filled = torch.where(where, pixels, true).clamp(0, 1) * 255
    return np.asarray(filled.round().to(torch.uint8).reshape(inputs.shape).numpy())
