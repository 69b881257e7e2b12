"""Weights of others in, ours out."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

import tyro
from pydantic import Field, model_validator

from m3video.config.base import Config

ExportFormat = Literal["safetensors", "hf", "onnx", "torch"]
_SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}


class ImportConfig(Config):
    """Turn weights of VideoMAE, VideoMAE V2, MME, TrackMAE or transformers into a model directory.

    The encoder is taken, and the classifier where there is one. Nothing in the file is run.
    """

    source: tyro.conf.Positional[Path]
    """An official .pth (or .safetensors) file, or a folder of transformers' VideoMAE."""
    out: Path
    """The model directory to write."""
    frames: int | None = Field(None, ge=1)
    """Frames of a clip that the weights were trained on; 16 unless the folder says otherwise."""
    size: tuple[int, int] | None = None
    """Height and width that they were trained on; 224 224 unless the folder says otherwise."""
    stride: int | None = Field(None, ge=1)
    """Raw-rate frames from one frame of a clip to the next: 4 as on Kinetics by default; 2 is usual
    on Something-Something."""
    heads: int | None = Field(None, ge=1)
    """Attention heads; by default those of the published sizes, and width / 64 for others."""
    labels: Path | None = None
    """Names of a classifier's classes: one a line, or JSON, a list or {"id": "name"}."""


class ExportConfig(Config):
    """Write a model for other programs, and check that it computes the same there."""

    model: tyro.conf.Positional[Path]
    """A run directory or a model directory."""
    out: Path
    """A folder for safetensors and hf; FILE.onnx; FILE.pt2 for torch."""
    format: ExportFormat = "safetensors"
    """safetensors: a copy of the model directory. hf: a folder for transformers' VideoMAE. onnx:
    one ONNX file. torch: a program of torch.export. The last two take any batch size."""
    push: str | None = None
    """USER/NAME: also upload it, with a model card, to a private repository of that name on the
    Hugging Face Hub."""

    @model_validator(mode="after")
    def _out_fits_format(self) -> Self:
        suffix = _SUFFIXES.get(self.format)
        if suffix is not None and self.out.suffix != suffix:
            raise ValueError(f"out {self.out} must end in {suffix} for format {self.format}")
        if suffix is None and self.out.suffix in _SUFFIXES.values():
            raise ValueError(
                f"out {self.out} is a folder for format {self.format}; for a file give "
                "--format onnx or torch"
            )
        return self

    @model_validator(mode="after")
    def _push_names_a_repository(self) -> Self:
        if self.push is not None and self.push.count("/") != 1:
            raise ValueError(f"push {self.push!r} must be USER/NAME")
        return self
