"""What a data worker does with a labelled clip: RandAugment, and the box to erase."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from m3video.config import FinetuneAugment
from m3video.video.erasing import draw_box
from m3video.video.loader import Clips
from m3video.video.rand_augment import apply_operation, draw_operations

ERASED = "erased"
"""The extra of a clip that holds its boxes, int64 [repeats, 4]."""


@dataclass(frozen=True)
class AugmentSamples:
    """Augments each sample of a clip on its own; all is drawn from the clip's generator."""

    config: FinetuneAugment

    def __call__(self, clip: Clips, generator: torch.Generator) -> Clips:
        """Change frames uint8 [repeats, T, H, W, 3] and add the extra `ERASED`."""
        settings = self.config
        samples, boxes = [], []
        for frames in clip.frames.numpy():
            drawn = draw_operations(
                settings.operations, settings.magnitude, settings.magnitude_std, generator
            )
            sample = frames
            for operation in drawn:
                sample = apply_operation(sample, operation)
            samples.append(sample)
            boxes.append(draw_box(frames.shape[1:3], settings.erasing, generator))
        return replace(
            clip,
            frames=torch.from_numpy(np.stack(samples)),
            extras={**clip.extras, ERASED: torch.stack(boxes)},
        )
