"""Action detection: what people in boxes do."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from m3video.config.base import Config
from m3video.config.clip import AugmentConfig
from m3video.config.train import Share, TrainConfig


class DetectAugment(Config):
    """Light: boxes go through it, too."""

    scales: tuple[float, ...] = AugmentConfig.model_fields["scales"].default
    """Crop sizes to draw from, as a share of the largest crop of the clip's aspect that fits."""
    flip: Literal["auto", "on", "off"] = "auto"
    """Mirror half of the clips. auto: unless the name of an action holds a direction."""


class DetectTrain(TrainConfig):
    """Optimiser, schedule, and how the run is kept."""

    batch: int = Field(128, ge=1)
    """Key frames a step."""
    epochs: float = Field(30, gt=0)
    """Passes over the data; ignored when steps is given."""
    warmup: float = Field(5 / 30, ge=0, le=1)
    """Share of the steps in which the learning rate rises from 0."""
    lr: float = Field(5e-4, gt=0)
    """Peak learning rate of the head at batch 256; scaled by batch / 256."""
    min_lr: float = Field(1e-6, ge=0)
    """Learning rate of the head at the end of the cosine, not scaled; at most the peak."""
    betas: tuple[Share, Share] = (0.9, 0.999)
    """AdamW's β."""
    layer_decay: float = Field(0.75, gt=0, le=1)
    """Factor of the learning rate from one block to the one below it."""
    drop_path: Share = 0.2
    """Chance that the last block is skipped for a sample; it falls linearly to 0 at the first."""


class DetectTrainConfig(Config):
    """Train an encoder to say what the people in boxes do, on key frames of AVA."""

    init: Path
    """The run or model directory whose encoder is fine-tuned."""
    data: Path
    """boxes.csv, which `m3video index --format ava` writes beside the manifest."""
    out: Path
    """The run directory."""
    resume: bool = False
    """Go on with the interrupted run in `out`."""
    devices: int = Field(1, ge=1)
    """Processes to start on this machine, each with a GPU of its own where there are any. Under
    torchrun, leave it at 1."""
    split: str = "train"
    """The key frames to learn from: those that the column `split` names so."""
    frames: int | None = Field(None, ge=1)
    """Frames of a clip; without it, as in pre-training. For others, and for another size, the
    table of positions is interpolated."""
    size: tuple[int, int] | None = None
    """Height and width of a clip in pixels; without it, as in pre-training."""
    stride: int | None = Field(None, ge=1)
    """Raw frames from one input frame to the next; without it, as in pre-training."""
    augment: DetectAugment = DetectAugment()
    """Crop and flip."""
    train: DetectTrain = DetectTrain()
    """Optimiser, schedule, run."""


class DetectEvaluateConfig(Config):
    """Test a detector: frame mAP at IoU 0.5, as the ActivityNet evaluation of AVA."""

    model: Path
    """A run of `detect train`, or a model directory of a detector."""
    data: Path
    """boxes.csv, which `m3video index --format ava` writes beside the manifest."""
    out: Path
    """Folder for evaluation.json and detections.csv."""
    split: str = "val"
    """The key frames to test: those that the column `split` names so."""
    detections: Path | None = None
    """People found by a detector, a CSV of lines video_id,timestamp,x1,y1,x2,y2,,score as those
    published for AVA; without it, the annotated boxes are used, which is easier."""
    person_score: float = Field(0.8, ge=0, le=1)
    """Lowest score of the boxes in `detections` that are used."""
    most: int = Field(50, ge=1)
    """Scores of a key frame that count, a box and an action each: the highest, officially 50."""
    batch: int = Field(4, ge=1)
    """Key frames at a time."""
    workers: int = Field(2, ge=0)
    """Data worker processes."""
    device: str = "auto"
    """auto, cpu, cuda, or any torch device."""
