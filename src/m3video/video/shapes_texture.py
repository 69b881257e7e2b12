"""What the objects and backgrounds of moving shapes look like: textures and outlines.

Textures are coloured noise of several octaves, or photographs: pictures that an installed
scikit-image carries in its own package (nothing is downloaded), reduced so that one of their pixels
is about one pixel of the texture, then cropped, turned, zoomed and recoloured at random.
"""

from __future__ import annotations

from functools import lru_cache
from math import pi
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import skimage.data
import skimage.io
import torch
from torch import Tensor
from torch.nn import functional

from m3video.errors import ConfigError

Texture = Literal["noise", "photo", "both"]
PHOTOGRAPHS = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "motorcycle_left.png",
    "rocket.jpg",
)
SHAPES = ("disc", "box", "polygon", "star", "blob", "ring")
RIM = 1.2
"""Half side of an outline's tile, in radii: room for the soft edge."""
_OCTAVES = (3, 6, 12, 24)  # cells per unit; the finest is about 3 pixels of a 64-pixel frame


def _uniform(low: float, high: float, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator)


@lru_cache(maxsize=4)
def photographs(side: int) -> Tensor:
    """The pictures as squares beside each other: float32 [3, side, n · side] in [0, 1].

    Raises:
        ConfigError: this scikit-image carries none of them.
    """
    folder = Path(skimage.data.__file__).parent
    squares = []
    for path in (folder / name for name in PHOTOGRAPHS):
        if not path.is_file():
            continue
        picture = skimage.io.imread(path)
        picture = np.stack([picture] * 3, axis=-1) if picture.ndim == 2 else picture[..., :3]
        height, width = picture.shape[:2]
        edge = min(height, width)
        top, left = (height - edge) // 2, (width - edge) // 2
        square = np.ascontiguousarray(picture[top : top + edge, left : left + edge])
        squares.append(cv2.resize(square, (side, side), interpolation=cv2.INTER_AREA))
    if not squares:
        raise ConfigError(
            f"texture 'photo' needs pictures such as {PHOTOGRAPHS[0]} in {folder}: "
            "this scikit-image carries none; use texture 'noise'"
        )
    strip = np.concatenate(squares, axis=1).astype(np.float32) / 255
    return torch.from_numpy(np.ascontiguousarray(strip.transpose(2, 0, 1)))


def _noise(count: int, size: tuple[int, int], unit: int, generator: torch.Generator) -> Tensor:
    """[count, 3, h, w] sum of octaves of smooth noise, grey and coloured parts mixed at random."""
    shape = (count, 1, 1, 1)
    roughness = _uniform(0.5, 1.0, shape, generator)
    total = torch.zeros(count, 4, *size)
    for octave, cells in enumerate(_OCTAVES):
        grid = [max(2, round(cells * side / unit) + 1) for side in size]
        coarse = _uniform(-1, 1, (count, 4, *grid), generator)
        fine = functional.interpolate(coarse, size=size, mode="bicubic", align_corners=True)
        total += roughness**octave * fine
    return total[:, :1] + _uniform(0.2, 0.8, shape, generator) * total[:, 1:]


def _photo(count: int, size: tuple[int, int], unit: int, generator: torch.Generator) -> Tensor:
    """[count, 3, h, w] turned, zoomed and mirrored crops; beyond a picture's edge its mirror."""
    side = min(max(2 * unit, 64), 512)
    strip = photographs(side)
    pictures = strip.shape[2] // side
    which = torch.randint(pictures, (count, 1, 1), generator=generator)
    angle = _uniform(-pi, pi, (count, 1, 1), generator)
    zoom = _uniform(0.6, 1.1, (count, 1, 1), generator) * side / (2 * unit)
    centre_x, centre_y = _uniform(0, side, (2, count, 1, 1), generator)
    mirror = torch.randint(2, (count, 1, 1), generator=generator) * 2 - 1
    y = torch.arange(size[0])[:, None] - (size[0] - 1) / 2
    x = mirror * (torch.arange(size[1]) - (size[1] - 1) / 2)
    source_x = centre_x + zoom * (angle.cos() * x - angle.sin() * y)
    source_y = centre_y + zoom * (angle.sin() * x + angle.cos() * y)
    last = side - 1
    source_x = last - (torch.remainder(source_x, 2 * last) - last).abs()
    source_y = last - (torch.remainder(source_y, 2 * last) - last).abs()
    grid_x = (source_x + which * side) * (2 / (strip.shape[2] - 1)) - 1
    grid = torch.stack([grid_x, source_y * (2 / last) - 1], dim=-1)
    crop = functional.grid_sample(
        strip[None], grid.view(1, count * size[0], size[1], 2), align_corners=True
    )
    return crop.view(3, count, *size).transpose(0, 1)


