"""What one clip is, how it is augmented, and what of it is hidden."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from m3video.config.base import Config


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


class PretrainAugment(AugmentConfig):
    """How clips are cut out of a video in pre-training."""

    repeats: int = Field(1, ge=1)
    """Clips of each span that is decoded, side by side in a batch, each with its own crop, flip and
    mask. An epoch stays as many clips as there are videos: so many epochs are a pass over the
    files."""


MaskKind = Literal["tube", "random", "frame", "block", "motion-bins", "motion-top"]


class MaskConfig(Config):
    """Which tokens are hidden from the encoder, and which of those are decoded."""

    kind: MaskKind = "tube"
    """tube: the same places in every frame. random: anywhere. frame: whole frames of tokens, a
    tubelet each. block: cubes (MaskFeat). motion-bins: a tube whose visible places are drawn from
    the still and from the moving half (TrackMAE). motion-top: what moves most is hidden first, as
    much in every frame (MGM)."""
    ratio: float = Field(0.7, gt=0, lt=1)
    """Share of the tokens that is hidden."""
    high: float = Field(0.5, ge=0, le=1)
    """ρ: share of the visible places that comes from the moving half; for `motion-bins`."""
    decode: float = Field(1.0, gt=0, le=1)
    """Share of the hidden tokens that is decoded and learned from; below 1 they are chosen by a
    running cell (VideoMAE V2)."""

    @property
    def needs_tracks(self) -> bool:
        """Whether the mask is drawn from trajectories."""
        return self.kind in {"motion-bins", "motion-top"}
