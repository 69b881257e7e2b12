"""AdamW, and the learning rate as a function of the step alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn, optim

from m3video.config import TrainConfig

REFERENCE_BATCH = 256


def steps_per_epoch(clips: int, batch: int) -> float:
    """Optimiser steps in a pass over the data, as the loader counts: the partial batch is left out.

    Where clips are fewer than a batch, a batch is more than one pass and this is below 1.
    """
    return clips // batch or clips / batch


def total_steps(config: TrainConfig, clips: int) -> int:
    """Optimiser steps of the whole run over `clips` clips an epoch."""
    if config.steps is not None:
        return config.steps
    return max(round(config.epochs * steps_per_epoch(clips, config.batch)), 1)


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, then a cosine, per step.

    The rate of step i (counted from 1) is, with S steps of which W are warm-up,

        i ≤ W:  peak · i / W
        i > W:  floor + (peak − floor) · (1 + cos(π (i − W) / (S − W))) / 2

    so step W has the peak and step S the floor.
    """

    steps: int
    warmup: int
    peak: float
    floor: float

    @classmethod
    def of(cls, config: TrainConfig, steps: int) -> Schedule:
        """The schedule of a run: the peak is scaled by batch / 256, the floor is not."""
        peak = config.lr * config.batch / REFERENCE_BATCH
        return cls(steps, round(config.warmup * steps), peak, min(config.min_lr, peak))

    def __call__(self, step: int) -> float:
        """Learning rate of a step, counted from 1."""
        if step <= self.warmup:
            return self.peak * step / self.warmup
        progress = (step - self.warmup) / (self.steps - self.warmup)
        return self.floor + (self.peak - self.floor) * (1 + math.cos(math.pi * progress)) / 2


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Split the trained parameters in two groups: matrices, which decay, and all others.

    Matrices are weights of two or more dimensions. The mask token is a vector, whatever its shape.
    """
    decayed: list[Tensor] = []
    others: list[Tensor] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            matrix = parameter.ndim >= 2 and not name.endswith("mask_token")
            (decayed if matrix else others).append(parameter)
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


def make_optimizer(model: nn.Module, config: TrainConfig) -> optim.AdamW:
    """AdamW over the parameters of a model; the learning rate is set before each step."""
    fused = all(parameter.device.type in {"cpu", "cuda"} for parameter in model.parameters())
    return optim.AdamW(
        parameter_groups(model, config.weight_decay),
        lr=config.lr,
        betas=config.betas,
        fused=fused,
    )


def set_learning_rate(optimizer: optim.Optimizer, rate: float) -> None:
    """Give all groups the same learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def state_by_name(model: nn.Module, optimizer: optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's tensors, as `<parameter>/<entry>`: in a file, neither order nor pickle."""
    return {
        f"{name}/{entry}": value
        for name, parameter in model.named_parameters()
        for entry, value in optimizer.state.get(parameter, {}).items()
    }


def load_state_by_name(
    model: nn.Module, optimizer: optim.Optimizer, tensors: dict[str, Tensor]
) -> None:
    """Give an optimiser back what `state_by_name` took; parameters without entries start anew."""
    by_parameter: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        name, _, entry = key.rpartition("/")
        by_parameter.setdefault(name, {})[entry] = value
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    order = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state = {
        position: by_parameter[names[id(parameter)]]
        for position, parameter in enumerate(order)
        if names[id(parameter)] in by_parameter
    }
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
