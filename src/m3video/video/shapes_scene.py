"""Moving-shapes scenes as parameters, and the exact motion of any of their points.

A scene is a stack of layers: the background, then K objects from far to near. Each object carries a
square tile of texture and an outline; in frame t a point q of its tile (in radii) appears at
centre + pan + radius · R(angle) · q, so where it goes is known without any estimation.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from math import ceil
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from m3video.video.shapes_motion import ACTORS, CAMERA_REACH, DISTRACTORS, draw_paths
from m3video.video.shapes_texture import RIM, Texture, draw_outlines, draw_textures

_MISSING = 0.3  # share of the distractors that are left out


class ExactTracks(NamedTuple):
    """Where points go: as `m3video.motion.trajectory.Tracks`, but a point may be seen again."""

    points: Tensor
    """float32 [..., L + 1, 2] (x, y) in pixels; also where a point cannot be seen."""
    displacements: Tensor
    """float32 [..., L, 2] next − current."""
    visible: Tensor
    """bool [..., L + 1]: in the frame, and no nearer layer covers it, in that frame."""


@dataclass(frozen=True)
class Scenes:
    """B scenes of S frames with K objects each. Tensors on the CPU until `to`."""

    size: tuple[int, int]
    """Height and width of the frames in pixels."""
    labels: Tensor
    """int64 [B], positions in `CLASSES`."""
    centre: Tensor
    """[B, S, K, 2] (x, y) on the background, in pixels of the frame when the camera rests."""
    angle: Tensor
    """[B, S, K] radians; growing is clockwise as seen on the screen."""
    radius: Tensor
    """[B, S, K] pixels."""
    pan: Tensor
    """[B, S, 2] pixels by which the camera shifts all that is in the frame."""
    actors: Tensor
    """int64 [B, 2], the layers of the two objects that make the class's motion."""
    background: Tensor
    """[B, 3, H + 2m, W + 2m] in [0, 1], with a margin m for the camera."""
    tiles: Tensor
    """[B, K, 4, h, w]: texture in [0, 1], and signed distance to the outline in radii (> 0 inside);
    they span ± RIM radii."""
    noise: Tensor
    """[B] standard deviation of the sensor noise, of 255."""
    noise_seed: Tensor
    """int64 [B]."""

    @property
    def margin(self) -> int:
        """Pixels of background beyond each side of the frame."""
        return (self.background.shape[-1] - self.size[1]) // 2

    def to(self, device: torch.device | str) -> Scenes:
        """The same scenes on a device."""
        moved: dict[str, Any] = {
            field.name: value.to(device)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return replace(self, **moved)

    def tracks(self, points: Tensor, start: int, length: int) -> ExactTracks:
        """Follow what is seen at given points, exactly.

        A point belongs to the nearest layer that covers it in frame `start`, and moves with it.

        Args:
            points: [B or 1, ..., 2] (x, y) in pixels of frame `start`.
            start: first frame.
            length: L, steps; frame start + length must exist.
        """
        frames = self.pan.shape[1]
        if not 0 <= start <= start + length < frames:
            raise ValueError(
                f"start {start} with length {length} leaves the scene's {frames} frames"
            )
        batch, shape = len(self.labels), points.shape[1:-1]
        flat = points.float().expand(batch, *points.shape[1:]).reshape(batch, 1, -1, 2)
        window = slice(start, start + length + 1)
        layer = self._covers(flat, slice(start, start + 1)).float()  # [B, K, 1, P]
        # The nearest layer that covers a point: its number from 1; 0 is the background.
        number = torch.arange(1, layer.shape[1] + 1, device=layer.device).view(1, -1, 1, 1)
        owner = (layer * number).amax(dim=(1, 2)).long()  # [B, P]

        here = self._local(flat, slice(start, start + 1))  # [B, K, 1, P, 2]
        moved = self._place(here, window)  # [B, K, L + 1, P, 2]
        pan = self.pan[:, window, None]
        behind = flat + pan - pan[:, :1]  # [B, L + 1, P, 2]
        candidates = torch.cat([behind[:, None], moved], dim=1)
        pick = owner[:, None, None, :, None].expand(-1, 1, *candidates.shape[2:])
        path = candidates.gather(1, pick)[:, 0]  # [B, L + 1, P, 2]
        path[:, 0] = flat[:, 0]  # without what rounding did there and back

        nearer = number > owner[:, None, None]
        hidden = (self._covers(path, window) & nearer).any(dim=1)
        height, width = self.size
        inside = (path >= 0).all(-1) & (path[..., 0] <= width - 1) & (path[..., 1] <= height - 1)
        path = path.transpose(1, 2).reshape(batch, *shape, length + 1, 2)
        visible = (inside & ~hidden).transpose(1, 2).reshape(batch, *shape, length + 1)
        return ExactTracks(path, path.diff(dim=-2), visible)

    def flow(self, frame: int, step: int = 1) -> Tensor:
        """Exact flow from a frame to the one `step` later: float32 [B, 2, H, W] in pixels."""
        height, width = self.size
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        grid = torch.stack([x, y], dim=-1)[None].to(self.pan.device)
        tracks = self.tracks(grid, frame, step)
        moved = tracks.points[..., -1, :] - tracks.points[..., 0, :]
        return moved.permute(0, 3, 1, 2)

    def _local(self, points: Tensor, window: slice) -> Tensor:
        """Frame to tiles: [B, F or 1, P, 2] pixels -> [B, K, F, P, 2] radii."""
        centre = (self.centre + self.pan[:, :, None])[:, window].transpose(1, 2)[:, :, :, None]
        x, y = (points[:, None] - centre).unbind(-1)
        angle = self.angle[:, window].transpose(1, 2)[..., None]
        cosine, sine = angle.cos(), angle.sin()
        turned = torch.stack([cosine * x + sine * y, cosine * y - sine * x], dim=-1)
        return turned / self.radius[:, window].transpose(1, 2)[..., None, None]

    def _place(self, local: Tensor, window: slice) -> Tensor:
        """Tiles to frame, the inverse of `_local`: [B, K, 1, P, 2] -> [B, K, F, P, 2]."""
        centre = (self.centre + self.pan[:, :, None])[:, window].transpose(1, 2)[:, :, :, None]
        radius = self.radius[:, window].transpose(1, 2)[..., None]
        angle = self.angle[:, window].transpose(1, 2)[..., None]
        cosine, sine = radius * angle.cos(), radius * angle.sin()
        x, y = local.unbind(-1)
        return centre + torch.stack([cosine * x - sine * y, sine * x + cosine * y], dim=-1)

    def _covers(self, points: Tensor, window: slice) -> Tensor:
        """Which layers cover points of the frame: [B, F, P, 2] -> bool [B, K, F, P]."""
        grid = self._local(points, window) / RIM
        distance = functional.grid_sample(
            self.tiles[:, :, 3:].flatten(0, 1),
            grid.flatten(0, 1),
            align_corners=True,
            padding_mode="border",
        )
        return distance.view(grid.shape[:-1]) > 0


def sample_scenes(
    labels: Tensor,
    *,
    frames: int,
    size: tuple[int, int],
    texture: Texture,
    generator: torch.Generator,
    duration: int | None = None,
) -> Scenes:
    """Draw one scene for each label.

    For one generator state, only the motion depends on the labels, and nothing that is drawn
    depends on `frames`.

    Args:
        labels: int64 [B], positions in `CLASSES`.
        frames: S raw-rate frames.
        size: height and width of the frame.
        texture: what objects and backgrounds are covered with.
        generator: on the CPU.
        duration: frames in which a motion runs its course; all of them unless given.
    """
    batch, objects, unit = len(labels), ACTORS + DISTRACTORS, min(size)
    labels = labels.cpu()
    paths = draw_paths(labels, frames, duration or frames, size, generator)

    margin = ceil(CAMERA_REACH * unit) + 1
    canvas = (size[0] + 2 * margin, size[1] + 2 * margin)
    background = draw_textures(batch, canvas, unit, texture, generator)
    side = max(round(0.42 * unit), 8)
    textures = draw_textures(batch * objects, (side, side), unit, texture, generator)
    outlines = draw_outlines(batch * objects, side, generator)
    tiles = torch.cat([textures, outlines[:, None]], dim=1).view(batch, objects, 4, side, side)
    missing = torch.rand(batch, objects, generator=generator) < _MISSING
    missing = missing.scatter(1, paths.actors, False)
    tiles[:, :, 3].masked_fill_(missing[..., None, None], -1.0)

    gain = 0.85 + 0.3 * torch.rand(batch, 3, generator=generator)
    lift = 0.16 * torch.rand(batch, 1, generator=generator) - 0.08
    background = background * gain[..., None, None] + lift[..., None, None]
    tiles[:, :, :3] = tiles[:, :, :3] * gain[:, None, :, None, None] + lift[:, None, :, None, None]
    return Scenes(
        size=size,
        labels=labels,
        centre=paths.centre,
        angle=paths.angle,
        radius=paths.radius,
        pan=paths.pan,
        actors=paths.actors,
        background=background.clamp_(0, 1),
        tiles=torch.cat([tiles[:, :, :3].clamp(0, 1), tiles[:, :, 3:]], dim=2),
        noise=5 * torch.rand(batch, generator=generator),
        noise_seed=torch.randint(1 << 30, (batch,), generator=generator),
    )
