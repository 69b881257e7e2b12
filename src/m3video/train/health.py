"""Whether a pre-training learns, and whether its features collapse: figures of some of its steps.

- Explained variance of each target: 1 − loss / variance, 0 for a model that says the mean.
- Effective rank of the features: over how many directions the clips of a batch are spread
  (RankMe, arXiv 2210.02885, of centred features); at most batch − 1.

Both come from one step alone, so that a resumed run repeats them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from m3video.config import TrainConfig
from m3video.targets.base import Target
from m3video.train.world import ALONE, World

EVERY = 50
"""Steps from one measurement to the next; a run of few steps is measured 20 times."""
ONE_POINT = 1e-3
"""Features that differ by less than this share of their length are the same but for rounding."""
COLLAPSED = 2.0
"""An effective rank below this is a collapse."""
LEAST_STEPS = 100
"""A shorter run is a trial, of which nobody expects that it learns."""
LEAST_BATCH = 8
"""Of fewer clips the effective rank says little."""
NOTHING = 0.01
"""A target of which less than this share is explained is not learned."""
RANK = "effective_rank"
EXPLAINED = "explained/"


def measured(step: int, train: TrainConfig) -> bool:
    """Whether a step is measured; it is among those that are logged."""
    every = EVERY if train.steps is None else max(1, min(EVERY, train.steps // 20))
    return step % (train.log_every * math.ceil(every / train.log_every)) == 0


class Health:
    """Collects what a step's micro-batches show, on the device."""

    def __init__(self) -> None:
        self._features: list[Tensor] = []
        self._moments: dict[str, Tensor] = {}

    @torch.no_grad()
    def add(self, features: Tensor, targets: Mapping[str, Target], decoded: Tensor) -> None:
        """Note a micro-batch.

        Args:
            features: [B, D] of the clips.
            targets: by name; [B, N, D] each.
            decoded: bool [B, N], the tokens that are predicted.
        """
        self._features.append(features)
        for name, target in targets.items():
            known = (target.valid & decoded[..., None]).expand_as(target.values)
            values = torch.where(known, target.values, 0).float()
            sums = (known.float(), values, values.square())
            moments = torch.stack([each.sum(dim=(0, 1)) for each in sums])
            self._moments[name] = self._moments.get(name, 0) + moments

    @torch.no_grad()
    def figures(self, losses: Mapping[str, Tensor], world: World = ALONE) -> dict[str, Tensor]:
        """Scalars by their key in the metrics; NaN where there is nothing to explain.

        Args:
            losses: mean squared error of each target over the whole batch.
            world: the processes that the batch is dealt out to.
        """
        found = {RANK: effective_rank(world.cat(torch.cat(self._features)))}
        for name, moments in self._moments.items():
            count, total, squares = world.sum(moments)
            about_mean = squares - total.square() / count.clamp(min=1)
            variance = about_mean.sum() / count.sum().clamp(min=1)
            share = 1 - losses[name] / variance
            found[EXPLAINED + name] = torch.where(variance > 1e-8, share, math.nan)
        return found


def effective_rank(features: Tensor) -> Tensor:
    """exp of the entropy of the singular values of centred features [B, D]; 1 if all are alike."""
    features = torch.nan_to_num(features.float(), posinf=0, neginf=0)
    centred = features - features.mean(0)
    values = torch.linalg.svdvals(centred)
    share = values / values.sum().clamp(min=1e-30)
    rank = torch.special.entr(share).sum().exp()
    return torch.where(centred.norm() <= ONE_POINT * features.norm(), 1.0, rank)


def warnings(figures: Mapping[str, float], step: int, steps: int, batch: int) -> dict[str, str]:
    """What is wrong after a step, by kind; nothing in the first quarter, when all may still come.

    Args:
        figures: of the step, as in the metrics.
        step: its number.
        steps: of the run.
        batch: clips of a step.
    """
    found: dict[str, str] = {}
    if steps < LEAST_STEPS:
        return found
    rank = figures.get(RANK, math.inf)
    if rank < COLLAPSED and batch >= LEAST_BATCH and 4 * step >= steps:
        found["collapse"] = (
            f"step {step}: the features have collapsed: those of {batch} clips have an effective "
            f"rank of {rank:.1f}; try a lower train.lr, a longer train.warmup or other targets"
        )
    explained = {
        name.removeprefix(EXPLAINED): share
        for name, share in figures.items()
        if name.startswith(EXPLAINED) and math.isfinite(share)
    }
    if explained and max(explained.values()) < NOTHING and 2 * step >= steps:
        shares = ", ".join(f"{name} {share:.1%}" for name, share in explained.items())
        found["nothing"] = (
            f"step {step} of {steps}: nothing is learned yet, no target is predicted better than "
            f"by its mean (explained: {shares}); train longer, or try another train.lr"
        )
    return found
