"""Flow as colours, as in the Middlebury benchmark (Baker et al., IJCV 2011, section 4.2 and
figure 8): the hue is the direction, the saturation the speed; white stands still.

The wheel has six corner colours. They do not lie evenly on it: hues that the eye tells apart well
get more room. Directions go clockwise on the screen from right, which is red; y points down.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from m3video.report.overlays import Floats, Frame

_CORNERS = np.array(
    [[255, 0, 0], [255, 255, 0], [0, 255, 0], [0, 255, 255], [0, 0, 255], [255, 0, 255]], np.float32
)  # red, yellow, green, cyan, blue, magenta
_ROOM = np.array([15, 6, 4, 11, 13, 6])  # from each corner to the next, of 55 in all
_BEYOND = 0.75
"""Light that is left of a colour where motion is faster than the fastest of the wheel."""
_HUES = 1024  # finer than 8 bits can show


def wheel_colours(turns: Floats) -> NDArray[np.float32]:
    """Full colours of directions [...]: float32 [..., 3] RGB, 0 to 255; 1 is a whole turn."""
    places = np.concatenate([[0], np.cumsum(_ROOM)]) / _ROOM.sum()
    closed = np.concatenate([_CORNERS, _CORNERS[:1]])
    part = np.asarray(turns) % 1.0
    mixed = [np.interp(part, places, closed[:, channel]) for channel in range(3)]
    return np.stack(mixed, axis=-1).astype(np.float32)


_TABLE = wheel_colours(np.arange(_HUES) / _HUES)


def flow_picture(flow: NDArray[np.float32], fastest: float) -> Frame:
    """Colour a flow field.

    Args:
        flow: [H, W, 2], x right and y down, in pixels.
        fastest: length that gets the full colour; what is longer is darker.

    Returns:
        uint8 [H, W, 3] RGB. What is not a number is black.
    """
    length, angle = cv2.cartToPolar(flow[..., 0], flow[..., 1])
    known = np.isfinite(length)
    speed = np.where(known, length, 0.0) / fastest
    turns = np.where(known, angle, 0.0) / (2 * np.pi)
    colour = _TABLE[np.rint(turns * _HUES).astype(np.int64) % _HUES]
    within = 255.0 - np.minimum(speed, 1.0)[..., None] * (255.0 - colour)
    shown = np.where((speed > 1.0)[..., None], _BEYOND * colour, within)
    return np.rint(np.where(known[..., None], shown, 0.0)).astype(np.uint8)


def wheel_key(size: int) -> tuple[Frame, NDArray[Any]]:
    """The wheel as a disc: the motion from its centre to each of its pixels, in colour.

    Args:
        size: pixels a side.

    Returns:
        uint8 [size, size, 3] RGB, and opacity float32 [size, size] in [0, 1]: 0 outside the disc.
    """
    half = (size - 1) / 2
    y, x = np.mgrid[:size, :size].astype(np.float32)
    motion = np.stack([x - half, y - half], axis=-1)
    length = np.linalg.norm(motion, axis=-1)
    # the rim fades over one pixel; its colour is that of the fastest within
    inside = motion * np.minimum(1.0, half / np.maximum(length, 1e-6))[..., None] * 0.999
    opacity = np.clip(half + 0.5 - length, 0.0, 1.0).astype(np.float32)
    return flow_picture(inside.astype(np.float32), half), opacity
