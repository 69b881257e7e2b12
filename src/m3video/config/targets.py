"""What hidden tokens must predict."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from m3video.config.base import Config

HeadKind = Literal["linear", "mlp"]
Activation = Literal["none", "sigmoid", "tanh"]

FLOW_TARGETS = frozenset({"flow", "hof", "mbh"})
"""Those on a fixed grid that read the flow from each tubelet's first frame to the next."""
GRID_TARGETS = frozenset({"hog", "flow", "hof", "mbh"})
"""Those whose cells divide a patch."""


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


class CellSettings(TargetConfig):
    """Histograms of square cells."""

    cell: int = Field(8, ge=2)
    """Side of a cell in pixels."""
    normalise: Literal["none", "block", "l2-hys"] = "block"
    """block: the histograms of a patch and frame together have unit length (MaskFeat).
    l2-hys: so, clipped at 0.2, and again (Dalal & Triggs)."""


class HogSettings(CellSettings):
    """Histograms of oriented gradients."""

    bins: int = Field(9, ge=2)
    """Unsigned orientations over 180°."""
    colour: Literal["grey", "rgb"] = "grey"
    """One histogram of the luminance, or one per channel."""


class HogConfig(HogSettings):
    """HOG on the fixed grid of cells in a patch, of each tubelet's first frame."""


class TrajectoryHogConfig(HogSettings):
    """HOG of the cell around each trajectory point: how the moving thing changes (shape)."""


class FlowConfig(TargetConfig):
    """Mean flow of each cell of a patch, from each tubelet's first frame to the next."""

    cell: int = Field(8, ge=1)
    """Side of a cell in pixels."""
    clamp: float = Field(20.0, gt=0)
    """Flow is clamped to ± this many pixels first."""
    scale: float = Field(4.0, gt=0)
    """The pixels that become 1."""


class HofSettings(CellSettings):
    """Histograms of the direction of flow, and of standing still."""

    bins: int = Field(8, ge=2)
    """Directions over 360°; one more bin is for what stands still."""
    still: float = Field(0.4, gt=0)
    """Flow of fewer pixels than this stands still."""


class HofConfig(HofSettings):
    """HOF on the fixed grid of cells, from each tubelet's first frame to the next."""


class TrajectoryHofConfig(HofSettings):
    """HOF of the cell around each trajectory point."""


class MbhSettings(CellSettings):
    """Motion boundary histograms: of the gradients of flow in x and of flow in y."""

    bins: int = Field(8, ge=2)
    """Orientations over 360°."""


class MbhConfig(MbhSettings):
    """MBH on the fixed grid of cells, from each tubelet's first frame to the next."""


class TrajectoryMbhConfig(MbhSettings):
    """MBH of the cell around each trajectory point."""


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
    flow: FlowConfig = FlowConfig()
    """Flow, down-sampled."""
    hof: HofConfig = HofConfig()
    """HOF on a fixed grid."""
    mbh: MbhConfig = MbhConfig()
    """MBH on a fixed grid."""
    trajectory: TrajectoryConfig = TrajectoryConfig()
    """Where points go."""
    trajectory_hog: TrajectoryHogConfig = TrajectoryHogConfig()
    """What the points carry."""
    trajectory_hof: TrajectoryHofConfig = TrajectoryHofConfig()
    """How what is around the points moves."""
    trajectory_mbh: TrajectoryMbhConfig = TrajectoryMbhConfig()
    """Where motion changes around the points."""

    @property
    def active(self) -> dict[str, TargetConfig]:
        """The targets with a weight, by name."""
        named = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: target for name, target in named.items() if target.weight > 0}

    @property
    def needs_tracks(self) -> bool:
        """Whether an active target needs trajectories."""
        return any(name.startswith("trajectory") for name in self.active)

    @property
    def needs_flow(self) -> bool:
        """Whether an active target needs the flow of each tubelet's first frame."""
        return not FLOW_TARGETS.isdisjoint(self.active)

    @model_validator(mode="after")
    def _something_to_learn(self) -> Self:
        if not self.active:
            names = ", ".join(type(self).model_fields)
            raise ValueError(f"no target has a weight above 0: set one of {names}")
        return self
