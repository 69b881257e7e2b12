"""How motion is found."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self, get_args

from pydantic import Field, model_validator

from m3video.config.base import Config

FlowName = Literal[
    "dis",
    "dis-ultrafast",
    "dis-fast",
    "dis-medium",
    "farneback",
    "tvl1",
    "batched",
    "raft",
    "codec",
    "exact",
]
FLOW_NAMES: tuple[FlowName, ...] = get_args(FlowName)


class MotionConfig(Config):
    """Trajectories: they start in each tubelet's first frame, at the raw frame rate."""

    flow: FlowName = "dis"
    """Optical flow estimator. dis, dis-*, farneback: OpenCV. tvl1: OpenCV's contrib package.
    batched: ours, in torch, on any device. raft: torchvision's, with `weights`. codec: the motion
    vectors of the compressed video. exact: what the renderer knows, for `moving-shapes` only."""
    weights: Path | None = None
    """State dict of torchvision's RAFT; for `raft`."""
    tracker: str | None = Field(None, pattern=r"^\w+(\.\w+)*:\w+$")
    """A point tracker of yours in place of following the flow: "module:function"."""
    length: int = Field(6, ge=1, le=16)
    """L: steps of a trajectory."""
    interpolate: bool = True
    """A step is one raw frame: finer motion than the input shows. Else it is `clip.stride` frames,
    from input frame to input frame."""
    seeds: Literal[1, 4, 16] = 4
    """K: trajectories that start in a patch, on a square grid."""
    upsample: Literal[1, 2, 4] = 1
    """Only the points of a grid this many times coarser are followed; the others' motion is
    interpolated between theirs (TrackMAE)."""
    camera: bool = False
    """Remove the camera's motion: a homography between frames, found by RANSAC."""
    visibility: Literal["frame", "forward-backward"] = "frame"
    """frame: a point is visible while it is in the frame. forward-backward: and while the flow back
    leads to where it came from."""
    where: Literal["worker", "step"] = "worker"
    """Compute motion targets in the data workers or in the training step."""

    @model_validator(mode="after")
    def _fits_flow(self) -> Self:
        if self.flow == "raft" and self.weights is None:
            raise ValueError("flow raft needs weights: the file of torchvision's state dict")
        if self.flow != "raft" and self.weights is not None:
            raise ValueError(f"weights are for flow raft, and flow is {self.flow}")
        if self.flow in {"codec", "exact"} and self.visibility == "forward-backward":
            raise ValueError(f"flow {self.flow} knows no way back: use visibility frame")
        if self.tracker is not None and self.visibility == "forward-backward":
            raise ValueError("a tracker says itself what is visible: use visibility frame")
        if self.tracker is not None and self.camera:
            raise ValueError("the camera's motion is removed from flow, and a tracker gives none")
        return self
