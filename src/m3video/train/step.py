"""One optimiser step: losses of a batch, gradient, update, or a skip when they are not finite."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from m3video.config import PretrainConfig
from m3video.errors import ConfigError
from m3video.masking import decoded_count, hidden_count
from m3video.model.masked_autoencoder import build_model
from m3video.train.health import Health, measured
from m3video.train.optim import make_optimizer, set_learning_rate
from m3video.train.prepare import Batch, Finish
from m3video.video.loader import Clips
from m3video.video.sampling import ClipPlan


@dataclass(frozen=True)
class StepResult:
    """What a step measured; all on the host.

    Attributes:
        loss: weighted sum over the targets.
        losses: of each target, not weighted.
        grad_norm: before clipping.
        health: figures of `m3video.train.health` by their key, on the steps that are measured.
    """

    loss: float
    losses: dict[str, float]
    grad_norm: float
    health: dict[str, float] = field(default_factory=dict)

    @property
    def finite(self) -> bool:
        """Whether the step was taken: loss and gradient are finite."""
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


class Trainer:
    """Model and optimiser of a run, and how they take a step.

    Attributes:
        model: the masked autoencoder, not compiled; its weights are what is saved.
        optimizer: AdamW over its parameters.
    """

    def __init__(self, config: PretrainConfig, plan: ClipPlan, device: torch.device) -> None:
        self.config = config
        self.device = device
        self.finish = Finish(config, plan)
        self.hidden = hidden_count(config.mask, config.clip.tokens)
        self.decoded = decoded_count(config.mask, config.clip.tokens)
        torch.manual_seed(config.train.seed)
        self.model = build_model(config, self.finish.dims).to(device).train()
        self.optimizer = make_optimizer(self.model, config.train)
        # The compiled module shares the weights; those of `model` keep their names.
        self._forward: Any = torch.compile(self.model) if config.train.compile else self.model
        precision = config.train.precision
        self._bf16 = precision == "bf16" or (precision == "auto" and device.type != "cpu")

    def step(self, clips: Clips, number: int, rate: float) -> StepResult:
        """Train on a batch; leave model and optimiser alone if loss or gradient is not finite.

        Args:
            clips: a batch that `Prepare` has seen, on any device.
            number: of the step; anything random in it depends on this and the seed alone.
            rate: learning rate.
        """
        torch.manual_seed(step_seed(self.config.train.seed, number))
        health = Health() if measured(number, self.config.train) else None
        losses = self._accumulate(clips.to(self.device, non_blocking=True), health)
        figures = health.figures(losses) if health is not None else {}
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = get_total_norm(gradients)
        weights = {name: target.weight for name, target in self.config.targets.active.items()}
        loss = torch.stack([weights[name] * value for name, value in losses.items()]).sum()
        # One copy to the host, so that a GPU is waited for once a step.
        parts = torch.stack([loss, norm, *losses.values(), *figures.values()]).tolist()
        total, grad_norm, *each = parts
        shown = dict(zip(figures, each[len(losses) :], strict=True))
        result = StepResult(total, dict(zip(losses, each, strict=False)), grad_norm, shown)
        if result.finite:
            limit = self.config.train.clip_grad
            if limit is not None:
                clip_grads_with_norm_(self.model.parameters(), limit, norm)
            set_learning_rate(self.optimizer, rate)
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return result

    def _accumulate(self, clips: Clips, health: Health | None) -> dict[str, Tensor]:
        """Add up the gradients of all micro-batches; gives the losses of the whole batch.

        A loss is a mean over valid numbers, and micro-batches may hold unequal counts of them: each
        counts by its share, so that the sum is the mean over the whole batch.
        """
        parts = [self.finish(part) for part in split(clips, self.config.train.accumulate)]
        counts = [part.counts() for part in parts]
        active = self.config.targets.active
        totals = {name: torch.stack([count[name] for count in counts]).sum() for name in active}
        sums = {name: torch.zeros((), device=self.device) for name in active}
        for part, count in zip(parts, counts, strict=True):
            losses, features = self._losses(part)
            if health is not None:
                decoded = part.mask if part.decode is None else part.decode
                health.add(features, part.targets, decoded)
            share = {
                name: losses[name] * (count[name] / totals[name].clamp(min=1)) for name in active
            }
            weighted = [active[name].weight * share[name] for name in active]
            torch.autograd.backward(torch.stack(weighted).sum())
            sums = {name: sums[name] + share[name].detach() for name in active}
        return sums

    def _losses(self, part: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """Loss of each target, and the features [B, D]."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16):
            output = self._forward(
                part.clip,
                part.mask,
                part.targets,
                hidden=self.hidden,
                decode=part.decode,
                decoded=self.decoded,
            )
        losses: dict[str, Tensor] = output["losses"]
        return losses, output["features"]


def split(clips: Clips, parts: int) -> list[Clips]:
    """Cut a batch [B, …] in equal micro-batches [B / parts, …]."""
    size = len(clips.index) // parts
    cuts = [slice(start, start + size) for start in range(0, len(clips.index), size)]
    return [
        Clips(
            frames=clips.frames[cut],
            real=clips.real[cut],
            label=clips.label[cut],
            index=clips.index[cut],
            extras={name: value[cut] for name, value in clips.extras.items()},
            unreadable=[],
        )
        for cut in cuts
    ]


def step_seed(seed: int, step: int) -> int:
    """A seed for what is drawn in a step itself, unrelated to that of other steps and samples."""
    return int(np.random.SeedSequence((seed, step)).generate_state(1, np.uint64)[0])


def choose_device(name: str) -> torch.device:
    """The device that a name stands for; `auto` is a GPU where torch sees one.

    Raises:
        ConfigError: no such device on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"device {name!r} cannot be used: {reason}; use auto, cpu or cuda"
        ) from error
    return device
