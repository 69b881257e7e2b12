"""The classifier: pooling first, then the norm that the encoder had."""

from __future__ import annotations

import torch
from torch import nn

from m3video.model.classifier import Classifier
from m3video.model.vit import VisionTransformer


def encoder(*, final_norm: bool) -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(
        frames=4,
        size=(16, 24),
        tubelet=2,
        patch=8,
        width=16,
        depth=2,
        heads=2,
        norm_eps=1e-5,
        final_norm=final_norm,
    )


def test_the_norm_of_the_encoder_moves_behind_the_mean_with_its_weights() -> None:
    trained = encoder(final_norm=True)
    norm = trained.norm
    assert isinstance(norm, nn.LayerNorm)
    nn.init.normal_(norm.weight)
    model = Classifier(trained, ("a", "b", "c"))
    assert model.norm is norm
    assert trained.architecture["final_norm"] is False
    nn.init.normal_(model.head.weight)
    clip = torch.randn(2, 3, 4, 16, 24)
    pooled = trained(clip).mean(1)
    by_hand = (pooled - pooled.mean(1, keepdim=True)) / (
        pooled.var(1, keepdim=True, correction=0) + 1e-5
    ).sqrt()
    expected = (by_hand * norm.weight + norm.bias) @ model.head.weight.T
    torch.testing.assert_close(model(clip), expected)


def test_without_a_norm_to_move_it_is_a_fresh_one_of_the_same_eps() -> None:
    model = Classifier(encoder(final_norm=False), ("a", "b"))
    assert model.norm.eps == 1e-5
    assert torch.equal(model.norm.weight, torch.ones(16))
    assert torch.equal(model(torch.randn(1, 3, 4, 16, 24)), torch.zeros(1, 2)), "zero at the start"
