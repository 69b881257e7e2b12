"""From clips to what the model trains on: the mask, the targets and the normalised input.

Work is split between two places; both give the same numbers:

    a data worker, per clip:  all that is drawn, the mask, and with motion.where = "worker" the
                              motion and HOG targets, after which only the T input frames travel on
    the training step:        input and pixel target from uint8 frames on the device, which hidden
                              tokens are decoded, and with motion.where = "step" all other targets
                              and a mask that follows motion
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from m3video.config import PretrainConfig
from m3video.masking import CELL_STARTS, decode_mask, make_mask, mask_noise, motion_mask
from m3video.targets import build_targets
from m3video.targets.base import ClipView, Target, TargetMaker
from m3video.video.augment import normalise
from m3video.video.loader import FLOW, Clips
from m3video.video.sampling import ClipPlan, plan_clip, row_index

MASK = "mask"
NOISE = "noise"
"""What `mask_noise` drew, where the mask is made in the step."""
CELL = "cell"
"""Where the running cell of `decode_mask` starts."""


def clip_view(config: PretrainConfig, plan: ClipPlan, clips: Clips) -> ClipView:
    """A batch of clips [B, R, …] as targets read it."""
    given = clips.extras.get(FLOW)
    return ClipView(clips.frames, clips.real, plan, config.clip, config.motion, given)


def alone(clip: Clips) -> Clips:
    """A batch of one clip."""
    return Clips(
        frames=clip.frames[None],
        real=clip.real[None],
        label=clip.label[None],
        index=clip.index[None],
        extras={name: value[None] for name, value in clip.extras.items()},
        unreadable=clip.unreadable,
    )


@dataclass(frozen=True)
class Prepare:
    """What a data worker does with one clip after it is read: draw its mask, make its targets.

    Attributes:
        config: the run.
        plan: the rows of the clips that come.
    """

    config: PretrainConfig
    plan: ClipPlan

    @cached_property
    def makers(self) -> dict[str, TargetMaker]:
        """The targets that are made here; built on first use, in the process that uses them."""
        if self.config.motion.where == "step":
            return {}
        makers = build_targets(self.config)
        return {name: maker for name, maker in makers.items() if name != "pixel"}

    @torch.no_grad()
    def __call__(self, clip: Clips, generator: torch.Generator) -> Clips:
        """Add to the extras of a clip: `mask` [N], `<target>/values` [N, D], `<target>/valid`.

        In place of a mask that follows motion, `noise` [2, N] if motion is found in the step; and
        `cell`, a scalar, if not all hidden tokens are decoded.

        Args:
            clip: one clip, without the batch dimension.
            generator: that of the sample.
        """
        settings, tokens = self.config.mask, self.config.clip.tokens
        in_step = self.config.motion.where == "step"
        view = clip_view(self.config, self.plan, alone(clip))
        extras = dict(clip.extras)
        if settings.needs_tracks and in_step:
            extras[NOISE] = mask_noise(tokens, generator)[0]
        else:
            motion = view.motion_energy if settings.needs_tracks else None
            extras[MASK] = make_mask(settings, tokens, generator, motion=motion)[0]
        if settings.decode < 1:
            extras[CELL] = torch.randint(CELL_STARTS, (), generator=generator)
        if in_step:
            return replace(clip, extras=extras)
        extras.pop(FLOW, None)
        for name, maker in self.makers.items():
            target = maker(view)
            extras[f"{name}/values"] = target.values[0]
            extras[f"{name}/valid"] = target.valid[0]
        rows = list(self.plan.inputs)
        return replace(clip, frames=clip.frames[rows], real=clip.real[rows], extras=extras)


@dataclass(frozen=True)
class Batch:
    """What one forward pass reads.

    Attributes:
        clip: float32 [B, 3, T, H, W], normalised.
        mask: bool [B, N], True is hidden.
        targets: by name.
        decode: bool [B, N], the hidden tokens that are decoded; None for all of them.
    """

    clip: Tensor
    mask: Tensor
    targets: dict[str, Target]
    decode: Tensor | None = None

    def counts(self) -> dict[str, Tensor]:
        """How many numbers the loss of each target is a mean of: valid ones of decoded tokens."""
        decoded = self.mask if self.decode is None else self.decode
        return {
            name: (target.valid & decoded[..., None]).sum()
            * (target.values.numel() // target.valid.numel())
            for name, target in self.targets.items()
        }


class Finish:
    """What the training step does with the clips of a batch, on the device."""

    def __init__(self, config: PretrainConfig, plan: ClipPlan) -> None:
        self.config = config
        self.plan = plan if config.motion.where == "step" else plan_clip(config.clip, 0)
        self.makers = build_targets(config)

    @property
    def dims(self) -> dict[str, int]:
        """D of each target."""
        return {name: maker.dim for name, maker in self.makers.items()}

    @torch.no_grad()
    def __call__(self, clips: Clips) -> Batch:
        """Normalise the input and complete the targets, in the order of the config.

        Args:
            clips: a batch that `Prepare` has seen, on the device of the model.
        """
        view = clip_view(self.config, self.plan, clips)
        targets = {
            name: Target(clips.extras[f"{name}/values"], clips.extras[f"{name}/valid"])
            if f"{name}/values" in clips.extras
            else maker(view)
            for name, maker in self.makers.items()
        }
        inputs = normalise(self._inputs(clips.frames))
        settings, tokens = self.config.mask, self.config.clip.tokens
        if NOISE in clips.extras:
            mask = motion_mask(settings, tokens, view.motion_energy, clips.extras[NOISE])
        else:
            mask = clips.extras[MASK]
        decode = None
        if CELL in clips.extras:
            decode = decode_mask(settings, mask, tokens, clips.extras[CELL])
        return Batch(inputs, mask, targets, decode)

    def _inputs(self, frames: Tensor) -> Tensor:
        """The rows that the encoder reads: [B, R, …] -> [B, T, …]."""
        if self.plan.inputs == tuple(range(frames.shape[1])):
            return frames
        return frames.index_select(1, row_index(self.plan.inputs, frames.device))
