"""The camera's motion, as a homography between frames, and flow without it.

As in improved trajectories (Wang & Schmid, ICCV 2013, section 3): what most of the frame agrees on
is taken for the camera. One departure: the homography is fitted to the flow that is there anyway
and not to matched features. Where one moving thing covers most of a frame, it is what is removed.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_SAMPLES = 32
"""Points along the longer side that the homography is fitted to."""
_TOLERANCE = 1.0
"""Pixels by which a point may miss the homography and still belong to the background; fewer in
frames smaller than 224 pixels, where things move fewer pixels."""
_TIGHTEST = 0.05
"""Pixels that a point may always miss it by."""
_AGREEING = 0.2
"""Share of the points that must move as the camera does."""
_FEWEST = 8
"""Points that a homography is fitted to at least; four would always fit."""


def camera_motion(flow: Tensor) -> Tensor:
    """Fit a homography to each flow field by RANSAC; the identity where none is found that most
    of the frame can agree on.

    Runs on the CPU: flow on another device is copied there, and waited for.

    Args:
        flow: float32 [P, 2, H, W].

    Returns:
        float32 [P, 3, 3] on the device of `flow`: from pixels of the first to pixels of the second
        frame.
    """
    height, width = flow.shape[-2:]
    spacing = max(1, max(height, width) // _SAMPLES)
    y, x = np.mgrid[spacing // 2 : height : spacing, spacing // 2 : width : spacing]
    start = np.stack([x.ravel(), y.ravel()], axis=-1).astype(np.float32)
    moved = flow[:, :, y, x].flatten(2).transpose(1, 2).float().cpu().numpy()
    found = np.empty((len(flow), 3, 3), np.float32)
    for matrix, displacement in zip(found, moved, strict=True):
        matrix[:] = _fit(start, start + displacement, (height, width))
    return torch.from_numpy(found).to(flow.device)


def _fit(
    start: NDArray[np.float32], end: NDArray[np.float32], size: tuple[int, int]
) -> NDArray[Any]:
    """A homography [3, 3], fitted twice: what moves slowly by itself pulls at the first fit, and is
    left out of the second, which tolerates no more than the first one's typical miss."""
    fitted: NDArray[Any] = np.eye(3)
    if len(start) < _FEWEST:
        return fitted
    tolerance = _TOLERANCE * min(1.0, max(size) / 224)
    for _ in range(2):
        matrix, chosen = cv2.findHomography(start, end, cv2.RANSAC, tolerance, maxIters=500)
        if matrix is None or not _plausible(matrix, chosen, size):
            break
        fitted = matrix
        inside = chosen.ravel().astype(bool)
        reached = cv2.perspectiveTransform(start[None, inside], matrix)[0]
        missed = np.linalg.norm(reached - end[inside], axis=-1)
        tolerance = float(np.clip(3 * np.median(missed), _TIGHTEST, tolerance))
    return fitted


def _plausible(matrix: NDArray[Any], chosen: NDArray[Any], size: tuple[int, int]) -> bool:
    """Whether enough of the frame agrees, and a camera can move so from one frame to the next: no
    corner goes, there or back, farther than a quarter of the frame. After a cut none can."""
    height, width = size
    if chosen.mean() < _AGREEING or abs(np.linalg.det(matrix)) < 1e-6:
        return False
    corners = np.array([[[0, 0], [width, 0], [0, height], [width, height]]], np.float64)
    moved = [cv2.perspectiveTransform(corners, way) for way in (matrix, np.linalg.inv(matrix))]
    return all(bool(np.abs(end - corners).max() < max(size) / 4) for end in moved)


def remove_camera(flow: Tensor, homographies: Tensor) -> Tensor:
    """Flow as seen by a camera that stands still from each first to each second frame.

    Args:
        flow: float32 [P, 2, H, W].
        homographies: float32 [P, 3, 3], from the first to the second frame.

    Returns:
        float32 [P, 2, H, W].
    """
    height, width = flow.shape[-2:]
    y, x = torch.meshgrid(
        torch.arange(height, device=flow.device, dtype=flow.dtype),
        torch.arange(width, device=flow.device, dtype=flow.dtype),
        indexing="ij",
    )
    end = torch.stack([x + flow[:, 0], y + flow[:, 1]], dim=-1)
    seen = bring_back(end, torch.linalg.inv(homographies)[:, None, None])
    return torch.stack([seen[..., 0] - x, seen[..., 1] - y], dim=1)


def bring_back(points: Tensor, inverse: Tensor) -> Tensor:
    """Where points [..., 2] of a second frame are in the view of the first; inverse [..., 3, 3]."""
    x, y = points.unbind(-1)
    across, down, scale = (
        inverse[..., row, 0] * x + inverse[..., row, 1] * y + inverse[..., row, 2]
        for row in range(3)
    )
    return torch.stack([across / scale, down / scale], dim=-1)
