"""What follows the backward pass, for every kind of training: norm, skip or update.

Nothing here waits for a GPU: whether a step is taken is decided there, and what it measured is read
when somebody asks.
"""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor, nn, optim
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm


class StepResult:
    """What a step measured; reading it waits until the device is there.

    Args:
        names: of the losses.
        values: float [2 + len(names)] on any device: the weighted sum of the losses, the norm of
            the gradient before clipping, and each loss, not weighted.
    """

    def __init__(self, names: list[str], values: Tensor) -> None:
        self._names = names
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
        return dict(zip(self._names, self._numbers[2:], strict=True))

    @property
    def finite(self) -> bool:
        """Whether the step was taken: loss and gradient are finite."""
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


def update(
    model: nn.Module,
    optimizer: optim.Optimizer,
    loss: Tensor,
    losses: dict[str, Tensor],
    clip_grad: float | None,
) -> tuple[StepResult, Tensor]:
    """Update the weights by their gradients, which are then gone; or leave all as it is.

    Args:
        model: its parameters hold the gradients of the whole batch.
        optimizer: with the learning rates of this step.
        loss: scalar; where it or the norm of the gradient is not finite, nothing is changed.
        losses: of each target.
        clip_grad: largest norm; None for any.

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
    return StepResult(list(losses), torch.stack([loss, norm, *losses.values()])), finite
