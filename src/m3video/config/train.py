"""The model, the optimiser and its schedule, and the rendered data set."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from m3video.config.base import Config

Share = Annotated[float, Field(ge=0, lt=1)]


class ModelConfig(Config):
    """Encoder and decoder."""

    size: Literal["nano", "ti", "s", "b", "l", "h", "g"] = "b"
    """Encoder: nano (width 128, 4 blocks, for CPUs) or ViT-Ti/S/B/L/H/g."""
    decoder_width: int = Field(192, ge=8)
    """Width of the decoder."""
    decoder_depth: int = Field(1, ge=1)
    """Blocks of the decoder; without one, hidden tokens would learn nothing of visible ones."""
    decoder_heads: int = Field(3, ge=1)
    """Attention heads of the decoder."""
    decoders: Literal["shared", "per-target"] = "shared"
    """One decoder for all targets, or one each."""

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.decoder_width % self.decoder_heads:
            raise ValueError(
                f"decoder_width {self.decoder_width} is not a multiple of "
                f"decoder_heads {self.decoder_heads}"
            )
        return self


class TrainConfig(Config):
    """Optimiser, schedule, and how the run is kept."""

    batch: int = Field(256, ge=1)
    """Clips per optimiser step."""
    accumulate: int = Field(1, ge=1)
    """Micro-batches that a step is split into."""
    epochs: float = Field(400, gt=0)
    """Passes over the data; ignored when steps is given."""
    steps: int | None = Field(None, ge=1)
    """Optimiser steps in all."""
    warmup: float = Field(0.05, ge=0, le=1)
    """Share of the steps in which the learning rate rises from 0."""
    lr: float = Field(1.5e-4, gt=0)
    """Peak learning rate at batch 256; scaled by batch / 256."""
    min_lr: float = Field(1e-5, ge=0)
    """Learning rate at the end of the cosine, not scaled; at most the peak."""
    weight_decay: float = Field(0.05, ge=0)
    """Decoupled decay of all matrices (not of biases, norms and the mask token)."""
    betas: tuple[Share, Share] = (0.9, 0.95)
    """AdamW's β."""
    clip_grad: float | None = Field(None, gt=0)
    """Largest norm of the gradient."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 autocast on a GPU, fp32 on a CPU."""
    compile: bool = False
    """Run the model through torch.compile."""
    strategy: Literal["ddp", "fsdp"] = "ddp"
    """With several processes: ddp, all weights on each device; fsdp, a part of them on each, for
    models that are too large (L, H, g)."""
    recompute: bool = False
    """Keep no activations inside of blocks: less memory, a third more time."""
    device: str = "auto"
    """auto, cpu, cuda, or any torch device."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Of everything that is drawn."""
    workers: int = Field(4, ge=0)
    """Data worker processes; 0 loads in the training process."""
    checkpoint_every: int = Field(500, ge=1)
    """Steps from one checkpoint to the next."""
    keep: int = Field(2, ge=1)
    """Newest checkpoints that are kept."""
    log_every: int = Field(1, ge=1)
    """Steps from one line of metrics.jsonl to the next."""
    max_bad_steps: int = Field(5, ge=1)
    """Stop after this many steps in a row whose loss is not finite."""
    max_unreadable: float = Field(0.1, ge=0, le=1)
    """Stop when more than this share of the videos could not be read while training."""
    stall_seconds: float = Field(600, gt=0)
    """A data worker that a batch waits for longer than this is replaced, without its file; a server
    of shards may be away for half of it."""

    @model_validator(mode="after")
    def _batch_splits(self) -> Self:
        if self.batch % self.accumulate:
            raise ValueError(
                f"batch {self.batch} is not a multiple of accumulate {self.accumulate}"
            )
        return self


class ShapesConfig(Config):
    """The rendered data set `moving-shapes`; used only with that data."""

    clips: int = Field(3000, ge=1)
    """Clips in an epoch; every epoch renders new ones."""
    texture: Literal["noise", "photo", "both"] = "both"
    """What objects and backgrounds are covered with."""
