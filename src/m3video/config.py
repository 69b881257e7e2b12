"""Every setting of a run: pydantic models that the command line, YAML files and recipes share.

The docstring below a field is its help text. Unknown keys are refused. A resolved config is saved
as `config.yaml` in the run directory and can be given back with `--config`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.types import NonNegativeFloat, PositiveFloat

from m3video.errors import ConfigError


class Config(BaseModel):
    """Base of all configs: immutable, unknown keys and infinite numbers refused."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


class ClipConfig(Config):
    """What one clip is, in frames, pixels and tokens."""

    frames: int = Field(16, ge=2)
    """T: frames the encoder reads."""
    stride: int = Field(4, ge=1)
    """s: raw-rate frames from one input frame to the next."""
    size: tuple[int, int] = (224, 224)
    """Height and width in pixels."""
    tubelet: int = Field(2, ge=1)
    """Input frames in one token."""
    patch: int = Field(16, ge=2)
    """Height and width of one token in pixels."""

    @property
    def tokens(self) -> tuple[int, int, int]:
        """Token grid (time, rows, columns)."""
        height, width = self.size
        return self.frames // self.tubelet, height // self.patch, width // self.patch

    @property
    def token_count(self) -> int:
        """N."""
        time, rows, columns = self.tokens
        return time * rows * columns

    @model_validator(mode="after")
    def _divides(self) -> Self:
        height, width = self.size
        if self.frames % self.tubelet:
            raise ValueError(f"frames {self.frames} is not a multiple of tubelet {self.tubelet}")
        if min(self.size) < self.patch or height % self.patch or width % self.patch:
            raise ValueError(f"size {height}×{width} is not a multiple of patch {self.patch}")
        return self


class AugmentConfig(Config):
    """One decision per clip, on uint8 frames, before motion is computed."""

    scales: tuple[float, ...] = (1.0, 0.875, 0.75, 0.66)
    """Crop sizes to draw from, as a share of the largest crop of the clip's aspect that fits."""
    flip: bool = False
    """Mirror half of the clips left to right."""

    @model_validator(mode="after")
    def _scales_in_range(self) -> Self:
        if not self.scales or not all(0 < scale <= 1 for scale in self.scales):
            raise ValueError(f"scales {self.scales} must be one or more numbers in (0, 1]")
        return self


class MaskConfig(Config):
    """Which tokens are hidden from the encoder."""

    kind: Literal["tube", "random"] = "tube"
    """tube: the same places in every frame. random: anywhere."""
    ratio: float = Field(0.7, gt=0, lt=1)
    """Share of the tokens that is hidden."""


FlowName = Literal["dis-ultrafast", "dis-fast", "dis-medium", "farneback"]
FLOW_NAMES: tuple[FlowName, ...] = get_args(FlowName)


class MotionConfig(Config):
    """Trajectories: they start in each tubelet's first frame, at the raw frame rate."""

    flow: FlowName = "dis-fast"
    """Optical flow estimator."""
    length: int = Field(6, ge=1, le=64)
    """L: steps of a trajectory, in raw-rate frames."""
    seeds: Literal[1, 4, 16] = 4
    """K: trajectories that start in a patch, on a square grid."""
    where: Literal["worker", "step"] = "worker"
    """Compute motion targets in the data workers or in the training step."""


HeadKind = Literal["linear", "mlp"]
Activation = Literal["none", "sigmoid", "tanh"]
Share = Annotated[float, Field(ge=0, lt=1)]


class TargetConfig(Config):
    """What all targets share."""

    weight: float = Field(0.0, ge=0)
    """Factor of this target's loss; 0 leaves the target out."""
    head: HeadKind = "linear"
    """Prediction head: one linear layer, or Linear-512-GELU-Linear."""
    activation: Activation = "none"
    """Applied to the head's output."""


class PixelConfig(TargetConfig):
    """The pixels of the tubelet."""

    normalise: bool = True
    """Each patch and channel to zero mean and unit deviation (VideoMAE)."""


class HogSettings(TargetConfig):
    """Histograms of oriented gradients."""

    bins: int = Field(9, ge=2)
    """Unsigned orientations over 180°."""
    cell: int = Field(8, ge=2)
    """Side of a cell in pixels."""
    colour: Literal["grey", "rgb"] = "grey"
    """One histogram of the luminance, or one per channel."""
    normalise: Literal["none", "block"] = "block"
    """block: the histograms of a patch and frame together have unit length (MaskFeat)."""


class HogConfig(HogSettings):
    """HOG on the fixed grid of cells in a patch, of each tubelet's first frame."""


class TrajectoryHogConfig(HogSettings):
    """HOG of the cell around each trajectory point: how the moving thing changes (shape)."""


