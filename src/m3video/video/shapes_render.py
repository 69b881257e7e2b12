"""Draw moving-shapes scenes: one batched inverse warp for all objects, on any device.

Each object is warped only in a window of the frame around it; windows are then laid over the
background from far to near, with an edge that is soft over one pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import ceil

import torch
from torch import Tensor
from torch.nn import functional

from m3video.video.shapes_scene import Scenes
from m3video.video.shapes_texture import RIM


def render(
    scenes: Scenes, rows: Sequence[int] | None = None, device: torch.device | str | None = None
) -> Tensor:
    """Draw frames.

    Args:
        rows: frames to draw, R of them; all unless given.
        device: where to draw; where the scenes are unless given.

    Returns:
        uint8 [B, R, H, W, 3] RGB.
    """
    frames = scenes.pan.shape[1]
    rows = range(frames) if rows is None else rows
    if rows and not (min(rows) >= 0 and max(rows) < frames):
        raise ValueError(f"rows {min(rows)} to {max(rows)} leave the scene's {frames} frames")
    if device is not None:
        scenes = scenes.to(device)
    index = torch.tensor(list(rows), dtype=torch.long, device=scenes.pan.device)
    pan = scenes.pan[:, index]
    picture = _background(scenes, pan)  # [B, 3, R, H, W]
    _lay_objects(picture, scenes, index, pan)
    picture = picture.mul_(255).permute(0, 2, 3, 4, 1)
    picture = picture + _sensor_noise(scenes, index)
    return picture.round_().clamp_(0, 255).to(torch.uint8).contiguous()


def _grid(x: Tensor, y: Tensor, width: int, height: int) -> Tensor:
    """Pixel positions as `grid_sample` wants them (align_corners)."""
    return torch.stack([x * (2 / (width - 1)) - 1, y * (2 / (height - 1)) - 1], dim=-1)


def _background(scenes: Scenes, pan: Tensor) -> Tensor:
    """[B, 3, R, H, W]."""
    (height, width), (batch, rows) = scenes.size, pan.shape[:2]
    canvas_height, canvas_width = scenes.background.shape[-2:]
    x = torch.arange(width, device=pan.device) + (scenes.margin - pan[..., :1])  # [B, R, W]
    y = torch.arange(height, device=pan.device) + (scenes.margin - pan[..., 1:])  # [B, R, H]
    shape = (batch, rows, height, width)
    grid = _grid(
        x[:, :, None].expand(shape), y[..., None].expand(shape), canvas_width, canvas_height
    )
    picture = functional.grid_sample(
        scenes.background,
        grid.flatten(1, 2),
        align_corners=True,
        padding_mode="border",
    )
    return picture.view(batch, -1, rows, height, width)


def _lay_objects(picture: Tensor, scenes: Scenes, index: Tensor, pan: Tensor) -> None:
    """Lay the objects over picture [B, 3, R, H, W], far to near, in place."""
    height, width = scenes.size
    centre = (scenes.centre[:, index] + pan[:, :, None]).transpose(1, 2)  # [B, K, R, 2]
    angle = scenes.angle[:, index].transpose(1, 2)[..., None, None]
    radius = scenes.radius[:, index].transpose(1, 2)[..., None, None]
    reach = ceil(float(radius.max())) + 1
    tall, wide = min(2 * reach + 1, height), min(2 * reach + 1, width)
    # A window is kept whole by moving it into the frame; what it then misses is not in the frame.
    left = (centre[..., 0].round().long() - reach).clamp(0, width - wide)[..., None]
    top = (centre[..., 1].round().long() - reach).clamp(0, height - tall)[..., None]
    column = left + torch.arange(wide, device=pan.device)  # [B, K, R, wide]
    line = top + torch.arange(tall, device=pan.device)  # [B, K, R, tall]

    x = (column - centre[..., :1])[..., None, :]
    y = (line - centre[..., 1:])[..., :, None]
    cosine, sine = angle.cos() / (radius * RIM), angle.sin() / (radius * RIM)
    grid = torch.stack([cosine * x + sine * y, cosine * y - sine * x], dim=-1)
    batch, objects, rows = grid.shape[:3]
    warped = functional.grid_sample(
        scenes.tiles.flatten(0, 1),
        grid.view(batch * objects, rows * tall, wide, 2),
        align_corners=True,
        padding_mode="border",
    ).view(batch, objects, 4, rows, tall * wide)
    alpha = (warped[:, :, 3] * radius[..., 0] + 0.5).clamp_(0, 1)

    place = (line * width)[..., :, None] + column[..., None, :]
    place = place.flatten(3)[:, :, None].expand(-1, -1, 3, -1, -1)  # [B, K, 3, R, tall · wide]
    canvas = picture.view(*picture.shape[:3], height * width)
    for layer in range(objects):
        behind = canvas.gather(3, place[:, layer])
        blend = torch.lerp(behind, warped[:, layer, :3], alpha[:, layer, None])
        canvas.scatter_(3, place[:, layer], blend)


@lru_cache(maxsize=2)
def _noise_bank(length: int) -> Tensor:
    return torch.randn(length, generator=torch.Generator().manual_seed(0))


def _sensor_noise(scenes: Scenes, index: Tensor) -> Tensor:
    """[B, R, H, W, 3]: each frame takes a stretch of one long row of normal numbers.

    Much faster than drawing them, and a frame's noise depends neither on the device nor on which
    other frames are drawn.
    """
    height, width = scenes.size
    count = height * width * 3
    bank = _noise_bank(max(1 << 19, 2 * count))
    # Multiplying by a large odd number spreads neighbouring frames over the bank.
    first = (scenes.noise_seed[:, None] + index * 2654435761) % (len(bank) - count)
    stretches = bank.unfold(0, count, 1)[first.cpu()]  # only what is asked for is copied
    noise = stretches.to(index.device).view(*first.shape, height, width, 3)
    return noise * scenes.noise[:, None, None, None, None]
