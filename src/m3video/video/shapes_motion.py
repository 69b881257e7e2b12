"""How the things of a moving-shapes scene move: the classes.

A scene holds a textured background, two *actors* and up to two small distractors. The class is what
the actors do **relative to the background**: both make the same motion, except in `pass-behind`,
where they cross and the farther one passes behind the nearer one. The camera sways, and with it
everything in the frame, whatever the class. Distractors sway a little on the background.

Appearance must not betray the class, so every scene has every component of motion, and the class
says only which one runs:

    component              law of its value in every scene         runs in
    place, per axis        uniform on [-1/2, 1/2] × reach          left, right, up, down (linearly),
                                                                   oscillate-… (triangle wave)
    point of a circle      phase uniform                           circle-…
    angle, per actor       uniform                                 rotate-…
    log size               uniform on [-1/2, 1/2] × growth         approach, recede
    the pair's separation  uniform on [-1/2, 1/2] × separation     pass-behind
    camera, distractors    sine waves of uniform phase             always

A component that runs sweeps that same interval at constant speed in the course of the clip; one
that does not stays at a value drawn from it. Hence, exactly:

- The joint law of the whole state (places, angles, sizes, shapes, depth order, camera) in a frame
  drawn at random from the clip is the same for all classes; so is the law of that frame's pixels.
- In circle-…, rotate-… and oscillate-… it is even the same for each frame by its number. In the
  other classes it cannot be: the mean place (or size) of the last frame less that of the first *is*
  the class's mean motion.
- A class's clips played backwards are clips of the opposite class.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log, pi

import torch
from torch import Tensor

CLASSES: tuple[str, ...] = (
    "left",
    "right",
    "up",
    "down",
    "rotate-clockwise",
    "rotate-counterclockwise",
    "approach",
    "recede",
    "circle-clockwise",
    "circle-counterclockwise",
    "oscillate-horizontal",
    "oscillate-vertical",
    "pass-behind",
)
ACTORS = 2
DISTRACTORS = 2
CAMERA_REACH = 0.06
"""Largest sway of the camera per axis, as a share of the frame's shorter side."""


@dataclass(frozen=True)
class Paths:
    """Where the K objects of B scenes are in S frames. Layers are ordered from far to near."""

    centre: Tensor
    """[B, S, K, 2] (x, y) on the background, in pixels of the frame when the camera rests."""
    angle: Tensor
    """[B, S, K] radians; growing is clockwise as seen on the screen."""
    radius: Tensor
    """[B, S, K] pixels, from the centre to the farthest point of the outline."""
    pan: Tensor
    """[B, S, 2] pixels by which the camera shifts all that is in the frame."""
    actors: Tensor
    """[B, 2] int64, the layers of the two actors."""


class _Draw:
    """Uniform numbers [B, 1] from one generator."""

    def __init__(self, batch: int, generator: torch.Generator) -> None:
        self.batch = batch
        self.generator = generator

    def __call__(self, low: float, high: float, columns: int = 1) -> Tensor:
        uniform = torch.rand(self.batch, columns, generator=self.generator)
        return low + (high - low) * uniform


def _triangle(phase: Tensor) -> Tensor:
    """Triangle wave of period 1 in [-1/2, 1/2]; uniform there for a uniform phase."""
    return 2 * (torch.remainder(phase, 1) - 0.5).abs() - 0.5


def draw_paths(
    labels: Tensor, frames: int, duration: int, size: tuple[int, int], generator: torch.Generator
) -> Paths:
    """Draw how everything moves.

    Args:
        labels: int64 [B], positions in `CLASSES`.
        frames: S, how many frames are laid out; what is drawn does not depend on it.
        duration: frames in which a motion runs its course.
        size: height and width of the frame in pixels.
        generator: the source of all that is drawn (CPU).
    """
    height, width = size
    unit = min(size)
    draw = _Draw(len(labels), generator)
    # A share of a frame more or less makes the time of a random frame exactly uniform.
    time = (torch.arange(frames) + draw(0, 1)) / duration - 0.5  # [B, S]
    group, separation = _actor_centres(labels, time, draw)
    angle, scale = _actor_poses(labels, time, draw)
    actor_centre = torch.stack([group + separation / 2, group - separation / 2], dim=2)
    spare = torch.tensor([width - unit, height - unit]) / unit
    home = draw(-0.5, 0.5, 2)[:, None, None] * spare + draw(-0.05, 0.05, 2)[:, None, None]
    distractor_centre, distractor_angle, distractor_radius = _distractors(time, size, draw)
    middle = torch.tensor([(width - 1) / 2, (height - 1) / 2])
    centre = torch.cat([actor_centre + home, distractor_centre], dim=2) * unit + middle
    angle = torch.cat([angle, distractor_angle], dim=2)
    radius = torch.cat([scale, distractor_radius], dim=2) * unit
    camera = _sway(time, CAMERA_REACH, 1, draw)[:, :, 0] * unit

    objects = ACTORS + DISTRACTORS
    layer_of = torch.rand(len(labels), objects, generator=generator).argsort(dim=1)  # a permutation
    object_in = layer_of.argsort(dim=1)[:, None, :].expand(-1, frames, -1)
    return Paths(
        centre=centre.gather(2, object_in[..., None].expand(-1, -1, -1, 2)),
        angle=angle.gather(2, object_in),
        radius=radius.gather(2, object_in),
        pan=camera,
        actors=layer_of[:, :ACTORS],
    )


