"""Checkpoints of a run: each appears whole, or not at all.

    checkpoints/step-120/model.safetensors      the masked autoencoder
    checkpoints/step-120/optimizer.safetensors  AdamW's tensors, as `<parameter>/<entry>`
    checkpoints/step-120/state.json             the counters
    last                                        a link to the newest of them
    model/                                      the encoder alone, for `load_encoder`

Of a model that is kept in parts (`fsdp`) the first two are in parts, too: see `sharded`.

A checkpoint is written in a hidden directory beside its place, forced to the disk and renamed; then
`last` is moved, and only then are old ones removed.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.distributed.tensor import DTensor, distribute_tensor

from m3video.errors import CheckpointError
from m3video.model.checkpoint import load_weights, read_json, read_tensors, write_tensors
from m3video.train.optim import load_state_by_name, state_by_name
from m3video.train.run import writing
from m3video.train.sharded import ShardedWriter, load_sharded, read_sharded
from m3video.train.world import World
from m3video.whole import sync, write_json, written_whole

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
    _keep_newest(folder, last, place, keep)
    return place


def _keep_newest(folder: Path, last: Path, place: Path, keep: int) -> None:
    """Let `last` point at a checkpoint that is whole, and remove old ones."""
    _point(last, place)
    for old in whole_checkpoints(folder)[:-keep]:
        shutil.rmtree(old)


class Checkpoints:
    """The checkpoints of a run, of whichever kind; every process calls everything.

    Args:
        folder: where they are.
        last: the link to the newest.
        model: of the run; in parts, its checkpoints are in parts and written in the background.
        optimizer: of the run.
        keep: how many remain.
        world: who takes part.
    """

    def __init__(
        self,
        folder: Path,
        last: Path,
        model: nn.Module,
        optimizer: optim.Optimizer,
        keep: int,
        world: World,
    ) -> None:
        self._folder, self._last, self._keep = folder, last, keep
        self._model, self._optimizer = model, optimizer
        self._world = world
        self.sharded = in_parts(model)
        self._writer = ShardedWriter(world) if self.sharded else None
        self._begun: dict[str, Any] = {}
        """The counters of the checkpoint that is being written."""

    def resume(self) -> TrainState | None:
        """Put model and optimiser where the newest checkpoint left them; None where none is.

        Raises:
            CheckpointError: it is damaged, or does not fit.
        """
        place = self.newest()
        if place is None:
            return None
        if not self.sharded and (place / MODEL).exists():
            return load_checkpoint(place, self._model, self._optimizer)
        with _fits(place):
            load_sharded(place, self._model, self._optimizer)
            return TrainState(**read_json(place / STATE))

    def newest(self) -> Path | None:
        """The newest whole one; clears away what an interrupted save left."""
        return self._world.first(lambda: newest_checkpoint(self._folder, self._last))

    def save(self, state: TrainState) -> None:
        """Write one, or begin to."""
        if self._writer is None:
            self._world.first(lambda: self._save_whole(state))
            return
        self.appear(wait=True)
        if self._world.first((self._folder / f"step-{state.step}").exists):
            return
        self._begun = asdict(state)
        self._writer.begin(self._aside(state.step), self._model, self._optimizer)

    def appear(self, *, wait: bool = False) -> None:
        """Let one that was begun take its place if all of it is written.

        Args:
            wait: until it is.
        """
        if self._writer is not None and self._writer.done(wait=wait):
            self._world.first(self._appear)

    def _save_whole(self, state: TrainState) -> None:
        save_checkpoint(
            self._folder,
            self._last,
            model=self._model,
            optimizer=self._optimizer,
            state=state,
            keep=self._keep,
        )

    def _appear(self) -> None:
        step = self._begun["step"]
        place = self._folder / f"step-{step}"
        with writing(place):
            write_json(self._aside(step) / STATE, self._begun)
            self._aside(step).replace(place)
            sync(self._folder)
            _keep_newest(self._folder, self._last, place, self._keep)

    def _aside(self, step: int) -> Path:
        return self._folder / f".step-{step}.partial"


def in_parts(model: nn.Module) -> bool:
    """Whether every process holds a part of each weight."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def whole_weights(model: nn.Module, world: World) -> dict[str, Tensor]:
    """The state dict of a model; every process calls this.

    Where it is in parts, they are put together one after another, on the CPU of rank 0 alone.
    """
    weights = {}
    for name, tensor in model.state_dict().items():
        if isinstance(tensor, DTensor):
            whole = tensor.full_tensor()
            if world.main:
                weights[name] = whole.cpu()
        else:
            weights[name] = tensor
    return weights


def part_of(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The state dict of a part of a model, by the prefix of its names."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in weights.items()
        if name.startswith(prefix)
    }


def checkpoint_weights(place: Path) -> dict[str, Tensor]:
    """The weights of the model of a checkpoint, of whichever kind, on the CPU.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    return read_tensors(place / MODEL) if (place / MODEL).exists() else read_sharded(place)


@contextmanager
def _fits(place: Path) -> Iterator[None]:
    """Tell of a checkpoint of another run in one line."""
    try:
        yield
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(
            f"{place}: does not fit this run: {error}; remove it to go on from the one before"
        ) from error


def load_checkpoint(place: Path, model: nn.Module, optimizer: optim.Optimizer) -> TrainState:
    """Put a model and its optimiser back where a checkpoint left them.

    Raises:
        CheckpointError: a file is missing or damaged, or does not fit the model.
    """
    load_weights(model, read_tensors(place / MODEL), place / MODEL)
    moments = read_tensors(place / OPTIMIZER)
    state = read_json(place / STATE)
    with _fits(place):
        load_state_by_name(model, optimizer, moments)
        return TrainState(**state)


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
    with torch.no_grad():
        for name, tensor in taken.items():
            mine = own[name]
            if isinstance(mine, DTensor):
                mine.copy_(distribute_tensor(tensor, mine.device_mesh, mine.placements))
            else:
                mine.copy_(tensor)
    return sorted(own.keys() - taken.keys())


def _init_weights(path: Path) -> dict[str, Tensor]:
    """By the names of a masked autoencoder."""
    if (path / "last").is_dir():
        weights = checkpoint_weights(path / "last")
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
