"""Whether a fine-tuning has learned anything: its loss beside that of a guess."""

from __future__ import annotations

import math
from collections.abc import Sequence

NEAR = 0.98
"""A loss above this share of a guess's is no better than the guess."""


def guess_loss(counts: Sequence[int], smoothing: float) -> float:
    """Cross-entropy, in nats, of saying how frequent each class is and no more.

    No answer that is the same for all videos has less; mixing labels does not change it.

    Args:
        counts: training videos of each class, C numbers.
        smoothing: of the labels, 0 to 1.
    """
    total, classes = sum(counts), len(counts)
    shares = [(1 - smoothing) * count / total + smoothing / classes for count in counts]
    return -sum(share * math.log(share) for share in shares if share)


def nothing_learned(
    losses: Sequence[float], epoch: int, counts: Sequence[int], smoothing: float
) -> str | None:
    """A line that says so where the loss has not fallen below a guess's; else None.

    Args:
        losses: in order; the mean of the last twentieth counts, or of the last epoch if it is more:
            of less than all videos it would depend on which classes came last.
        epoch: losses of an epoch.
        counts: as for `guess_loss`.
        smoothing: as for `guess_loss`.
    """
    last = losses[-max(epoch, len(losses) // 20) :]
    guess = guess_loss(counts, smoothing)
    if not last or sum(last) / len(last) < NEAR * guess:
        return None
    return (
        f"nothing is learned yet: the loss, {sum(last) / len(last):.2f}, is that of guessing "
        f"({guess:.2f}); train longer (train.epochs, train.steps), try another train.lr, or an "
        "--init that was trained longer"
    )
