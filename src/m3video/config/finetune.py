"""Fine-tuning and testing a classifier: all weights are trained on labels."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from m3video.config.base import Config
from m3video.config.train import Share, TrainConfig

Sampling = Literal["dense", "segment"]
Texture = Literal["noise", "photo", "both"]


class ShortFinetuneConfig(Config):
    """Train the encoder and a classifier on labelled clips in memory, as studies do.

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


class FinetuneAugment(Config):
    """What a training clip goes through; all frames of it alike."""

    scales: tuple[float, ...] = (1.0, 0.875, 0.75, 0.66)
    """Crop sizes to draw from, as a share of the largest crop of the clip's aspect that fits."""
    flip: Literal["auto", "on", "off"] = "auto"
    """Mirror half of the clips. auto: unless the name of a class holds a direction (left, right,
    clockwise)."""
    repeats: int = Field(2, ge=1)
    """Samples of each video in a step: read once, cropped and augmented anew for each."""
    operations: int = Field(4, ge=0)
    """RandAugment: operations a sample, of which half are skipped; 0 is off. Operations, magnitude
    and its deviation are those of rand-m7-n4-mstd0.5-inc1."""
    magnitude: float = Field(7.0, ge=0, le=10)
    """RandAugment: mean strength, of 10."""
    magnitude_std: float = Field(0.5, ge=0)
    """RandAugment: standard deviation of the strength."""
    erasing: float = Field(0.25, ge=0, le=1)
    """Share of the samples of which a box is replaced by noise."""
    mixup: float = Field(0.8, ge=0)
    """α of mixup; 0 is off."""
    cutmix: float = Field(1.0, ge=0)
    """α of CutMix; 0 is off."""
    cutmix_share: float = Field(0.5, ge=0, le=1)
    """Share of the steps with CutMix where both are on; the others have mixup."""

    @model_validator(mode="after")
    def _scales_in_range(self) -> FinetuneAugment:
        if not self.scales or not all(0 < scale <= 1 for scale in self.scales):
            raise ValueError(f"scales {self.scales} must be one or more numbers in (0, 1]")
        return self


class FinetuneTrain(TrainConfig):
    """Optimiser, schedule, and how the run is kept."""

    batch: int = Field(384, ge=1)
    """Videos a step; each gives augment.repeats samples."""
    epochs: float = Field(75, gt=0)
    """Passes over the data; ignored when steps is given."""
    warmup: float = Field(5 / 75, ge=0, le=1)
    """Share of the steps in which the learning rate rises from 0: 5 epochs of all, in papers."""
    lr: float = Field(1e-3, gt=0)
    """Peak learning rate of the head at batch 256; scaled by batch / 256."""
    min_lr: float = Field(1e-6, ge=0)
    """Learning rate of the head at the end of the cosine, not scaled; at most the peak."""
    betas: tuple[Share, Share] = (0.9, 0.999)
    """AdamW's β."""
    layer_decay: float = Field(0.75, gt=0, le=1)
    """Factor of the learning rate from one block to the one below it."""
    drop_path: Share = 0.1
    """Chance that the last block is skipped for a sample; it falls linearly to 0 at the first."""
    label_smoothing: Share = 0.1
    """Share of the truth that is spread over all classes."""
    ema: Share | None = None
    """Decay of the average of the weights, which is then what is saved in model/ and tested."""


class ViewsConfig(Config):
    """What of a video is tested: `segments` clips × `crops` of each; probabilities are averaged."""

    segments: int = Field(5, ge=1)
    """Clips a video, evenly spaced."""
    crops: Literal[1, 3] = 3
    """1: the centre. 3: the two ends of the longer side, too."""


class LabelledShapesConfig(Config):
    """The rendered data set `moving-shapes` with labels; used only with that data."""

    train_clips: int = Field(1200, ge=1)
    """Clips to learn from."""
    test_clips: int = Field(600, ge=1)
    """Clips to be right about."""
    texture: Texture = "both"
    """What objects and backgrounds are covered with."""


class FinetuneConfig(Config):
    """Train an encoder and a classifier on labelled videos, all weights."""

    init: Path
    """The run or model directory whose encoder is fine-tuned."""
    data: str
    """Labelled videos: a folder of class folders, a manifest, a list, or `moving-shapes`. A column
    `split` of a manifest (train, val, test) holds videos out."""
    out: Path
    """The run directory."""
    resume: bool = False
    """Go on with the interrupted run in `out`."""
    devices: int = Field(1, ge=1)
    """Processes to start on this machine, each with a GPU of its own where there are any. Under
    torchrun, leave it at 1."""
    scratch: bool = False
    """Keep only the architecture of `init`: the weights are fresh."""
    labels: int | None = Field(None, ge=1)
    """Train on the first so many videos of each class; without it on all."""
    val_share: float = Field(0.0, ge=0, lt=1)
    """Share of each class that is held out where the data has no column `split`."""
    sampling: Sampling = "dense"
    """dense: frames `stride` apart from anywhere. segment: a frame of each of T equal parts of the
    video, at random in training, in the middle in testing. Not for moving shapes."""
    frames: int | None = Field(None, ge=1)
    """Frames of a clip; without it, as in pre-training. For others, and for another size, the
    table of positions is interpolated."""
    size: tuple[int, int] | None = None
    """Height and width of a clip in pixels; without it, as in pre-training."""
    stride: int | None = Field(None, ge=1)
    """Raw frames from one input frame to the next; without it, as in pre-training."""
    augment: FinetuneAugment = FinetuneAugment()
    """Crop, flip, RandAugment, erasing, mixing."""
    train: FinetuneTrain = FinetuneTrain()
    """Optimiser, schedule, run."""
    views: ViewsConfig = ViewsConfig()
    """How the held-out videos are tested at the end."""
    shapes: LabelledShapesConfig = LabelledShapesConfig()
    """The rendered data set."""

    @model_validator(mode="after")
    def _shapes_hold_out_their_own(self) -> FinetuneConfig:
        if self.data == "moving-shapes" and self.val_share:
            raise ValueError("val_share: moving-shapes renders a test set of its own; leave it out")
        return self


class EvaluateConfig(Config):
    """Test a classifier: several views a video, probabilities averaged."""

    model: Path
    """A fine-tuned run, or a model directory of a classifier."""
    data: str
    """Labelled videos: a folder of class folders, a manifest, a list, or `moving-shapes`."""
    out: Path
    """Folder for evaluation.json, predictions.csv, confusion.json and confusion.svg."""
    split: Literal["auto", "train", "val", "test", "all"] = "auto"
    """Which rows of the column `split`. auto: test, else val, else all."""
    segments: int | None = Field(None, ge=1)
    """Clips a video; without it, those of the run's config, else 5."""
    crops: Literal[1, 3] | None = None
    """Crops of each along the longer side; without it, those of the run's config, else 3."""
    sampling: Sampling | None = None
    """dense or segment; without it, that of the run's config, else dense."""
    stride: int | None = Field(None, ge=1)
    """Raw frames from one input frame to the next; without it, as in training."""
    batch: int = Field(4, ge=1)
    """Clips at a time; the crops of a clip go through the model together."""
    workers: int = Field(2, ge=0)
    """Data worker processes."""
    device: str = "auto"
    """auto, cpu, cuda, or any torch device."""
    devices: int = Field(1, ge=1)
    """Processes to start on this machine, each with a GPU of its own where there are any. Under
    torchrun, leave it at 1."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 autocast on a GPU, fp32 on a CPU."""
    shapes: LabelledShapesConfig = LabelledShapesConfig()
    """The rendered data set."""
