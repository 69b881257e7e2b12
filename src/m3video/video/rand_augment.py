"""RandAugment for clips (arXiv 1909.13719), with the operations that fine-tuning recipes name
`rand-m7-n4-mstd0.5-inc1`: all grow with the magnitude, and each that is drawn is skipped half of
the time.

    operation       at magnitude m of 10
    auto-contrast, equalize, invert
    rotate          ± 3 m degrees
    shear-x, -y     ± 0.03 m
    translate-x, -y ± 0.045 m of the width or height
    posterize       to 4 − ⌊0.4 m⌋ bits
    solarize        invert from 256 − ⌊25.6 m⌋ on
    solarize-add    add ⌊11 m⌋ to what is below 128
    colour, contrast, brightness, sharpness    1 ± 0.09 m

A clip is one picture: all its frames share what is drawn, and histograms (auto-contrast, equalize)
and means (contrast) are those of the whole clip, so that no augmentation flickers. Pillow computes
the colours, whose operations the recipes are defined by, and OpenCV the geometry.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps

from m3video.video.augment import MEAN

OPERATIONS = (
    *("auto-contrast", "equalize", "invert", "rotate", "posterize", "solarize", "solarize-add"),
    *("colour", "contrast", "brightness", "sharpness"),
    *("shear-x", "shear-y", "translate-x", "translate-y"),
)
GEOMETRY = frozenset({"rotate", "shear-x", "shear-y", "translate-x", "translate-y"})
FACTORS = {
    "colour": ImageEnhance.Color,
    "contrast": ImageEnhance.Contrast,
    "brightness": ImageEnhance.Brightness,
    "sharpness": ImageEnhance.Sharpness,
}
FILL = tuple(round(255 * mean) for mean in MEAN)
"""Colour of what geometry uncovers: it is 0 after normalisation."""

Frames = NDArray[np.uint8]


class Operation(NamedTuple):
    """An operation and its strength, in the units of `OPERATIONS`' table."""

    name: str
    value: float = 0.0


def draw_operations(
    count: int, magnitude: float, deviation: float, generator: torch.Generator
) -> list[Operation]:
    """Draw `count` operations with replacement; half of them are left out.

    Args:
        count: n of the recipe's name.
        magnitude: mean strength, of 10.
        deviation: standard deviation of the strength.
        generator: that of the sample.
    """
    drawn = []
    for _ in range(count):
        which = int(torch.randint(len(OPERATIONS), (), generator=generator))
        skipped, negative = torch.randint(2, (2,), generator=generator).tolist()
        noise = float(torch.randn((), generator=generator))
        level = min(max(magnitude + deviation * noise, 0.0), 10.0)
        if not skipped:
            drawn.append(Operation(OPERATIONS[which], _value(OPERATIONS[which], level, negative)))
    return drawn


def _value(name: str, level: float, negative: bool) -> float:
    """Strength of an operation at a level of 10."""
    sign = -1 if negative else 1
    match name:
        case "rotate":
            return sign * 3.0 * level
        case "shear-x" | "shear-y":
            return sign * 0.03 * level
        case "translate-x" | "translate-y":
            return sign * 0.045 * level
        case "posterize":
            return 4 - int(0.4 * level)
        case "solarize":
            return 256 - int(25.6 * level)
        case "solarize-add":
            return int(11.0 * level)
        case "colour" | "contrast" | "brightness" | "sharpness":
            return 1 + sign * 0.09 * level
        case _:
            return 0.0


def apply_operation(frames: Frames, operation: Operation) -> Frames:
    """Apply an operation to a clip: uint8 [T, H, W, 3] → the same shape."""
    name, value = operation
    if name in GEOMETRY:
        return _warp(frames, _matrix(name, value, frames.shape[1], frames.shape[2]))
    if name == "sharpness":  # it looks at neighbours, which a row of another frame is not
        return np.stack([_colours(frame, name, value) for frame in frames])
    tall = frames.reshape(-1, *frames.shape[2:])
    return _colours(tall, name, value).reshape(frames.shape)


def _colours(picture: Frames, name: str, value: float) -> Frames:
    image = Image.fromarray(picture)
    match name:
        case "auto-contrast":
            image = ImageOps.autocontrast(image)
        case "equalize":
            image = ImageOps.equalize(image)
        case "invert":
            image = ImageOps.invert(image)
        case "posterize":
            # Pillow refuses 0 bits, which are black.
            image = image.point([pixel & ~(2 ** (8 - int(value)) - 1) for pixel in range(256)] * 3)
        case "solarize":
            image = ImageOps.solarize(image, int(value))
        case "solarize-add":
            added = [min(p + int(value), 255) if p < 128 else p for p in range(256)]
            image = image.point(added * 3)
        case _:
            image = FACTORS[name](image).enhance(value)
    return np.asarray(image)


def _matrix(name: str, value: float, height: int, width: int) -> NDArray[np.float64]:
    """Where each pixel of the result comes from, float64 [2, 3]; turned and sheared about the
    centre."""
    across, down = (width - 1) / 2, (height - 1) / 2
    linear = np.eye(2)
    shift = np.zeros(2)
    if name == "rotate":
        cosine, sine = np.cos(np.radians(value)), np.sin(np.radians(value))
        linear = np.array([[cosine, -sine], [sine, cosine]])
    elif name == "shear-x":
        linear[0, 1] = value
    elif name == "shear-y":
        linear[1, 0] = value
    elif name == "translate-x":
        shift[0] = value * width
    else:
        shift[1] = value * height
    centre = np.array([across, down])
    return np.hstack([linear, (shift + centre - linear @ centre)[:, None]])


def _warp(frames: Frames, matrix: NDArray[np.float64]) -> Frames:
    height, width = frames.shape[1:3]
    out = np.empty_like(frames)
    for frame, row in zip(frames, out, strict=True):
        cv2.warpAffine(
            frame,
            matrix,
            (width, height),
            dst=row,
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=FILL,
        )
    return out
