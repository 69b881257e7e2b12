"""The embedded data set: rendered clips of moving shapes, with their exact motion.

- 13 classes of motion (`CLASSES`), in the spirit of Something-Something: what the two main objects
  do relative to the background. `shapes_motion` says what the classes are, and why no single frame
  tells them apart.
- Textured outlines on textured backgrounds (`shapes_texture`), a swaying camera, distractors that
  hide and are hidden, sensor noise, light and colour at random.
- Scenes know where each of their points goes (`shapes_scene`), and are drawn in batches on any
  device (`shapes_render`).

    scenes = sample_scenes(torch.arange(13), frames=32, size=(96, 128), texture="both", generator=g)
    frames = render(scenes)                                # uint8 [13, 32, 96, 128, 3]
    tracks = scenes.tracks(points, start=4, length=6)      # exact points, displacements, visible
"""

from __future__ import annotations

import torch
from torch import Tensor

from m3video.config import ClipConfig
from m3video.errors import ConfigError
from m3video.video.loader import FLOW, Clips
from m3video.video.sampling import ClipPlan, sample_generator
from m3video.video.shapes_motion import CLASSES
from m3video.video.shapes_render import render
from m3video.video.shapes_scene import ExactTracks, Scenes, sample_scenes
from m3video.video.shapes_texture import Texture

__all__ = [
    "CLASSES",
    "ExactTracks",
    "MovingShapes",
    "Scenes",
    "Texture",
    "render",
    "sample_scenes",
]


class MovingShapes:
    """A `ClipSource` of rendered clips; clip number n is of class n modulo the number of classes.

    Args:
        clips: how many there are in an epoch.
        clip: a motion runs its course in frames × stride raw frames, whatever the plan.
        plan: which of the raw frames are drawn.
        texture: noise, photo or both.
        fixed: the clips are the same in every epoch and for every seed: for labelled sets.
        offset: number of the first clip; sets whose numbers do not meet share no clip.
        flow: give the exact flow of the plan's pairs with each clip, as the extra `flow`.

    Raises:
        ConfigError: no clips, or an unknown texture.
    """

    labels: tuple[str, ...] = CLASSES

    def __init__(
        self,
        *,
        clips: int,
        clip: ClipConfig,
        plan: ClipPlan,
        texture: Texture,
        fixed: bool = False,
        offset: int = 0,
        flow: bool = False,
    ) -> None:
        if clips < 1 or offset < 0:
            raise ConfigError(f"clips {clips} must be at least 1 and offset {offset} at least 0")
        if texture not in ("noise", "photo", "both"):
            raise ConfigError(f"texture {texture!r} is not one of noise, photo, both")
        self.clips = clips
        self.config = clip
        self.plan = plan
        self.texture = texture
        self.fixed = fixed
        self.offset = offset
        self.flow = flow

    def __len__(self) -> int:
        return self.clips

    def clip(self, index: int, epoch: int, generator: torch.Generator) -> Clips:
        """Render one clip (no batch dimension): frames uint8 [R, H, W, 3]."""
        if not 0 <= index < self.clips:
            raise IndexError(f"clip {index} is not one of {self.clips}")
        number = self.offset + index
        if self.fixed:
            generator = sample_generator(0, 0, number)
        else:
            seed = int(torch.randint(1 << 62, (), generator=generator))
            generator = sample_generator(seed, epoch, number)
        label = torch.tensor(number % len(CLASSES))
        scenes = sample_scenes(
            label[None],
            frames=self.plan.span,
            size=self.config.size,
            texture=self.texture,
            generator=generator,
            duration=self.config.frames * self.config.stride,
        )
        return Clips(
            frames=render(scenes, self.plan.offsets)[0],
            real=torch.ones(len(self.plan.offsets), dtype=torch.bool),
            label=label,
            index=torch.tensor(index),
            extras={FLOW: self._flow(scenes)} if self.flow else {},
            unreadable=[],
        )

    def _flow(self, scenes: Scenes) -> Tensor:
        """Exact flow of the plan's pairs of one scene: float32 [P, 2, H, W]."""
        starts = [self.plan.offsets[row] for row in self.plan.pairs]
        return torch.cat([scenes.flow(start, self.plan.step) for start in starts])
