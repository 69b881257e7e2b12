"""From clip and motion to what each token must predict: one file a target.

A new target is a file with a class like the others, a config in `TargetsConfig`, and a line in
`MAKERS`.
"""

from __future__ import annotations

from collections.abc import Callable

from m3video.config import PretrainConfig
from m3video.targets.base import ClipView, Target, TargetMaker
from m3video.targets.flow import FlowTarget
from m3video.targets.flow_histograms import (
    HofTarget,
    MbhTarget,
    TrajectoryHofTarget,
    TrajectoryMbhTarget,
)
from m3video.targets.hog import HogTarget
from m3video.targets.pixel import PixelTarget
from m3video.targets.trajectory import TrajectoryTarget
from m3video.targets.trajectory_hog import TrajectoryHogTarget

__all__ = ["MAKERS", "ClipView", "Target", "TargetMaker", "build_targets"]

MAKERS: dict[str, Callable[[PretrainConfig], TargetMaker]] = {
    "pixel": PixelTarget,
    "hog": HogTarget,
    "flow": FlowTarget,
    "hof": HofTarget,
    "mbh": MbhTarget,
    "trajectory": TrajectoryTarget,
    "trajectory_hog": TrajectoryHogTarget,
    "trajectory_hof": TrajectoryHofTarget,
    "trajectory_mbh": TrajectoryMbhTarget,
}


def build_targets(config: PretrainConfig) -> dict[str, TargetMaker]:
    """Make the targets that have a weight, in the order of the config.

    Raises:
        ConfigError: settings of a target that contradict each other.
    """
    return {name: MAKERS[name](config) for name in config.targets.active}
