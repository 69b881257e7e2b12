"""Checkpoints of a run: each appears whole, or not at all.

    checkpoints/step-120/model.safetensors      the masked autoencoder
    checkpoints/step-120/optimizer.safetensors  AdamW's tensors, as `<parameter>/<entry>`
    checkpoints/step-120/state.json             the counters
    last                                        a link to the newest of them
    model/                                      the encoder alone, for `load_encoder`

A checkpoint is written in a hidden directory beside its place, forced to the disk and renamed; then
`last` is moved, and only then are old ones removed.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path

from torch import Tensor, nn, optim

from m3video.errors import CheckpointError
from m3video.model.checkpoint import (
    load_weights,
    read_json,
    read_tensors,
    write_json,
    write_tensors,
    written_whole,
)
from m3video.train.optim import load_state_by_name, state_by_name

MODEL = "model.safetensors"
OPTIMIZER = "optimizer.safetensors"
STATE = "state.json"
NORM = "encoder.norm."
"""The last norm of an encoder, which not everyone has."""


@dataclass
class TrainState:
    """The counters of a run."""

    step: int = 0
    """Steps done, skipped ones included."""
    bad_steps: int = 0
    """Steps skipped because the loss or the gradient was not finite."""
    bad_in_a_row: int = 0
    """How many of them came last."""
    unreadable: dict[str, str] = field(default_factory=dict)
    """Videos that could not be read while training: path → reason."""
    seconds: float = 0.0
    """Time spent training, over all resumptions."""


def save_checkpoint(
    folder: Path,
    last: Path,
    *,
    model: nn.Module,
    optimizer: optim.Optimizer,
    state: TrainState,
    keep: int,
) -> Path:
    """Write step-N of `folder` and let `last` point there; the newest `keep` remain."""
    place = folder / f"step-{state.step}"
    if not place.exists():
        with written_whole(place) as aside:
            aside.mkdir()
            write_tensors(aside / MODEL, model.state_dict())
            write_tensors(aside / OPTIMIZER, state_by_name(model, optimizer))
            write_json(aside / STATE, asdict(state))
    _point(last, place)
    for old in whole_checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return place


def load_checkpoint(place: Path, model: nn.Module, optimizer: optim.Optimizer) -> TrainState:
    """Put a model and its optimiser back where a checkpoint left them.

    Raises:
        CheckpointError: a file is missing or damaged, or does not fit the model.
    """
    load_weights(model, read_tensors(place / MODEL), place / MODEL)
    moments = read_tensors(place / OPTIMIZER)
    state = read_json(place / STATE)
    try:
        load_state_by_name(model, optimizer, moments)
        return TrainState(**state)
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(
            f"{place}: does not fit this run: {error}; remove it to go on from the one before"
        ) from error


def newest_checkpoint(folder: Path, last: Path) -> Path | None:
    """Find where to resume (None: at the start); clears away what an interrupted save left."""
    for leftover in folder.glob(".step-*"):
        shutil.rmtree(leftover)
    found = whole_checkpoints(folder)
    if not found:
        return None
    _point(last, found[-1])
    return found[-1]


def whole_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first."""
    numbers = {place: place.name.removeprefix("step-") for place in folder.glob("step-*")}
    places = [place for place, number in numbers.items() if number.isdecimal()]
    return sorted(places, key=lambda place: int(numbers[place]))


def load_init(model: nn.Module, path: Path) -> list[str]:
    """Start a model from the weights of a run's newest checkpoint, or of a model directory.

    The encoder must fit; of the rest (decoder, heads) what has the same name and shape is taken. A
    classifier's norm is the last norm of its encoder again. Positions are those of the new clip.

    Returns:
        Names of the weights that keep their initial values.

    Raises:
        CheckpointError: nothing to load in `path`, or an encoder of another shape.
    """
    weights = _init_weights(path)
    own = model.state_dict()
    for name, tensor in own.items():
        if name.startswith("encoder.") and (name in weights or not name.startswith(NORM)):
            shape = list(weights[name].shape) if name in weights else "nothing"
            if shape != list(tensor.shape):
                raise CheckpointError(
                    f"--init {path}: {name} is {shape} there and {list(tensor.shape)} here; "
                    "choose the same model.size and clip.patch, or other weights"
                )
    taken = {
        name: tensor
        for name, tensor in weights.items()
        if name in own and tensor.shape == own[name].shape
    }
    model.load_state_dict(taken, strict=False)
    return sorted(own.keys() - taken.keys())


def _init_weights(path: Path) -> dict[str, Tensor]:
    """By the names of a masked autoencoder."""
    if (path / "last" / MODEL).exists():
        weights = read_tensors(path / "last" / MODEL)
    else:
        places = [place for place in (path / "model", path) if (place / MODEL).exists()]
        if not places:
            raise CheckpointError(
                f"--init {path}: no weights there; give a run directory with a checkpoint, "
                f"or a directory with {MODEL}"
            )
        weights = read_tensors(places[0] / MODEL)
        if not any(name.startswith("encoder.") for name in weights):
            weights = {f"encoder.{name}": tensor for name, tensor in weights.items()}
    return {
        f"encoder.{name}" if name.startswith("norm.") else name: tensor
        for name, tensor in weights.items()
    }


def _point(link: Path, place: Path) -> None:
    """Let a link point at a place beside or below it, in one instant."""
    aside = link.with_name(f".{link.name}.partial")
    aside.unlink(missing_ok=True)
    aside.symlink_to(place.relative_to(link.parent))
    aside.replace(link)