def _is(labels: Tensor, name: str) -> Tensor:
    return (labels == CLASSES.index(name))[:, None]


def _sweep(labels: Tensor, time: Tensor, forward: str, backward: str, draw: _Draw) -> Tensor:
    """[B, S] in [-1/2, 1/2]: swept in two classes, at rest at a uniform value in the others."""
    rest = draw(-0.5, 0.5).expand_as(time)
    swept = torch.where(_is(labels, forward), time, rest)
    return torch.where(_is(labels, backward), -time, swept)


def _turn(labels: Tensor, time: Tensor, what: str, turns: Tensor) -> Tensor:
    """[B, S] radians turned since mid-span, in the two classes of `what`; 0 in the others."""
    clockwise = _is(labels, f"{what}-clockwise").float()
    counterclockwise = _is(labels, f"{what}-counterclockwise").float()
    return 2 * pi * turns * time * (clockwise - counterclockwise)


def _actor_centres(labels: Tensor, time: Tensor, draw: _Draw) -> tuple[Tensor, Tensor]:
    """Midpoint of the pair, and from the second actor to the first: both [B, S, 2], in units."""
    axes = []
    for forward, backward, name in (
        ("right", "left", "oscillate-horizontal"),
        ("down", "up", "oscillate-vertical"),
    ):
        swept = _sweep(labels, time, forward, backward, draw)
        wave = _triangle(draw(0, 1) + draw(1.0, 1.5) * time)
        axes.append(draw(0.3, 0.45) * torch.where(_is(labels, name), wave, swept))
    place = torch.stack(axes, dim=-1)

    phase = draw(-pi, pi) + _turn(labels, time, "circle", draw(0.6, 1.0))
    circle = draw(0.09, 0.15)[..., None] * torch.stack([phase.cos(), phase.sin()], dim=-1)

    crossing = draw(0.7, 0.95) * torch.where(
        _is(labels, "pass-behind"), time, draw(-0.5, 0.5).expand_as(time)
    )
    heading = draw(-pi, pi)
    along = torch.stack([heading.cos(), heading.sin()], dim=-1)  # [B, 1, 2]
    across = torch.stack([-heading.sin(), heading.cos()], dim=-1)
    separation = crossing[..., None] * along + draw(-0.08, 0.08)[..., None] * across
    return place + circle, separation


def _actor_poses(labels: Tensor, time: Tensor, draw: _Draw) -> tuple[Tensor, Tensor]:
    """Angle in radians and radius in units of the two actors, both [B, S, 2]."""
    turned = _turn(labels, time, "rotate", draw(0.3, 0.6))
    angle = draw(-pi, pi, ACTORS)[:, None] + turned[..., None]
    growth = draw(log(1.8), log(2.4)) * _sweep(labels, time, "approach", "recede", draw)
    radius = draw(0.15, 0.22, ACTORS)[:, None] * growth.exp()[..., None]
    return angle, radius


def _sway(time: Tensor, reach: float, things: int, draw: _Draw) -> Tensor:
    """[B, S, things, 2] units: a slow sine wave per axis, the same law in every frame."""
    columns = 2 * things
    cycles = draw(0.15, 0.4, columns)[:, None] * time[..., None] + draw(0, 1, columns)[:, None]
    wave = draw(0, reach, columns)[:, None] * (2 * pi * cycles).sin()
    return wave.reshape(*time.shape, things, 2)


def _distractors(time: Tensor, size: tuple[int, int], draw: _Draw) -> tuple[Tensor, Tensor, Tensor]:
    """Centre [B, S, n, 2] and radius [B, S, n] in units, angle [B, S, n]."""
    height, width = size
    reach = torch.tensor([width, height]) / min(size)
    home = draw(-0.5, 0.5, 2 * DISTRACTORS).view(-1, DISTRACTORS, 2) * reach
    centre = home[:, None] + _sway(time, 0.06, DISTRACTORS, draw)
    shape = (-1, time.shape[1], -1)
    angle = draw(-pi, pi, DISTRACTORS)[:, None].expand(shape)
    radius = draw(0.06, 0.11, DISTRACTORS)[:, None].expand(shape)
    return centre, angle, radius
