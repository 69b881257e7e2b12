"""The average of the weights, by hand."""

from __future__ import annotations

import pytest
import torch

from m3video.model.classifier import Classifier
from m3video.model.vit import VisionTransformer
from m3video.train.ema import add_average, update_average


def test_the_average_by_hand_over_three_steps() -> None:
    encoder = VisionTransformer(
        frames=2, size=(8, 16), tubelet=2, patch=8, width=8, depth=1, heads=2
    )
    model = Classifier(encoder, ("a", "b"))
    average = add_average(model)
    for value in (1.0, 2.0, 4.0):
        torch.nn.init.constant_(model.head.bias, value)
        update_average(average, model, 0.9)
    # 0 → 0.1 → 0.09 + 0.2 → 0.261 + 0.4
    assert average.head.bias.tolist() == pytest.approx([0.661] * 2)
    assert torch.equal(average.norm.weight, model.norm.weight)
    assert not any(parameter.requires_grad for parameter in average.parameters())
    assert "average.head.bias" in model.state_dict(), "a checkpoint holds it"
    assert "average.head.bias" not in average.state_dict(), "what is saved at the end does not"
