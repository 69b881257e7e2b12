"""Fine-tuning: all weights are trained on labels."""

from __future__ import annotations

from pydantic import Field

from m3video.config.base import Config
from m3video.config.train import Share


class FinetuneConfig(Config):
    """Train the encoder and a classifier on labelled clips, end to end.

    The defaults are those for the small encoder on 64×64 clips; the papers' are in brackets.
    """

    lr: float = Field(0.016, gt=0)
    """Peak learning rate of the head at batch 256; scaled by batch / 256."""
    layer_decay: float = Field(0.75, gt=0, le=1)
    """Factor of the learning rate from one block to the one below it (0.75)."""
    weight_decay: float = Field(0.05, ge=0)
    """Decoupled decay of all matrices (0.05)."""
    betas: tuple[Share, Share] = (0.9, 0.999)
    """AdamW's β."""
    warmup: float = Field(0.1, ge=0, le=1)
    """Share of the steps in which the learning rate rises from 0."""
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    """Share of the truth that is spread over all classes (0.1)."""
    batch: int = Field(16, ge=1)
    """Clips a step."""
    steps: int = Field(200, ge=1)
    """Optimiser steps in all."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Of the order of the clips."""