def draw_textures(
    count: int, size: tuple[int, int], unit: int, texture: Texture, generator: torch.Generator
) -> Tensor:
    """Draw textures.

    Args:
        size: height and width of each, in pixels.
        unit: pixels of the texture that make the shorter side of a frame; details scale with it.
        texture: `both` draws the kind for each one.

    Returns:
        float32 [count, 3, h, w] in [0, 1].
    """
    share = {"noise": 0.0, "photo": 1.0, "both": 0.5}[texture]
    is_photo = torch.rand(count, generator=generator) < share
    photos = int(is_photo.sum())
    pixels = torch.empty(count, 3, *size)
    if photos:
        pixels[is_photo] = _photo(photos, size, unit, generator)
    if count > photos:
        pixels[~is_photo] = _noise(count - photos, size, unit, generator)

    mean = pixels.mean(dim=(2, 3), keepdim=True)
    deviation = (pixels - mean).square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
    shape = (count, 1, 1, 1)
    wanted = _uniform(0.14, 0.25, shape, generator)  # deviation; dull crops gain at most 4 ×
    gain = torch.minimum(wanted / deviation.clamp(min=1e-3), torch.tensor(4.0))
    tint = _uniform(0.85, 1.15, (count, 3, 1, 1), generator)
    colour = _uniform(0.2, 0.8, (count, 3, 1, 1), generator)
    mix = _uniform(0.0, 0.8, shape, generator)
    base = torch.where(is_photo[:, None, None, None], torch.lerp(mean, colour, mix), colour)
    return (base + gain * tint * (pixels - mean)).clamp_(0, 1)


def draw_outlines(count: int, side: int, generator: torch.Generator) -> Tensor:
    """Draw outlines that fit the unit circle: `SHAPES`, flattened by up to a third.

    Each is a radius R(θ), that of a regular polygon (disc: of very many sides) times a zigzag
    (star) or waves (blob). Its signed distance is taken to first order, (R − r) / |∇(R − r)|: exact
    enough in the pixel's width where it is used.

    Returns:
        float32 [count, side, side], radii inside (> 0) or outside the outline, at points that span
        [-RIM, RIM] both ways.
    """
    shape = (count, 1, 1)
    kind = torch.randint(len(SHAPES), shape, generator=generator)
    sides = torch.randint(3, 7, shape, generator=generator)
    points = torch.randint(5, 8, shape, generator=generator)
    corners = torch.where(kind == SHAPES.index("polygon"), sides, 64)
    corners = torch.where(kind == SHAPES.index("box"), 4, corners)
    depth = _uniform(0.3, 0.5, shape, generator) * (kind == SHAPES.index("star"))
    wave = _uniform(0.06, 0.14, (3, *shape), generator) * (kind == SHAPES.index("blob"))
    phase = _uniform(-pi, pi, (3, *shape), generator)
    flat = _uniform(1.0, 1.5, shape, generator)
    hole = _uniform(0.35, 0.5, shape, generator)

    line = torch.linspace(-RIM, RIM, side)
    y, x = line[:, None] * flat, line[None, :].expand(count, 1, side)
    theta = torch.atan2(y, x)
    sector = 2 * pi / corners
    edge = (pi / corners).cos() / (torch.remainder(theta + sector / 2, sector) - sector / 2).cos()
    zigzag = (2 * torch.remainder(theta * points / (2 * pi), 1) - 1).abs()
    waves = sum(wave[k] * (1 + ((k + 2) * theta + phase[k]).cos()) for k in range(3))
    field = edge * (1 - depth * zigzag) * (1 - waves) - (x.square() + y.square()).sqrt()
    step = 2 * RIM / (side - 1)
    slope_y, slope_x = torch.gradient(field, spacing=step, dim=(1, 2))
    distance = field / (slope_x.square() + slope_y.square()).sqrt().clamp(min=1.0)
    is_ring = kind == SHAPES.index("ring")
    inner = (x.square() + y.square()).sqrt() - hole
    return torch.where(is_ring, torch.minimum(distance, inner), distance)
