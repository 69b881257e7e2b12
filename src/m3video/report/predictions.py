"""What a model predicts for one clip, turned back from tokens into pictures and pixels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from m3video.config import ClipConfig, HogSettings, PretrainConfig, TrajectoryConfig
from m3video.model.masked_autoencoder import MaskedAutoencoder
from m3video.report.overlays import Bools, Floats, Frame
from m3video.targets.base import ClipView, by_patch
from m3video.train.prepare import Batch, Finish, Prepare, alone, clip_view
from m3video.video.loader import Clips
from m3video.video.sampling import ClipPlan, sample_generator


@dataclass(frozen=True)
class TrackError:
    """End-point errors in pixels, over all visible trajectories of hidden patches."""

    predicted: float
    still: float  # of the guess that nothing moves
    count: int


@dataclass(frozen=True)
class HogPictures:
    """Histograms to draw; t tubelets, S steps (1 on the grid), n places."""

    true: Floats  # [t, S, n, bins]
    predicted: Floats  # [t, S, n, bins]
    valid: Bools  # [t, S, n]
    hidden: Bools  # [t, n]
    centres: Floats  # [n, 2] (x, y) in pixels
    spacing: float  # pixels from one place to the next
    strongest: float  # energy of the longest stroke


@dataclass(frozen=True)
class Sample:
    """One clip, the truth and the predictions, as arrays."""

    name: str
    frames: Frame  # [R, H, W, 3]
    plan: ClipPlan
    tubelet: int
    hidden: Bools  # [t, rows, columns]
    tracks: tuple[Floats, Bools] | None = (
        None  # points [t, h, w, L + 1, 2], visible [t, h, w, L + 1]
    )
    predicted_tracks: tuple[Floats, Bools] | None = None  # the same, and hidden seeds [t, h, w]
    error: TrackError | None = None
    hogs: dict[str, HogPictures] = field(default_factory=dict)
    reconstruction: Frame | None = None  # [T, H, W, 3]


@torch.no_grad()
def predict(
    model: MaskedAutoencoder, config: PretrainConfig, plan: ClipPlan, clip: Clips, name: str
) -> Sample:
    """Mask one clip as in training, predict what is hidden, and set it beside the truth.

    Args:
        model: in evaluation mode, on the CPU.
        plan: the rows of `clip`.
        clip: one clip without a batch dimension, not yet prepared.
    """
    # In the step, all rows stay at hand for drawing; the targets are the same numbers.
    motion = config.motion.model_copy(update={"where": "step"})
    config = config.model_copy(update={"motion": motion})
    generator = sample_generator(config.train.seed, 0, int(clip.index))
    prepared = Prepare(config, plan)(clip, generator)
    single = alone(prepared)
    batch = Finish(config, plan)(single)
    hidden_predictions = model(batch.clip, batch.mask)["predictions"]
    predictions = {key: spread(value, batch.mask) for key, value in hidden_predictions.items()}
    view = clip_view(config, plan, single)
    tokens = config.clip.tokens
    hidden = batch.mask[0].reshape(tokens).numpy()
    parts: dict[str, Any] = {"hogs": hog_pictures(config, batch, predictions)}
    if config.targets.needs_tracks:
        tracks = view.tracks
        parts["tracks"] = (tracks.points[0].numpy(), tracks.visible[0].numpy())
    if "trajectory" in predictions:
        parts |= _predicted_tracks(config, view, predictions["trajectory"], hidden)
    if "pixel" in predictions:
        inputs = single.frames[0, list(plan.inputs)].numpy()
        normalised = config.targets.pixel.normalise
        filled = reconstruct(inputs, predictions["pixel"][0], hidden, config.clip, normalised)
        parts["reconstruction"] = filled
    frames = single.frames[0].numpy()
    return Sample(name, frames, plan, config.clip.tubelet, hidden, **parts)


def spread(predicted: Tensor, mask: Tensor) -> Tensor:
    """Hidden tokens [1, N_hidden, D] to all tokens [1, N, D]; 0 where visible or not finite."""
    everywhere = torch.zeros(*mask.shape, predicted.shape[-1])
    everywhere[mask] = predicted.float().nan_to_num(0, 0, 0).flatten(0, 1)
    return everywhere


def on_grid(values: Tensor, tokens: tuple[int, int, int]) -> NDArray[Any]:
    """Undo `by_patch` for one clip: [N, K, ...] → [t, h, w, ...]; K is a square number."""
    time, rows, columns = tokens
    side = round(values.shape[1] ** 0.5)
    split = values.reshape(time, rows, columns, side, side, *values.shape[2:])
    grid = split.transpose(2, 3).reshape(time, rows * side, columns * side, *values.shape[2:])
    return np.asarray(grid.numpy())


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


def _predicted_tracks(
    config: PretrainConfig, view: ClipView, predicted: Tensor, hidden: Bools
) -> dict[str, Any]:
    settings, tokens = config.targets.trajectory, config.clip.tokens
    tracks = view.tracks
    moved = by_patch(tracks.displacements, tokens).clamp(-settings.clamp, settings.clamp)
    valid = by_patch(tracks.visible, tokens)[..., 1:, None]
    values = predicted.reshape(moved.shape)
    steps = on_grid(displacements_in_pixels(values, moved, valid, settings)[0], tokens)
    seeds = tracks.points[0, ..., :1, :].numpy()
    path = np.concatenate([seeds, seeds + steps.cumsum(axis=-2)], axis=-2)
    side = seeds.shape[1] // tokens[1]
    hidden_seeds = hidden.repeat(side, axis=1).repeat(side, axis=2)
    chosen = hidden_seeds & tracks.visible[0, ..., -1].numpy()
    return {
        "predicted_tracks": (path, hidden_seeds),
        "error": track_error(tracks.points[0].numpy()[chosen], path[chosen]),
    }


def track_error(true: Floats, predicted: Floats) -> TrackError | None:
    """Mean distance of the last points of [n, L + 1, 2] trajectories; None if there are none."""
    if not len(true):
        return None
    missed = np.linalg.norm(predicted[:, -1] - true[:, -1], axis=-1).mean()
    moved = np.linalg.norm(true[:, 0] - true[:, -1], axis=-1).mean()
    return TrackError(float(missed), float(moved), len(true))


def hog_pictures(
    config: PretrainConfig, batch: Batch, predictions: dict[str, Tensor]
) -> dict[str, HogPictures]:
    """Histograms of the active HOG targets, colour channels averaged."""
    pictures = {}
    patch, settings = config.clip.patch, config.targets
    for name, title in (("hog", "on the grid"), ("trajectory_hog", "along trajectories")):
        if name not in predictions:
            continue
        target, predicted = batch.targets[name], predictions[name][0]
        if name == "hog":
            places = (patch // settings.hog.cell) ** 2
            arrange = _grid_layout(settings.hog, places)
        else:
            places = config.motion.seeds
            arrange = _point_layout(settings.trajectory_hog, places, config.motion.length)
        spacing = patch / places**0.5
        tokens = config.clip.tokens
        valid = arrange(target.valid[0].expand_as(predicted).float())
        pictures[title] = _hog_picture(
            on_grid(arrange(target.values[0]), tokens),
            on_grid(arrange(predicted), tokens).clip(min=0),
            on_grid(valid, tokens)[..., 0] > 0,
            batch.mask[0].reshape(tokens).numpy(),
            spacing,
        )
    return pictures


def _channels(settings: HogSettings) -> int:
    return 3 if settings.colour == "rgb" else 1


def _grid_layout(settings: HogSettings, places: int) -> Any:
    """[N, (channel, place, bin)] → [N, place, 1, bin]."""

    def arrange(values: Tensor) -> Tensor:
        split = values.reshape(len(values), _channels(settings), places, settings.bins)
        return split.mean(dim=1)[:, :, None]

    return arrange


def _point_layout(settings: HogSettings, places: int, length: int) -> Any:
    """[N, (point, step, channel, bin)] → [N, point, step, bin]."""

    def arrange(values: Tensor) -> Tensor:
        shape = (len(values), places, length, _channels(settings), settings.bins)
        return values.reshape(shape).mean(dim=3)

    return arrange


def _hog_picture(
    true: Floats, predicted: Floats, valid: Bools, hidden: Bools, spacing: float
) -> HogPictures:
    """From grids [t, h, w, S, bins] to lists of places [t, S, h · w, bins]."""
    time, height, width, steps, bins = true.shape
    x = np.arange(width) * spacing + (spacing - 1) / 2
    y = np.arange(height) * spacing + (spacing - 1) / 2
    side = height // hidden.shape[1]
    strong = true[valid].max(axis=-1) if valid.any() else np.ones(1)
    return HogPictures(
        true=true.reshape(time, -1, steps, bins).swapaxes(1, 2),
        predicted=predicted.reshape(time, -1, steps, bins).swapaxes(1, 2),
        valid=valid.reshape(time, -1, steps).swapaxes(1, 2),
        hidden=hidden.repeat(side, axis=1).repeat(side, axis=2).reshape(time, -1),
        centres=np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2),
        spacing=spacing,
        strongest=float(np.quantile(strong, 0.95)),
    )


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
