"""A pre-training run."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from m3video.config.base import Config, load_config
from m3video.config.clip import ClipConfig, MaskConfig, PretrainAugment
from m3video.config.motion import MotionConfig
from m3video.config.targets import GRID_TARGETS, TargetsConfig
from m3video.config.train import ModelConfig, ShapesConfig, TrainConfig


class PretrainConfig(Config):
    """Pre-train a video transformer by predicting what is hidden."""

    data: str
    """A folder of videos or shards, a manifest (CSV), a list of "path label" lines, the URL of
    shards, or `moving-shapes`."""
    out: Path
    """The run directory."""
    resume: bool = False
    """Go on with the interrupted run in `out`."""
    devices: int = Field(1, ge=1)
    """Processes to start on this machine, each with a GPU of its own where there are any. Under
    torchrun, leave it at 1."""
    init: Path | None = None
    """Start from the weights of this run or model directory."""
    clip: ClipConfig = ClipConfig()
    """What one clip is."""
    augment: PretrainAugment = PretrainAugment()
    """Crop and flip, and how many clips of a span."""
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

    @property
    def needs_tracks(self) -> bool:
        """Whether a target or the mask needs trajectories."""
        return self.targets.needs_tracks or self.mask.needs_tracks

    @property
    def needs_flow(self) -> bool:
        """Whether flow is read: by trajectories that follow it, or by a target."""
        targets = self.targets.active
        along = {"trajectory_hof", "trajectory_mbh"} & targets.keys()
        followed = self.needs_tracks and self.motion.tracker is None
        return followed or bool(along) or self.targets.needs_flow

    @property
    def plan_length(self) -> int:
        """Steps of motion after each tubelet's first frame: L, 1 for flow alone, 0 for none."""
        if self.needs_tracks:
            return self.motion.length
        return 1 if self.targets.needs_flow else 0

    @property
    def plan_step(self) -> int:
        """Raw frames of a step."""
        return 1 if self.motion.interpolate else self.clip.stride

    @property
    def spacing(self) -> int:
        """Pixels from one seed to the next."""
        return self.clip.patch // round(self.motion.seeds**0.5)

    @model_validator(mode="after")
    def _batch_holds_whole_spans(self) -> Self:
        repeats = self.augment.repeats
        if repeats > 1 and self.data == "moving-shapes":
            raise ValueError(
                f"augment.repeats {repeats}: moving-shapes renders every clip, and nothing is "
                "decoded that others could share; use 1"
            )
        if self.train.batch % repeats:
            raise ValueError(
                f"train.batch {self.train.batch} is not a multiple of augment.repeats {repeats}: "
                "a batch has all clips of a span"
            )
        return self

    @model_validator(mode="after")
    def _cells_fit_patches(self) -> Self:
        patch = self.clip.patch
        for name, target in self.targets.active.items():
            cell = getattr(target, "cell", 1)
            if name in GRID_TARGETS and patch % cell:
                raise ValueError(f"targets.{name}.cell {cell} does not divide patch {patch}")
        return self

    @model_validator(mode="after")
    def _seeds_fit_frames(self) -> Self:
        if not self.needs_tracks:
            return self
        if self.clip.patch % round(self.motion.seeds**0.5):
            raise ValueError(
                f"motion.seeds {self.motion.seeds} does not fit patch {self.clip.patch}"
            )
        coarse = self.spacing * self.motion.upsample
        if any(side % coarse for side in self.clip.size):
            height, width = self.clip.size
            raise ValueError(
                f"motion.upsample {self.motion.upsample} follows points {coarse} px apart, and "
                f"size {height}×{width} is not a multiple of that"
            )
        return self

    @model_validator(mode="after")
    def _motion_is_known(self) -> Self:
        if not self.needs_tracks and self.plan_length > 0:
            if self.motion.tracker is not None:
                raise ValueError("motion.tracker: no target and no mask here reads trajectories")
            if self.motion.visibility != "frame":
                raise ValueError(
                    f"motion.visibility {self.motion.visibility}: no target and no mask here reads "
                    "trajectories; use frame"
                )
        if self.motion.flow == "exact" and self.data != "moving-shapes":
            raise ValueError(
                f"motion.flow exact is for data moving-shapes, and data is {self.data!r}"
            )
        return self


def load_pretrain_config(path: Path) -> PretrainConfig:
    """Read the config of a pre-training; errors as `load_config`."""
    return load_config(PretrainConfig, path)