class TrajectoryConfig(TargetConfig):
    """Displacements along the trajectories (position)."""

    normalise: Literal["none", "patch-std", "clip-std", "sum-of-norms"] = "none"
    """none: pixels / scale. patch-std: z-score over a patch's points for each step and axis.
    clip-std: by the deviation of the clip's displacements. sum-of-norms: by the trajectory's
    length, as dense trajectories do."""
    clamp: float = Field(20.0, gt=0)
    """Displacements per step are clamped to ± this many pixels first."""
    scale: float = Field(20.0, gt=0)
    """The pixels that become 1, for `none`; the others divide by what they measure."""
    floor: float = Field(0.1, gt=0)
    """Motion below this many pixels is noise: deviations and lengths are not taken as smaller."""


class TargetsConfig(Config):
    """The weighted sum of targets that is trained."""

    pixel: PixelConfig = PixelConfig()
    """Pixels."""
    hog: HogConfig = HogConfig()
    """HOG on a fixed grid."""
    trajectory: TrajectoryConfig = TrajectoryConfig()
    """Where points go."""
    trajectory_hog: TrajectoryHogConfig = TrajectoryHogConfig()
    """What the points carry."""

    @property
    def active(self) -> dict[str, TargetConfig]:
        """The targets with a weight, by name."""
        named = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: target for name, target in named.items() if target.weight > 0}

    @property
    def needs_motion(self) -> bool:
        """Whether an active target needs trajectories."""
        return any(name.startswith("trajectory") for name in self.active)

    @model_validator(mode="after")
    def _something_to_learn(self) -> Self:
        if not self.active:
            names = ", ".join(type(self).model_fields)
            raise ValueError(f"no target has a weight above 0: set one of {names}")
        return self


class ModelConfig(Config):
    """Encoder and decoder."""

    size: Literal["nano", "ti", "s", "b", "l", "h"] = "b"
    """Encoder: nano (width 128, 4 blocks, for CPUs) or ViT-Ti/S/B/L/H."""
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


class PretrainConfig(Config):
    """Pre-train a video transformer by predicting what is hidden."""

    data: str
    """A folder of videos, a manifest (CSV), a list of "path label" lines, or `moving-shapes`."""
    out: Path
    """The run directory."""
    resume: bool = False
    """Go on with the interrupted run in `out`."""
    init: Path | None = None
    """Start from the weights of this run or model directory."""
    clip: ClipConfig = ClipConfig()
    """What one clip is."""
    augment: AugmentConfig = AugmentConfig()
    """Crop and flip."""
    mask: MaskConfig = MaskConfig()
    """What is hidden."""
    motion: MotionConfig = MotionConfig()
    """How motion is found."""
    targets: TargetsConfig
    """What hidden tokens must predict."""
    model: ModelConfig = ModelConfig()
    """Encoder and decoder."""
    train: TrainConfig = TrainConfig()
    """Optimiser, schedule, run."""
    shapes: ShapesConfig = ShapesConfig()
    """The rendered data set."""

    @model_validator(mode="after")
    def _cells_fit_patches(self) -> Self:
        active = self.targets.active
        if "hog" in active and self.clip.patch % self.targets.hog.cell:
            raise ValueError(
                f"targets.hog.cell {self.targets.hog.cell} does not divide patch {self.clip.patch}"
            )
        if self.targets.needs_motion and self.clip.patch % round(self.motion.seeds**0.5):
            raise ValueError(
                f"motion.seeds {self.motion.seeds} does not fit patch {self.clip.patch}"
            )
        return self

    @property
    def trajectory_length(self) -> int:
        """L, or 0 when no target needs trajectories."""
        return self.motion.length if self.targets.needs_motion else 0


class ProbeConfig(Config):
    """Measure frozen features: linear probe and k nearest neighbours on labelled videos."""

    init: Path
    """A run or model directory."""
    data: str
    """Labelled videos: a folder of class folders, a manifest, a list, or `moving-shapes`."""
    out: Path | None = None
    """Where the result is written; by default `probe-DATA.json` in a run directory."""
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
    neighbours: int = Field(20, ge=1)
    """k of the nearest-neighbour vote."""
    batch: int = Field(32, ge=1)
    """Clips at a time through the encoder."""
    workers: int = Field(2, ge=0)
    """Data worker processes."""
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


def save_config(config: Config, path: Path) -> None:
    """Write a config as YAML."""
    path.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))


def one_line(error: ValidationError) -> str:
    """The first problem of a validation error, and how many more there are, in one line."""
    first, *rest = error.errors()
    where = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    value = "" if first["type"] in {"value_error", "missing"} else f" (got {first['input']!r})"
    more = f"; and {len(rest)} more problems" if rest else ""
    return f"{where}: {message}{value}{more}" if where else f"{message}{value}{more}"


def load_pretrain_config(path: Path) -> PretrainConfig:
    """Read a config that `save_config` wrote, or that a person did.

    Raises:
        ConfigError: not YAML, unknown keys, or values that are not allowed.
    """
    try:
        data = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path}: cannot be read as a YAML config: {reason}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: not a mapping of names to values, as a run's config.yaml is")
    try:
        return PretrainConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{path}: {one_line(error)}") from error
