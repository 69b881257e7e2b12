"""From clips to what the model trains on: the mask, the targets and the normalised input.

Work is split between two places; both give the same numbers:

    a data worker, per clip:  mask, and with motion.where = "worker" the motion and HOG targets,
                              after which only the T input frames travel on
    the training step:        input and pixel target from uint8 frames on the device, and with
                              motion.where = "step" all other targets
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from m3video.config import PretrainConfig
from m3video.masking import make_mask
from m3video.targets import build_targets
from m3video.targets.base import ClipView, Target, TargetMaker
from m3video.video.augment import normalise
from m3video.video.loader import FLOW, Clips
from m3video.video.sampling import ClipPlan, plan_clip

MASK = "mask"


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

        Args:
            clip: one clip, without the batch dimension.
            generator: that of the sample.
        """
        mask = make_mask(self.config.mask, self.config.clip.tokens, generator)[0]
        extras = {**clip.extras, MASK: mask}
        if self.config.motion.where == "step":
            return replace(clip, extras=extras)
        view = clip_view(self.config, self.plan, alone(clip))
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
    """

    clip: Tensor
    mask: Tensor
    targets: dict[str, Target]

    def counts(self) -> dict[str, Tensor]:
        """How many numbers the loss of each target is a mean of: valid ones of hidden tokens."""
        return {
            name: (target.valid & self.mask[..., None]).sum()
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
        inputs = normalise(clips.frames[:, list(self.plan.inputs)])
        return Batch(inputs, clips.extras[MASK], targets)
