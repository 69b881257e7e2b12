"""The average of a model's weights: average ← decay · average + (1 − decay) · weights, every step.

torch's `AveragedModel` would do the same, but pairs weights by their order; here the average is a
part of the model that it is made of, so that a checkpoint holds both.
"""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor

from m3video.model.classifier import Classifier

AVERAGE = "average"
"""Name of the average among the parts of the model, and so before its weights in a checkpoint."""


def add_average(model: Classifier) -> Classifier:
    """Make the average a part of the model; it begins as the weights are now."""
    average = deepcopy(model).requires_grad_(False)
    model.add_module(AVERAGE, average)
    return average


@torch.no_grad()
def update_average(
    average: Classifier, model: Classifier, decay: float, taken: Tensor | None = None
) -> None:
    """Count the weights that the model has now, unless `taken` (bool, a scalar) is false."""
    weights = dict(model.named_parameters())
    for name, mean in average.named_parameters():
        followed = mean.lerp(weights[name], 1 - decay)
        mean.copy_(followed if taken is None else torch.where(taken, followed, mean))
