"""Stochastic depth: whole samples, the right share of them, the mean kept, and nothing else."""

from __future__ import annotations

import torch
from torch import Tensor

from m3video.model.vit import Block, VisionTransformer, drop_path


def encoder() -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(
        frames=4, size=(16, 24), tubelet=2, patch=8, width=16, depth=3, heads=2
    )


def test_a_sample_is_left_out_as_a_whole_or_scaled_up() -> None:
    torch.manual_seed(0)
    dropped = drop_path(torch.ones(4000, 3, 2), 0.2)
    values = {round(value, 6) for value in dropped.flatten().tolist()}
    assert values == {0.0, 1.25}
    assert torch.equal(dropped, dropped[:, :1, :1].expand_as(dropped))
    assert abs(float(dropped.mean()) - 1) < 0.02


def test_the_expectation_is_what_there_is_without() -> None:
    torch.manual_seed(1)
    branch = torch.randn(5, 4)
    dropped = drop_path(branch.expand(20_000, -1, -1), 0.3)
    torch.testing.assert_close(dropped.mean(0), branch, atol=0.03, rtol=0)


def test_a_block_leaves_its_two_branches_out_each_by_itself() -> None:
    torch.manual_seed(2)
    block = Block(16, 2, 4.0, 1e-6).train()
    block.drop_path = 0.5
    x = torch.randn(1, 6, 16)
    attended = x + block.attention(block.norm1(x)) * 2
    kinds = [
        x,
        attended,
        x + block.mlp(block.norm2(x)) * 2,
        attended + block.mlp(block.norm2(attended)) * 2,
    ]
    many = block(x.expand(400, -1, -1))
    found = [int(torch.isclose(many, kind, atol=1e-5).flatten(1).all(1).sum()) for kind in kinds]
    assert sum(found) == 400
    assert min(found) > 60


def test_chances_rise_from_the_first_block_to_the_last() -> None:
    model = encoder()
    model.set_drop_path(0.1)
    assert [block.drop_path for block in model.blocks] == [0.0, 0.05, 0.1]
    assert "drop_path" not in model.architecture


def test_without_it_training_draws_nothing_and_equals_testing() -> None:
    model = encoder()
    clip = torch.randn(2, 3, 4, 16, 24)
    state = torch.get_rng_state()
    trained: Tensor = model.train()(clip)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(trained, model.eval()(clip))
    model.set_drop_path(0.9)
    assert torch.equal(trained, model.eval()(clip)), "testing leaves nothing out"
    assert not torch.equal(trained, model.train()(clip))
