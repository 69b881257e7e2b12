"""How the motion of one video is shown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, Self

import tyro
from pydantic import Field, model_validator

from m3video.config.base import Config
from m3video.config.motion import FLOW_NAMES, FlowName, MotionConfig

SUFFIXES = (".mp4", ".html", ".npz")
_OF_TARGETS: FlowName = MotionConfig().flow
_TIME = re.compile(r"(\d+)|(\d+\.?\d*)s")


class TrackConfig(Config):
    """Look at the motion of a video: trajectories over its frames, and flow as colours."""

    video: tyro.conf.Positional[Path]
    """A video file."""
    out: Path
    """tracks.mp4: a film. tracks.html: one page with films and figures. tracks.npz: the numbers."""
    flow: tuple[FlowName, ...] = Field((_OF_TARGETS,), min_length=1)
    """One or more estimators, shown side by side."""
    weights: Path | None = None
    """State dict of torchvision's RAFT; for `raft`."""
    length: int = Field(6, ge=1, le=256)
    """L: steps of a trajectory; new ones start in every L-th frame."""
    spacing: int = Field(8, ge=1)
    """Pixels of the video from point to point."""
    camera: bool = False
    """Show motion without the camera's: a homography between frames, found by RANSAC."""
    visibility: Literal["frame", "forward-backward"] = "frame"
    """frame: a point is visible while it is in the frame. forward-backward: and while the flow back
    leads to where it came from."""
    start: str = "0"
    """First frame, or its time: 250, 2.5s."""
    count: str | None = None
    """Frames from there on, or their time: 100, 4s. By default all that follow."""
    size: int | None = Field(None, ge=16)
    """Shorter side of the frames that motion is found in: fewer pixels, less time. Numbers are of
    the video's own pixels all the same. By default the video's own size."""
    show: Literal["both", "tracks", "flow"] = "both"
    """What the film or the page shows."""
    fastest: float | None = Field(None, gt=0)
    """Pixels a frame that get the strongest colour. By default found in the video."""
    device: str = "auto"
    """auto, cpu, cuda, or any torch device; for `batched` and `raft`."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.out.suffix.lower() not in SUFFIXES:
            raise ValueError(
                f"out {self.out} must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
            )
        for name, value in (("start", self.start), ("count", self.count)):
            if value is not None and _TIME.fullmatch(value) is None:
                raise ValueError(f"{name} {value!r} must be frames, as 60, or seconds, as 2.5s")
        if len(set(self.flow)) < len(self.flow):
            raise ValueError(f"flow {' '.join(self.flow)} names an estimator twice: give it once")
        if "exact" in self.flow:
            known = ", ".join(name for name in FLOW_NAMES if name != "exact")
            raise ValueError(f"flow exact comes with rendered clips only: use one of {known}")
        if "raft" in self.flow and self.weights is None:
            raise ValueError("flow raft needs weights: the file of torchvision's state dict")
        if "raft" not in self.flow and self.weights is not None:
            raise ValueError(f"weights are for flow raft, and flow is {' '.join(self.flow)}")
        if "codec" in self.flow and self.visibility == "forward-backward":
            raise ValueError("flow codec knows no way back: use visibility frame")
        return self


def frames_of(value: str, fps: float) -> int:
    """Frames that a time stands for: "60" is 60 frames, "2.5s" those of 2.5 seconds, rounded."""
    return round(float(value[:-1]) * fps) if value.endswith("s") else int(value)
