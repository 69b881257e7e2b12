"""Whether a fine-tuning has learned anything: the loss of a guess, against torch's."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from m3video.train.learned import guess_loss, nothing_learned


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_a_guess_is_the_least_that_a_constant_answer_has(smoothing: float) -> None:
    counts = [5, 3, 0, 2]
    truth = torch.repeat_interleave(torch.arange(4), torch.tensor(counts))
    logits = torch.zeros(4, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=200)

    def loss() -> torch.Tensor:
        return cross_entropy(logits.expand(10, 4), truth, label_smoothing=smoothing)

    def closure() -> float:
        optimizer.zero_grad()
        value = loss()
        torch.autograd.backward(value)
        return float(value.detach())

    optimizer.step(closure)
    assert guess_loss(counts, smoothing) == pytest.approx(float(loss().detach()), abs=1e-3)


def test_the_last_losses_say_whether_anything_was_learned() -> None:
    guess = math.log(2)
    assert nothing_learned([guess] * 40, 1, [3, 3], 0) is not None
    assert nothing_learned([0.1] * 38 + [guess] * 2, 1, [3, 3], 0) is not None
    assert nothing_learned([0.1] * 38 + [guess] * 2, 4, [3, 3], 0) is None, "a whole epoch counts"
    assert nothing_learned([guess] * 38 + [0.6] * 2, 1, [3, 3], 0) is None
    line = nothing_learned([0.7], 9, [3, 3], 0)
    assert line is not None
    assert line.startswith("nothing is learned yet: the loss, 0.70, is that of guessing (0.69)")
    assert nothing_learned([], 1, [3, 3], 0) is None
