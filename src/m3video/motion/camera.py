"""The camera's motion, as a homography between frames, and flow without it.

As in improved trajectories (Wang & Schmid, ICCV 2013, section 3): what most of the frame agrees on
is taken for the camera. One departure: the homography is fitted to the flow that is there anyway
and not to matched features. Where one moving thing covers most of a frame, it is what is removed.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

_SAMPLES = 32
"""Points along the longer side that the homography is fitted to."""
_TOLERANCE = 1.0
"""Pixels by which a point may miss the homography and still belong to the background; fewer in
frames smaller than 224 pixels, where things move fewer pixels."""


def camera_motion(flow: Tensor) -> Tensor:
    """Fit a homography to each flow field by RANSAC; the identity where none can be found.

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
    tolerance = _TOLERANCE * min(1.0, max(height, width) / 224)
    found = np.empty((len(flow), 3, 3), np.float32)
    for matrix, displacement in zip(found, moved, strict=True):
        fitted, _ = cv2.findHomography(start, start + displacement, cv2.RANSAC, tolerance)
        # fewer than four points, or a field that no homography explains
        matrix[:] = np.eye(3) if fitted is None else fitted
    return torch.from_numpy(found).to(flow.device)


def remove_camera(flow: Tensor, homographies: Tensor) -> Tensor:
    """Flow as seen by a camera that stands still from each first to each second frame.

    Where a pixel ends is brought back into the first frame's view: H⁻¹(x + flow) − x.

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
    back = torch.linalg.inv(homographies)[:, :, :, None, None]
    end_x, end_y = x + flow[:, 0], y + flow[:, 1]
    seen = back[:, :, 0] * end_x[:, None] + back[:, :, 1] * end_y[:, None] + back[:, :, 2]
    return torch.stack([seen[:, 0] / seen[:, 2] - x, seen[:, 1] / seen[:, 2] - y], dim=1)
