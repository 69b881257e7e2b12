"""What follows the backward pass, for every kind of training: norm, skip or update.

Nothing here waits for a GPU: whether a step is taken is decided there, and what it measured is read
when somebody asks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor, nn, optim
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from m3video.video.loader import Clips


class StepResult:
    """What a step measured; reading it waits until the device is there.

    Args:
        names: of the losses.
        values: float [2 + len(names) + len(shown)] on any device: the weighted sum of the losses,
            the norm of the gradient before clipping, each loss, not weighted, and the figures.
        shown: of the figures.
    """

    def __init__(self, names: list[str], values: Tensor, shown: list[str]) -> None:
        self._names, self._shown = names, shown
        self._arrived: torch.cuda.Event | None = None
        self._values = values
        if values.is_cuda:
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record()

    @cached_property
    def _numbers(self) -> list[float]:
        if self._arrived is not None:
            self._arrived.synchronize()
        numbers: list[float] = self._values.tolist()
        return numbers

    @property
    def loss(self) -> float:
        """Weighted sum over the targets."""
        return self._numbers[0]

    @property
    def grad_norm(self) -> float:
        """Before clipping."""
        return self._numbers[1]

    @property
    def losses(self) -> dict[str, float]:
        """Of each target, not weighted."""
        return dict(zip(self._names, self._numbers[2:], strict=False))

    @property
    def health(self) -> dict[str, float]:
        """Figures of `m3video.train.health` by their key, of the steps that are measured."""
        return dict(zip(self._shown, self._numbers[2 + len(self._names) :], strict=True))

    @property
    def finite(self) -> bool:
        """Whether the step was taken: loss and gradient are finite."""
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


class Steps(Protocol):
    """How a model takes a step; `model` and `optimizer` are what a checkpoint holds."""

    @property
    def model(self) -> nn.Module: ...

    @property
    def optimizer(self) -> optim.Optimizer: ...

    @property
    def device(self) -> torch.device: ...

    def step(self, clips: Clips, number: int, rate: float) -> StepResult:
        """Train on a batch; leave the model alone if loss or gradient is not finite."""
        ...


@dataclass(frozen=True)
class Taken:
    """A step that was taken, and perhaps not read yet.

    Attributes:
        step: its number.
        result: what it measured.
        rate: the learning rate.
        unreadable: how many videos could not be read up to it.
    """

    step: int
    result: StepResult
    rate: float
    unreadable: int


def update(
    model: nn.Module,
    optimizer: optim.Optimizer,
    loss: Tensor,
    losses: dict[str, Tensor],
    clip_grad: float | None,
    shown: dict[str, Tensor] | None = None,
) -> tuple[StepResult, Tensor]:
    """Update the weights by their gradients, which are then gone; or leave all as it is.

    Args:
        model: its parameters hold the gradients of the whole batch.
        optimizer: with the learning rates of this step.
        loss: scalar; where it or the norm of the gradient is not finite, nothing is changed.
        losses: of each target.
        clip_grad: largest norm; None for any.
        shown: figures of the step that are read with the others.

    Returns:
        What was measured, and whether the step was taken: bool, a scalar on the device.
    """
    norm = get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()
    finite = loss.isfinite() & norm.isfinite()
    if clip_grad is not None:
        clip_grads_with_norm_(model.parameters(), clip_grad, norm)
    if optimizer.defaults.get("fused"):
        # As a gradient scaler does: the fused kernel reads on the device whether to do nothing.
        optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
        optimizer.grad_scale = None  # type: ignore[attr-defined]
        optimizer.step()
    elif finite:
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    shown = shown or {}
    values = torch.stack([loss, norm, *losses.values(), *shown.values()])
    return StepResult(list(losses), values, list(shown)), finite
