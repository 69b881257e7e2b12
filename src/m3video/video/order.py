"""Which clips make which batch of training."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from m3video.video.sampling import sample_generator


class TrainingOrder:
    """Batches of (epoch, index), step by step, of permutations from (seed, epoch).

    Args:
        count: clips.
        batch: of all processes.
        seed: of the order.
        first_step: 0, or the step to resume at.
        last_step: the step before which to stop.
        part: the places of each batch that are wanted here; None: all.
    """

    def __init__(
        self,
        count: int,
        batch: int,
        seed: int,
        first_step: int,
        last_step: int,
        part: slice | None = None,
    ) -> None:
        self._count = count
        self._batch = batch
        self._seed = seed
        self._steps = range(first_step, last_step)
        self._part = part or slice(None)

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        # Clips that an epoch's whole batches use; a set smaller than a batch is used up each epoch,
        # and batches run on into the next one.
        used = max(self._count // self._batch, 1) * min(self._batch, self._count)
        epoch, order = -1, list[int]()
        for step in self._steps:
            keys = []
            for place in range(step * self._batch, (step + 1) * self._batch):
                if place // used != epoch:
                    epoch = place // used
                    # Clips have the generators 0 … count − 1 of an epoch; its order has the next.
                    generator = sample_generator(self._seed, epoch, self._count)
                    order = torch.randperm(self._count, generator=generator).tolist()
                keys.append((epoch, order[place % used]))
            yield keys[self._part]
