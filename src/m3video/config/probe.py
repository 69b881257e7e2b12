"""Probes of frozen features."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic.types import NonNegativeFloat, PositiveFloat, PositiveInt

from m3video.config.base import Config

ProbeKind = Literal["linear", "knn", "attentive"]


class ProbeConfig(Config):
    """Measure frozen features on labelled videos: linear and attentive probe, neighbours."""

    # A field that is added must by its default leave the numbers as they were: finished cells of
    # studies do not name it.

    init: Path
    """A run or model directory."""
    data: str
    """Labelled videos: a folder of class folders, a manifest, a list, or `moving-shapes`."""
    out: Path | None = None
    """Where the result is written; by default `probe-DATA.json` in a run directory."""
    kinds: tuple[ProbeKind, ...] = Field(("linear", "knn"), min_length=1)
    """linear: of the mean token. knn: its nearest neighbours. attentive: a learned query looks at
    all tokens (V-JEPA); it costs more time, and room on the disk while it runs."""
    shots: tuple[PositiveInt, ...] = ()
    """Labels a class: the probes are also fitted to so many training videos of each."""
    draws: int = Field(5, ge=2)
    """How many times the videos of `shots` are drawn."""
    untrained: bool = False
    """Use the same architecture with fresh weights: the baseline."""
    group: str | None = None
    """Manifest column whose videos stay together when the data is split, e.g. the scene."""
    folds: int = Field(5, ge=2)
    """Parts of the cross-validation; not used when the manifest has a column `split`."""
    segments: int = Field(2, ge=1)
    """Clips a video, evenly spaced; their features are averaged."""
    lr: tuple[PositiveFloat, ...] = Field((0.3, 0.1, 0.03, 0.01), min_length=1)
    """Learning rates of the linear probe, all in one pass."""
    weight_decay: tuple[NonNegativeFloat, ...] = Field((0.0, 1e-3, 1e-2), min_length=1)
    """Weight decays of the linear probe, all in one pass."""
    epochs: int = Field(100, ge=1)
    """Passes of the linear probe over the features."""
    attentive_lr: tuple[PositiveFloat, ...] = Field((3e-3, 1e-3, 3e-4, 1e-4), min_length=1)
    """Learning rates of the attentive probe, all in one pass."""
    attentive_weight_decay: tuple[NonNegativeFloat, ...] = Field((0.05,), min_length=1)
    """Weight decays of the attentive probe, all in one pass."""
    attentive_epochs: int = Field(20, ge=1)
    """Passes of the attentive probe over the tokens."""
    neighbours: int = Field(20, ge=1)
    """k of the nearest-neighbour vote."""
    batch: int = Field(32, ge=1)
    """Clips at a time through the encoder."""
    workers: int = Field(2, ge=0)
    """Data worker processes."""
    devices: int = Field(1, ge=1)
    """Processes to start on this machine, each with a GPU of its own where there are any. Under
    torchrun, leave it at 1."""
    device: str = "auto"
    """auto, cpu, cuda, or any torch device."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Of the folds, the batches and the fresh weights."""
    train_clips: int = Field(1200, ge=1)
    """Training clips of `moving-shapes`."""
    test_clips: int = Field(600, ge=1)
    """Test clips of `moving-shapes`."""
    texture: Literal["noise", "photo", "both"] = "both"
    """Textures of `moving-shapes`."""

    @model_validator(mode="after")
    def _named_once(self) -> Self:
        for name, values in (("kinds", self.kinds), ("shots", self.shots)):
            if len(set(values)) < len(values):
                raise ValueError(f"{name} {', '.join(map(str, values))}: give each only once")
        return self
