"""One model on several devices: gradients are those of the whole batch, whoever saw which part.

- `ddp` (DistributedDataParallel): every process holds all weights; gradients are summed.
- `fsdp` (FSDP2's `fully_shard`): every process holds a part of each weight, of its gradient and of
  AdamW's state, and blocks are put together when they are needed; for models that are too large.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel

from m3video.config import TrainConfig
from m3video.model.vit import Block
from m3video.train.world import World


class Parallel:
    """A model as it is called in a step.

    Args:
        model: on the CPU, with the same weights everywhere. It is moved to the device, block by
            block with `fsdp`, where its parameters become parts: an optimiser is made after this.
        config: how.
        world: who takes part.
        device: where it computes.

    Attributes:
        forward: what to call in place of the model.
    """

    def __init__(
        self, model: nn.Module, config: TrainConfig, world: World, device: torch.device
    ) -> None:
        self._model = model
        self._world = world
        self._device = device
        self._wrapped: DistributedDataParallel | None = None
        blocks = [module for module in model.modules() if isinstance(module, Block)]
        self._blocks = blocks
        for block in blocks:
            block.recompute = config.recompute
        if world.size > 1 and config.strategy == "fsdp":
            mesh = init_device_mesh(device.type, (world.size,))
            for block in blocks:
                fully_shard(block, mesh=mesh)
            fully_shard(model, mesh=mesh)
        model.to(device)
        # A compiled module shares the weights; those of the model keep their names.
        self.forward: Any = torch.compile(model) if config.compile else model
        if world.size > 1 and config.strategy == "ddp":
            self._wrapped = DistributedDataParallel(self.forward, gradient_as_bucket_view=True)
            self.forward = self._wrapped

    def draw(self, samples: range, count: int) -> None:
        """What is drawn for a micro-batch is the part of what is drawn for the whole batch.

        Args:
            samples: places of its samples among those of this process.
            count: samples of this process.
        """
        before = self._world.rank * count
        places = slice(before + samples.start, before + samples.stop)
        for block in self._blocks:
            block.draw(places, self._world.size * count, self._device)

    @contextmanager
    def last(self, last: bool) -> Iterator[None]:
        """Around forward and backward of a micro-batch: gradients travel in the last one alone."""
        if isinstance(self._model, FSDPModule):
            self._model.set_requires_gradient_sync(last)
            yield
        elif self._wrapped is not None and not last:
            with self._wrapped.no_sync():
                yield
        else:
            yield

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a part of the whole batch's loss.

        Both kinds of sharing average over processes, and a sum is wanted.
        """
        torch.autograd.backward(loss * self._world.size)
