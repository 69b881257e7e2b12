"""One optimiser step: losses of a batch, gradient, update, or a skip when they are not finite."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from m3video.config import PretrainConfig
from m3video.errors import ConfigError
from m3video.masking import decoded_count, hidden_count
from m3video.model.masked_autoencoder import build_model
from m3video.train.health import Health, measured
from m3video.train.optim import make_optimizer, set_learning_rate
from m3video.train.parallel import Parallel
from m3video.train.prepare import Batch, Finish
from m3video.train.update import StepResult, update
from m3video.train.world import ALONE, World
from m3video.video.loader import Clips
from m3video.video.sampling import ClipPlan


class Trainer:
    """Model and optimiser of a run, and how they take a step.

    Attributes:
        model: the masked autoencoder, not compiled; its weights are what is saved.
        optimizer: AdamW over its parameters.
    """

    def __init__(
        self,
        config: PretrainConfig,
        plan: ClipPlan,
        device: torch.device,
        world: World = ALONE,
    ) -> None:
        self.config = config
        self.device = device
        self.world = world
        self.finish = Finish(config, plan)
        self.hidden = hidden_count(config.mask, config.clip.tokens)
        self.decoded = decoded_count(config.mask, config.clip.tokens)
        torch.manual_seed(config.train.seed)
        model = build_model(config, self.finish.dims).train()
        self._parallel = Parallel(model, config.train, world, device)
        self.model = model
        self.optimizer = make_optimizer(model, config.train)
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
        figures = {} if health is None else health.figures(losses, self.world)
        weights = {name: target.weight for name, target in self.config.targets.active.items()}
        loss = torch.stack([weights[name] * value for name, value in losses.items()]).sum()
        set_learning_rate(self.optimizer, rate)
        limit = self.config.train.clip_grad
        return update(self.model, self.optimizer, loss, losses, limit, figures)[0]

    def _accumulate(self, clips: Clips, health: Health | None) -> dict[str, Tensor]:
        """Add up the gradients of all micro-batches; gives the losses of the whole batch.

        A loss is a mean over valid numbers, and micro-batches may hold unequal counts of them: each
        counts by its share, so that the sum is the mean over the whole batch of all processes.
        """
        parts = [self.finish(part) for part in split(clips, self.config.train.accumulate)]
        counts = [part.counts() for part in parts]
        active = self.config.targets.active
        totals = self.world.sum(
            torch.stack([torch.stack([count[name] for count in counts]).sum() for name in active])
        )
        sums = torch.zeros(len(active), device=self.device)
        for number, (part, count) in enumerate(zip(parts, counts, strict=True), start=1):
            with self._parallel.last(number == len(parts)):
                losses, features = self._losses(part)
                shares = [
                    losses[name] * (count[name] / total.clamp(min=1))
                    for name, total in zip(active, totals, strict=True)
                ]
                weighted = [
                    active[name].weight * share for name, share in zip(active, shares, strict=True)
                ]
                self._parallel.backward(torch.stack(weighted).sum())
            if health is not None:
                decoded = part.mask if part.decode is None else part.decode
                health.add(features, part.targets, decoded)
            sums = sums + torch.stack(shares).detach()
        return dict(zip(active, self.world.sum(sums), strict=True))

    def _losses(self, part: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """Loss of each target, and the features [B, D]."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16):
            output = self._parallel.forward(
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


def step_seed(seed: int, step: int, *place: int) -> int:
    """A seed for what is drawn in a step itself, or for a `place` in its batch, unrelated to that
    of other steps and samples."""
    return int(np.random.SeedSequence((seed, step, *place)).generate_state(1, np.uint64)[0])


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
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)  # events and page-locked memory are the current device's
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        allowed = "auto, cpu or cuda" if torch.cuda.is_available() else "auto or cpu"
        raise ConfigError(f"device {name!r} cannot be used: {reason}; use {allowed}") from error
    return device
