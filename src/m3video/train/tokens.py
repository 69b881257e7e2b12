"""Tokens of many clips, kept on the disk while a probe reads them again and again.

- One file without a name: it goes with its process, however that ends.
- Layer-normalised, so that float16 holds every value: none is larger than √D.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from m3video.errors import ConfigError
from m3video.train.world import ALONE, World

COLLECTED = 64
"""Clips that travel from one process to another at a time."""


class TokenFile:
    """Clips' tokens are appended, then read; `open_tokens` makes one.

    Args:
        file: an open file, empty.
        shape: N and D of a clip.
    """

    def __init__(self, file: IO[bytes], shape: tuple[int, int]) -> None:
        self._file = file
        self._shape = shape
        self._count = 0

    def append(self, tokens: Tensor) -> None:
        """Add clips: [B, N, D], on any device."""
        self._file.write(pack_tokens(tokens).tobytes())
        self._count += len(tokens)

    def __len__(self) -> int:
        return self._count

    def collect(self, since: int, world: World) -> None:
        """Have rank 0 append what the other processes have appended since they had `since` clips.

        Those of rank 0 come first, then those of rank 1, and so on.
        """
        counts = world.gather(self._count - since)
        mine = None if world.main else self.read()
        for rank, count in enumerate(counts):
            for start in range(0, count if rank else 0, COLLECTED):
                size = min(COLLECTED, count - start)
                part = torch.empty(size, *self._shape, dtype=torch.float16)
                if rank == world.rank and mine is not None:
                    part = torch.from_numpy(np.array(mine[since + start : since + start + size]))
                world.send(part, rank)
                if world.main:
                    self._file.write(part.numpy().tobytes())
                    self._count += size

    def read(self) -> NDArray[np.float16]:
        """All clips so far, float16 [M, N, D], mapped and not in memory."""
        self._file.flush()
        return np.memmap(self._file, dtype=np.float16, mode="r", shape=(self._count, *self._shape))


@contextmanager
def open_tokens(
    folder: Path, *, clips: int, shape: tuple[int, int], world: World = ALONE
) -> Iterator[TokenFile]:
    """A file for the tokens of clips, in a folder where it has no name.

    Args:
        folder: tells the disk.
        clips: how many will come, to all processes together.
        shape: N and D of a clip.
        world: the processes, each of which opens its own file there.

    Raises:
        ConfigError: the disk has no room for them.
    """
    # Rank 0 looks for all, before any of them writes.
    world.first(lambda: check_room(folder, clips, shape, world))
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        yield TokenFile(file, shape)


def check_room(folder: Path, clips: int, shape: tuple[int, int], world: World) -> None:
    """Rank 0 will have the tokens of all clips, each other process those of its part.

    Raises:
        ConfigError: the disk has no room for all these files.
    """
    others = clips - len(world.deal(range(clips)))
    needed = 2 * (clips + others) * shape[0] * shape[1]
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ConfigError(
            f"{folder}: the attentive probe keeps {needed / 1e9:.1f} GB of tokens there while it "
            f"runs, and {free / 1e9:.1f} GB are free; write --out to another disk, or use fewer "
            "--segments"
        )


def pack_tokens(tokens: Tensor) -> NDArray[np.float16]:
    """What is kept of tokens [..., D]: each with mean 0 and deviation 1, float16."""
    normed = nn.functional.layer_norm(tokens.float(), tokens.shape[-1:])
    packed: NDArray[np.float16] = normed.half().cpu().numpy()
    return packed
