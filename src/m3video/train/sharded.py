"""Checkpoints in parts: each process writes its own, in the background, as safetensors.

    checkpoints/step-120/shard-00001-….safetensors   what process 0 has of model and optimiser
    checkpoints/step-120/state.json                  the counters

- torch.distributed.checkpoint writes and reads them; any number of processes can read what any
  other number wrote, and what one process alone wrote (`checkpoint`): names and tensors are alike.
- Its own format is a pickle; its writer of safetensors is used.
- The step goes on as soon as the tensors are copied to the host. A checkpoint appears when all
  parts are on the disk, between two later steps.
"""

from __future__ import annotations

import shutil
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch import Tensor, nn, optim
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save

from m3video.errors import CheckpointError, LostProcessError, NotWrittenError
from m3video.train.optim import load_state_by_name, state_by_name
from m3video.train.world import World, is_lost


class ShardedWriter:
    """Writes one checkpoint at a time, in the background.

    Args:
        world: who takes part; more than one.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        # Its messages come from another thread, and must not mix with those of the step.
        self._group = dist.new_group(backend="gloo")
        self._folder = Path()
        self._writing: Future[Any] | None = None

    def begin(self, folder: Path, model: nn.Module, optimizer: optim.Optimizer) -> None:
        """Copy the tensors to the host, and write them into a new folder while others go on."""

        def make() -> None:
            if folder.exists():
                shutil.rmtree(folder)
            folder.mkdir(parents=True)

        self._world.first(make)
        tensors = {**model.state_dict(), **state_by_name(model, optimizer)}
        writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
        saving = async_save(tensors, storage_writer=writer, process_group=self._group)
        assert isinstance(saving, Future)
        self._folder, self._writing = folder, saving

    def done(self, *, wait: bool) -> bool:
        """Whether what was begun has just been written; all processes get the same answer.

        Raises:
            NotWrittenError: it could not be written, by any of them.
            LostProcessError: another process has ended.
        """
        if self._writing is None:
            return False
        # They do not hear of it at the same moment, and must go on or fail at the same step.
        if not wait and self._world.agree(not self._writing.done())[0]:
            return False
        writing, self._writing = self._writing, None
        try:
            writing.result()
        except (CheckpointException, OSError, RuntimeError) as error:
            cause = _cause(error)
            why = _reason(cause)
            # What the file system says holds paths, which may read as anything.
            if is_lost(cause) and not isinstance(cause, OSError):
                raise LostProcessError(f"another process of the run has ended: {why}") from error
            reason = f"{self._folder}: cannot be written: {why}"
            raise NotWrittenError.of(reason, cause) from error
        return True


def load_sharded(place: Path, model: nn.Module, optimizer: optim.Optimizer) -> None:
    """Put a model and its optimiser, in parts or whole, back where a checkpoint left them.

    Raises:
        CheckpointError: a file is missing or damaged, or does not fit the model.
    """
    there = _shapes(place)
    own = model.state_dict()
    moments: dict[str, Tensor] = {}
    parameters = dict(model.named_parameters())
    for key in there.keys() - own.keys():
        name = key.rpartition("/")[0]
        if name not in parameters:
            raise CheckpointError(f"{place}: weights of another model: {key} not part of the model")
        like = parameters[name].detach()
        scalar = torch.zeros((), device=like.device)
        moments[key] = torch.zeros_like(like) if there[key] == like.shape else scalar
    targets = {**own, **moments}
    for key, target in targets.items():
        if there.get(key) != target.shape:
            found = list(there[key]) if key in there else "missing"
            raise CheckpointError(
                f"{place}: weights of another model: {key} is {found}, the model wants "
                f"{list(target.shape)}"
            )
    _read(place, targets)
    load_state_by_name(model, optimizer, moments)


def read_sharded(place: Path) -> dict[str, Tensor]:
    """The weights of a model, whole, on the CPU; in one process alone.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    shapes = {key: shape for key, shape in _shapes(place).items() if "/" not in key}
    tensors = {key: torch.zeros(shape) for key, shape in shapes.items()}
    _read(place, tensors, alone=True)
    return tensors


def _shapes(place: Path) -> dict[str, torch.Size]:
    """Of all tensors of a checkpoint, by name."""
    try:
        found = HuggingFaceStorageReader(str(place)).read_metadata().state_dict_metadata
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(f"{place}: cannot be read: {_reason(error)}") from error
    return {
        key: entry.size for key, entry in found.items() if isinstance(entry, TensorStorageMetadata)
    }


def _read(place: Path, tensors: dict[str, Tensor], *, alone: bool = False) -> None:
    reader = HuggingFaceStorageReader(str(place))
    try:
        load(tensors, storage_reader=reader, no_dist=alone or not dist.is_initialized())
    except (CheckpointException, OSError, SafetensorError) as error:
        raise CheckpointError(f"{place}: cannot be read: {_reason(error)}") from error


def _cause(error: BaseException) -> BaseException:
    """Torch's error holds those of the processes, each with where it was raised: the first."""
    if isinstance(error, CheckpointException):
        return next(iter(error.failures.values()))[0]
    return error


def _reason(error: BaseException) -> str:
    """In one line."""
    return " ".join(str(_cause(error)).split())
