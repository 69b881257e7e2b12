"""Clips -> features -> the rows of a part."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from m3video.config import EmbedConfig
from m3video.errors import CheckpointError
from m3video.find.store import part_table
from m3video.find.windows import Windows
from m3video.model.vit import VisionTransformer
from m3video.video.augment import normalise
from m3video.video.loader import Clips

PART_SECONDS = 30.0
"""From one part to the next."""
PART_BYTES = 128 * 2**20
"""Of features that are held in memory at most, give or take a batch."""


@torch.inference_mode()
def encode(
    encoder: VisionTransformer, frames: Tensor, *, tokens: bool, device: torch.device
) -> Tensor:
    """Features of clips: uint8 [C, T, h, w, 3] → float32 [C, 1, D], or [C, N, D], on the CPU.

    Raises:
        CheckpointError: they are not finite.
    """
    values = encoder(normalise(frames.to(device))).float()
    if not tokens:
        values = values.mean(1, keepdim=True)
    if not bool(values.isfinite().all()):
        raise CheckpointError(
            "the model gives features that are not finite: its training diverged, or its weights "
            "are broken; use another --model"
        )
    out: Tensor = values.cpu()
    return out


@dataclass
class Held:
    """Rows that are in no part yet."""

    units: list[int] = field(default_factory=list)
    features: list[NDArray[Any]] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    since: float = field(default_factory=time.monotonic)

    @property
    def full(self) -> bool:
        """Whether it is time for a part."""
        size = sum(features.nbytes for features in self.features)
        return size >= PART_BYTES or time.monotonic() - self.since >= PART_SECONDS

    def add(
        self,
        clips: Clips,
        encoder: VisionTransformer,
        windows: Windows,
        config: EmbedConfig,
        device: torch.device,
    ) -> None:
        """Encode an item of `WindowBatches`, without B."""
        units = clips.extras["unit"].tolist()
        self.unreadable += clips.unreadable
        if units:
            values = encode(encoder, clips.frames, tokens=config.tokens, device=device)
            values = values.view(len(units), windows.each, -1).mean(1)
            self.features.append(values.numpy().astype(config.dtype))
            self.units += units


def no_rows(encoder: VisionTransformer, config: EmbedConfig) -> NDArray[Any]:
    """No features, of the shape and type of those of this job."""
    tokens = encoder.clip.token_count if config.tokens else 1
    return np.empty((0, tokens * encoder.width), config.dtype)


def part_of(windows: Windows, held: Held, nothing: NDArray[Any]) -> pa.Table:
    """The rows that are held; `nothing` has the shape and type of no row."""
    videos = [windows.videos[windows.video_of(unit)] for unit in held.units]
    return part_table(
        [str(video.path) for video in videos],
        [windows.seconds(unit) for unit in held.units],
        [video.label for video in videos],
        np.concatenate([nothing, *held.features]),
    )
