"""Optical flow: estimators behind one protocol, and the grey images that they read.

Flow t maps frame t to frame t + 1: channel 0 is the displacement in x (right), channel 1 in y
(down), in pixels of the images given. Estimators hold no state: a pair's flow does not depend on
the pairs before it, an estimator can be sent to a worker process, and threads may share it.
OpenCV's own threads are the caller's to set (`cv2.setNumThreads`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from m3video.config import FLOW_NAMES, FlowName
from m3video.errors import ConfigError

_DIS: dict[str, tuple[int, dict[str, int]]] = {
    # "fast" in 0.8 of its time, at no more than 1.05 times its error for slow motion and for fast:
    # larger steps between patches, or fewer iterations of their search, lose what moves far
    "dis": (cv2.DISOPTICAL_FLOW_PRESET_FAST, {"VariationalRefinementIterations": 3}),
    "dis-ultrafast": (cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST, {}),
    "dis-fast": (cv2.DISOPTICAL_FLOW_PRESET_FAST, {}),
    "dis-medium": (cv2.DISOPTICAL_FLOW_PRESET_MEDIUM, {}),
}
"""OpenCV's presets, and what is changed in them."""
_DIS_LOW = 32
_DIS_SMALLEST = 12  # OpenCV's image pyramid refuses smaller images
_BT601 = (9798, 19235, 3735)  # 0.299, 0.587, 0.114 in units of 2^-15, as OpenCV rounds them
_FLO_MAGIC = 202021.25


class FlowEstimator(Protocol):
    """Estimates the flow from each first to each second image."""

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """uint8 grey [P, H, W] twice → float32 [P, 2, H, W] on the same device."""
        ...


@dataclass(frozen=True)
class DisFlow:
    """Dense inverse search (Kroeger et al., ECCV 2016), on the CPU; `name` is a key of `_DIS`."""

    name: str

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        _check_size(first)
        preset, changes = _DIS[self.name]
        height, width = first.shape[1:]
        flow = np.empty((*first.shape, 2), np.float32)
        # OpenCV reads outside of frames that are low and wide (12×48, 24×160): they get more rows
        more = _DIS_LOW - height if height < _DIS_LOW and width > 3 * height else 0
        pairs = [_arrays(first), _arrays(second)]
        if more:
            pairs = [np.pad(images, ((0, 0), (0, more), (0, 0)), mode="edge") for images in pairs]
        for out, one, two in zip(flow, *pairs, strict=True):
            # a new one for each pair: at some sizes it reads what it kept of the pair before
            method = cv2.DISOpticalFlow.create(preset)
            for setting, value in changes.items():
                getattr(method, f"set{setting}")(value)
            out[:] = method.calc(one, two, None)[:height]  # type: ignore[call-overload]
        return torch.from_numpy(flow).permute(0, 3, 1, 2).to(first.device)


@dataclass(frozen=True)
class FarnebackFlow:
    """Polynomial expansion (Farnebäck, SCIA 2003), on the CPU."""

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        flow = np.zeros((*first.shape, 2), np.float32)
        for out, one, two in zip(flow, _arrays(first), _arrays(second), strict=True):
            out[:] = cv2.calcOpticalFlowFarneback(
                one,
                two,
                out,
                pyr_scale=0.5,
                levels=5,
                winsize=13,
                iterations=3,
                poly_n=5,
                poly_sigma=1.1,
                flags=0,
            )
        return torch.from_numpy(flow).permute(0, 3, 1, 2).to(first.device)


@dataclass(frozen=True)
class TvL1Flow:
    """Dual TV-L1 (Zach, Pock & Bischof, DAGM 2007) of OpenCV's contrib package, on the CPU."""

    def __post_init__(self) -> None:
        if not hasattr(cv2, "optflow"):
            raise ConfigError(
                "flow tvl1 is in OpenCV's contrib package: put opencv-contrib-python-headless in "
                "the place of opencv-python-headless, or use dis"
            )

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        contrib: Any = cv2
        method = contrib.optflow.DualTVL1OpticalFlow.create()
        flow = np.empty((*first.shape, 2), np.float32)
        for out, one, two in zip(flow, _arrays(first), _arrays(second), strict=True):
            out[:] = method.calc(one, two, None)
        return torch.from_numpy(flow).permute(0, 3, 1, 2).to(first.device)


def make_flow(name: FlowName, weights: Path | None = None) -> FlowEstimator:
    """Make the estimator of a name.

    Args:
        name: one of `FLOW_NAMES`.
        weights: the file of RAFT's state dict.

    Raises:
        ConfigError: the name is not known, its package is not installed, its weights do not fit,
            or only the source of the clips can know the motion (`exact`).
    """
    if name == "farneback":
        return FarnebackFlow()
    if name in _DIS:
        return DisFlow(name)
    if name == "batched":
        from m3video.motion.batched import BatchedFlow

        return BatchedFlow()
    if name == "tvl1":
        return TvL1Flow()
    if name == "raft":
        if weights is None:
            raise ConfigError("flow raft needs weights: the file of torchvision's state dict")
        from m3video.motion.raft import load_raft

        return load_raft(weights)
    if name == "codec":
        from m3video.motion.codec import CodecFlow

        return CodecFlow()
    if name == "exact":
        raise ConfigError("flow 'exact' comes with rendered clips: use it with data moving-shapes")
    raise ConfigError(f"flow {name!r} is not known: use one of {', '.join(FLOW_NAMES)}")


def grey(frames: Tensor) -> Tensor:
    """Luma of RGB frames (ITU-R BT.601, rounded): uint8 [..., H, W, 3] → uint8 [..., H, W].

    The numbers are those of OpenCV's conversion on every device.
    """
    if frames.device.type == "cpu":
        *lead, width, _ = frames.shape
        rows = frames.reshape(-1, width, 3).contiguous().numpy()
        return torch.from_numpy(cv2.cvtColor(rows, cv2.COLOR_RGB2GRAY)).reshape(*lead, width)
    red, green, blue = (
        channel.int() * weight for channel, weight in zip(frames.unbind(-1), _BT601, strict=True)
    )
    return ((red + green + blue + (1 << 14)) >> 15).to(torch.uint8)


def read_flo(path: Path) -> Tensor:
    """Read a Middlebury `.flo` file → float32 [2, H, W].

    Raises:
        ConfigError: not such a file, or one that is cut short.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: is missing or cannot be read: {error.strerror}") from error
    if len(data) < 12 or np.frombuffer(data, "<f4", 1)[0] != _FLO_MAGIC:
        raise ConfigError(f"{path}: is not a .flo file (it does not start with {_FLO_MAGIC})")
    width, height = (int(side) for side in np.frombuffer(data, "<i4", 2, offset=4))
    if width < 1 or height < 1 or len(data) != 12 + 8 * width * height:
        raise ConfigError(
            f"{path}: {len(data)} bytes do not hold the flow of {width}×{height} pixels that it "
            "announces; fetch the file again"
        )
    flow = np.frombuffer(data, "<f4", offset=12).reshape(height, width, 2).astype(np.float32)
    return torch.from_numpy(flow).permute(2, 0, 1)


def _arrays(images: Tensor) -> NDArray[np.uint8]:
    array: NDArray[np.uint8] = images.cpu().contiguous().numpy()
    return array


def _check_size(images: Tensor) -> None:
    height, width = images.shape[-2:]
    if min(height, width) < _DIS_SMALLEST:
        raise ConfigError(
            f"size {height}×{width} is too small for DIS flow: use at least {_DIS_SMALLEST} pixels "
            "a side, or --motion.flow farneback"
        )
