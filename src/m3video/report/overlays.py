"""Drawings over frames: trajectories, masks, HOG glyphs. Plain arrays in, plain arrays out.

A note on coordinates: pixel centres lie at integers, x to the right and y down. When a picture is
enlarged s times, a point x of the small picture lies at (x + ½)·s − ½ of the large one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Frame = NDArray[np.uint8]  # [H, W, 3] RGB
Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]

GREY = (126, 128, 134)
STILL = (190, 192, 198)
HUES = 24  # directions that get a colour of their own
SHIFT = 4  # OpenCV's fixed point: drawn at 1/16 of a pixel


def enlarge(frame: Frame, scale: int) -> Frame:
    """Repeat each pixel scale × scale times: [H, W, 3] → [scale·H, scale·W, 3]."""
    return np.repeat(np.repeat(frame, scale, axis=0), scale, axis=1)


def enlarged(points: Floats, scale: int) -> Floats:
    """Where points [..., 2] of a picture lie once `enlarge` has been applied to it."""
    return (points + 0.5) * scale - 0.5


def fade(frame: Frame, amount: float, towards: tuple[int, int, int] = GREY) -> Frame:
    """Mix a frame with one colour: 0 leaves it as it is, 1 leaves only the colour."""
    mixed = frame * (1 - amount) + np.array(towards) * amount
    return np.rint(mixed).astype(np.uint8)


def muted(frame: Frame) -> Frame:
    """Little of the colour and half of the light, so that coloured lines stand out."""
    luma = np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY))[..., None]
    mixed = 0.4 * luma + 0.14 * frame + 14.0
    return np.rint(mixed).astype(np.uint8)


def shade_patches(
    frame: Frame, where: Bools, amount: float, towards: tuple[int, int, int] = GREY
) -> Frame:
    """Fade the patches [rows, columns] that are True; the frame's size is a multiple of theirs."""
    rows, columns = where.shape
    height, width = frame.shape[:2]
    pixels = np.repeat(np.repeat(where, height // rows, axis=0), width // columns, axis=1)
    return np.where(pixels[..., None], fade(frame, amount, towards), frame)


@dataclass(frozen=True)
class Palette:
    """Colours of motion by direction and speed: K = 1 + (levels − 1) · HUES kinds; 0 is still."""

    colours: NDArray[np.uint8]
    """[K, 3] RGB."""
    strength: Floats
    """[K] opacity, 0 to 1: what hardly moves must not hide the picture."""
    fastest: float
    """Length of a step that is of the highest level."""

    def kinds(self, steps: Floats) -> NDArray[np.int64]:
        """Kinds of steps [..., 2]. Levels are finer where motion is slow."""
        levels = (len(self.colours) - 1) // HUES
        share = np.sqrt(np.linalg.norm(steps, axis=-1) / self.fastest)
        level = np.rint(np.minimum(share, 1.0) * levels).astype(np.int64)
        return np.where(level == 0, 0, 1 + (level - 1) * HUES + _hue(steps))


def motion_palette(full: Floats, fastest: float, levels: int = 4) -> Palette:
    """From grey and faint at rest to the full colours of HUES directions [HUES, 3]."""
    shares = (np.arange(levels) + 1) / levels
    mixed = STILL + shares[:, None, None] * (full - np.array(STILL))
    colours = np.concatenate([np.array([STILL]), mixed.reshape(-1, 3)])
    strength = np.concatenate([[0.0], np.repeat(shares, HUES)])
    return Palette(np.rint(colours).astype(np.uint8), 0.3 + 0.7 * strength, fastest)


def draw_tails(
    frame: Frame,
    points: Floats,
    visible: Bools,
    opacity: Floats,
    palette: Palette,
    *,
    head: float = 1.0,
    thickness: int = 1,
) -> Frame:
    """Draw the tails of moving points over a frame, and dots where they are.

    A segment has the colour of its direction and speed. Nothing is drawn after a point's first
    invisible step.

    Args:
        frame: uint8 [H, W, 3].
        points: [n, S, 2] (x, y) in pixels of the frame, oldest first. S = 1 draws dots.
        visible: bool [n, S].
        opacity: [S − 1] of each segment, 0 to 1.
        palette: its `fastest` is in pixels of the frame.
        head: opacity of the dots; 0 draws none.

    Returns:
        A new frame.
    """
    seen = np.logical_and.accumulate(visible, axis=1)
    # Colours without, and opacity with smooth edges: a pixel half covered is mixed only once.
    layer, alpha = frame.copy(), np.zeros(frame.shape[:2], np.uint8)
    fixed = np.rint(np.where(seen[..., None], points, 0) * (1 << SHIFT)).astype(np.int32)
    kinds = palette.kinds(points[:, 1:] - points[:, :-1])
    for step in np.flatnonzero(opacity > 0):
        drawn = seen[:, step + 1]
        for kind in np.unique(kinds[drawn, step]):
            lines = list(fixed[drawn & (kinds[:, step] == kind), step : step + 2])
            colour = palette.colours[kind].tolist()
            light = 255 * float(opacity[step] * palette.strength[kind])
            cv2.polylines(layer, lines, False, colour, thickness + 2, cv2.LINE_8, SHIFT)
            cv2.polylines(alpha, lines, False, light, thickness, cv2.LINE_AA, SHIFT)
    here = seen[:, -1] & (head > 0)
    newest = kinds[:, -1] if kinds.shape[1] else np.zeros(len(points), np.int64)
    for kind in np.unique(newest[here]):
        colour, light = palette.colours[kind].tolist(), 255 * head * palette.strength[kind]
        size = int((0.7 * thickness + 0.6 * palette.strength[kind]) * (1 << SHIFT))
        for centre in fixed[here & (newest == kind), -1].tolist():
            cv2.circle(layer, centre, size + (1 << SHIFT), colour, cv2.FILLED, cv2.LINE_8, SHIFT)
            cv2.circle(alpha, centre, size, light, cv2.FILLED, cv2.LINE_AA, SHIFT)
    share = (alpha / np.float32(255))[..., None]
    return np.rint(frame + (layer.astype(np.float32) - frame) * share).astype(np.uint8)


def _hue(steps: Floats) -> NDArray[np.int64]:
    turns = np.arctan2(steps[..., 1], steps[..., 0]) / (2 * np.pi)
    return np.rint(turns * HUES).astype(np.int64) % HUES


def draw_hog(
    canvas: Frame,
    histograms: Floats,
    centres: Floats,
    *,
    cell: float,
    strongest: float,
    colour: tuple[int, int, int] = (238, 238, 240),
) -> Frame:
    """Draw star glyphs: for each histogram one stroke per bin, as long as the bin's energy.

    A stroke lies along the edge, at a right angle to the gradient that the bin counts.

    Args:
        canvas: uint8 [H, W, 3].
        histograms: [n, bins], unsigned orientations; bin b is centred at 180°·(b + ½) / bins.
        centres: [n, 2] (x, y) in the canvas' pixels.
        cell: longest stroke in the canvas' pixels.
        strongest: the energy that gets the longest stroke; larger ones are cut to it.

    Returns:
        A new canvas.
    """
    drawn = canvas.copy()
    bins = histograms.shape[1]
    angles = (np.arange(bins) + 0.5) * np.pi / bins + np.pi / 2
    along = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    share = np.clip(histograms / max(strongest, 1e-12), 0, 1)
    # Weak strokes first, so that the strong ones lie on top of them.
    level = np.rint(share * 8).astype(np.int64)
    half = share[..., None] * along * cell / 2
    ends = np.stack([centres[:, None] - half, centres[:, None] + half], axis=2)
    fixed = np.rint(ends * (1 << SHIFT)).astype(np.int32)
    base = np.array(canvas.reshape(-1, 3)[0], dtype=np.float64)
    for strength in range(1, 9):
        mixed = base + (np.array(colour) - base) * (0.3 + 0.7 * strength / 8)
        lines = list(fixed[level == strength])
        if lines:
            shade = tuple(float(value) for value in np.rint(mixed))
            cv2.polylines(drawn, lines, False, shade, 1, cv2.LINE_AA, SHIFT)
    return drawn
