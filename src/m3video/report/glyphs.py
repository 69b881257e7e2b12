"""Glyphs and scales of the report: roses of directions, heat, and the keys to read them by."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from m3video.report.flow_wheel import wheel_colours, wheel_key
from m3video.report.overlays import HUES, SHIFT, Bools, Floats, Frame

PARTS = np.array([[255, 150, 60], [80, 190, 255]], np.uint8)
"""RGB of the boundaries of motion in x and of motion in y."""
STROKE = np.array([238, 238, 240], np.uint8)
LIGHT = 0.3  # white that is added to the wheel's colours, so that blue lines show on dark frames
STOPS = 9  # colours of the heat scale that the page mixes the others from
LEVELS = 6  # lengths share a colour in so many classes


def line_colours(count: int = HUES) -> NDArray[np.uint8]:
    """[count, 3] RGB for lines over dark pictures: colour i is the direction 360°·i / count of the
    flow wheel, clockwise from right."""
    full = wheel_colours(np.arange(count) / count)
    return np.rint(full + (255 - full) * LIGHT).astype(np.uint8)


def _heat_table() -> NDArray[np.uint8]:
    """[256, 3] RGB. Colours are looked up here: OpenCV ends the process on an empty picture."""
    coloured = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[None], cv2.COLORMAP_INFERNO)
    return np.asarray(cv2.cvtColor(coloured, cv2.COLOR_BGR2RGB)[0], dtype=np.uint8)


_HEAT = _heat_table()


def heat(values: Floats, top: float) -> NDArray[np.uint8]:
    """Numbers [...] on a scale from 0, dark, to `top` and beyond, bright: uint8 [..., 3] RGB."""
    share = np.clip(np.nan_to_num(values) / max(top, 1e-12), 0, 1)
    return np.asarray(_HEAT[np.rint(share * 255).astype(np.int64)])


def heat_gradient() -> str:
    """The heat scale as a CSS gradient, low to high."""
    stops = heat(np.linspace(0, 1, STOPS), 1.0)
    return f"linear-gradient(90deg, {', '.join(f'rgb({r} {g} {b})' for r, g, b in stops)})"


def png(picture: NDArray[np.uint8]) -> bytes:
    """uint8 [H, W, 4] RGBA as a PNG file."""
    bgra = cv2.cvtColor(picture, cv2.COLOR_RGBA2BGRA)
    return bytes(cv2.imencode(".png", bgra)[1])


def wheel_png(size: int = 96) -> bytes:
    """The key of the flow colours as a PNG file."""
    disc, opacity = wheel_key(size)
    alpha = np.rint(opacity * 255).astype(np.uint8)[..., None]
    return png(np.concatenate([disc, alpha], axis=-1))


def draw_rays(
    canvas: Frame,
    lengths: Floats,
    centres: Floats,
    *,
    colours: NDArray[np.uint8],
    longest: float,
    aside: float = 0.0,
    thickness: int = 2,
) -> Frame:
    """Draw a ray from each centre in each of a circle's directions.

    Args:
        canvas: uint8 [H, W, 3].
        lengths: [n, bins] in units of `longest`, cut to 1; bin i points to 360°·i / bins, clockwise
            from right.
        centres: [n, 2] (x, y) in the canvas' pixels.
        colours: uint8 [bins, 3] RGB.
        longest: pixels.
        aside: pixels by which rays are moved to their right, so that two kinds lie side by side.

    Returns:
        A new canvas.
    """
    drawn = canvas.copy()
    bins = lengths.shape[1]
    angles = np.arange(bins) * 2 * np.pi / bins
    along = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    right = np.stack([-along[:, 1], along[:, 0]], axis=-1)
    start = centres[:, None] + right * aside
    end = start + np.clip(lengths, 0, 1)[..., None] * along * longest
    fixed = np.rint(np.stack([start + 0 * end, end], axis=2) * (1 << SHIFT)).astype(np.int32)
    seen = lengths * longest >= 0.75
    # short rays first: the long ones lie on top
    level = np.ceil(np.clip(lengths, 0, 1) * LEVELS)
    for strength in range(1, LEVELS + 1):
        for index in range(bins):
            lines = list(fixed[seen[:, index] & (level[:, index] == strength), index])
            shade = colours[index].tolist()
            cv2.polylines(drawn, lines, False, shade, thickness, cv2.LINE_AA, SHIFT)
    return drawn


def draw_discs(canvas: Frame, centres: Floats, radii: Floats, colours: NDArray[np.uint8]) -> Frame:
    """Draw a disc [n, 2], radius [n], in pixels of the canvas, in its colour [n, 3] RGB."""
    drawn = canvas.copy()
    fixed = np.rint(centres * (1 << SHIFT)).astype(np.int32).tolist()
    sizes = np.rint(radii * (1 << SHIFT)).astype(np.int32).tolist()
    for centre, size, colour in zip(fixed, sizes, colours.tolist(), strict=True):
        if size > 0:
            cv2.circle(drawn, centre, size, colour, cv2.FILLED, cv2.LINE_AA, SHIFT)
    return drawn


def cells_over(frame: Frame, cells: Frame, shown: Bools) -> Frame:
    """Lay coloured cells [h, w, 3] over a frame of whole multiples of their size where shown."""
    height, width = frame.shape[:2]
    down, across = height // cells.shape[0], width // cells.shape[1]
    large = cells.repeat(down, axis=0).repeat(across, axis=1)
    where = shown.repeat(down, axis=0).repeat(across, axis=1)
    return np.where(where[..., None], large, frame)
