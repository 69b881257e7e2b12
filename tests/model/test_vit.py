"""The encoder: what it sees, in which order, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from m3video.config import ClipConfig
from m3video.errors import ConfigError
from m3video.masking import random_mask
from m3video.model import SIZES, VisionTransformer, build_encoder
from m3video.model.vit import Attention, Block, sine_cosine_positions, split_tokens

CLIP = ClipConfig(frames=4, size=(16, 24), patch=8)


def encoder(depth: int = 2) -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(
        frames=4, size=(16, 24), tubelet=2, patch=8, width=24, depth=depth, heads=3
    )


def clips(batch: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, 3, 4, 16, 24, generator=generator)


def test_patches_are_embedded_as_by_a_convolution_in_time_row_column_order() -> None:
    model, clip = encoder(), clips()
    kernel = model.patch_embed.weight.view(24, 3, 2, 8, 8)
    expected = nn.functional.conv3d(clip, kernel, model.patch_embed.bias, stride=(2, 8, 8))
    tokens = model.patch_embed(model._patches(clip, None))
    torch.testing.assert_close(tokens, expected.flatten(2).transpose(1, 2))


def test_visible_patches_are_those_of_the_full_grid() -> None:
    model, clip = encoder(), clips()
    visible, _ = split_tokens(random_mask(2, model.tokens, 0.5, torch.Generator().manual_seed(0)))
    full = model._patches(clip, None)
    gathered = torch.stack([full[0][visible[0]], full[1][visible[1]]])
    assert torch.equal(model._patches(clip, visible), gathered)


def test_hidden_tokens_cannot_be_seen() -> None:
    model, clip = encoder(), clips()
    mask = torch.zeros(2, 12, dtype=torch.bool)
    mask[:, 5] = True  # time 0, row 1, column 2
    changed = clip.clone()
    changed[:, :, 0:2, 8:16, 16:24] += 1
    assert torch.equal(model(clip, mask), model(changed, mask))
    assert not torch.equal(model(clip), model(changed))
    assert model(clip, mask).shape == (2, 11, 24)


def test_masking_nothing_is_no_mask() -> None:
    model, clip = encoder(), clips()
    nothing = torch.zeros(2, 12, dtype=torch.bool)
    torch.testing.assert_close(model(clip, nothing), model(clip))


@given(width=st.integers(1, 33), count=st.integers(1, 40))
def test_positions_are_the_published_formula(width: int, count: int) -> None:
    table = sine_cosine_positions(count, width)
    for position in (0, count - 1):
        for column in range(width):
            angle = position / 10000 ** (2 * (column // 2) / width)
            expected = math.cos(angle) if column % 2 else math.sin(angle)
            assert table[position, column].item() == pytest.approx(expected, abs=1e-6)


@given(
    seed=st.integers(0, 2**31),
    batch=st.integers(1, 4),
    grid=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(2, 5)),
    known=st.booleans(),
)
@settings(max_examples=50)
def test_split_tokens_sorts_every_token_into_one_side(
    seed: int, batch: int, grid: tuple[int, int, int], known: bool
) -> None:
    mask = random_mask(batch, grid, 0.5, torch.Generator().manual_seed(seed))
    visible, hidden = split_tokens(mask, int(mask[0].sum()) if known else None)
    for row in range(batch):
        assert hidden[row].tolist() == mask[row].nonzero().flatten().tolist()
        assert visible[row].tolist() == (~mask[row]).nonzero().flatten().tolist()


def test_rows_that_hide_different_numbers_are_refused() -> None:
    mask = torch.zeros(2, 12, dtype=torch.bool)
    mask[0, :3] = True
    with pytest.raises(ConfigError, match=r"marks \[0, 3\] tokens in different clips"):
        encoder()(clips(), mask)


def test_keys_have_no_bias_and_queries_and_values_do() -> None:
    names = {name for name, _ in Attention(8, 2).named_parameters()}
    assert names == {"qkv.weight", "q_bias", "v_bias", "proj.weight", "proj.bias"}


@pytest.mark.parametrize("skip", [1, 5, 8])
def test_skipping_gives_the_remaining_outputs_of_the_whole_block(skip: int) -> None:
    torch.manual_seed(0)
    block = Block(24, 3, 4.0, 1e-6)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.3)
    x = torch.randn(2, 9, 24)
    torch.testing.assert_close(block(x, skip=skip), block(x)[:, skip:], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "clip",
    [
        torch.zeros(1, 3, 4, 24, 16),
        torch.zeros(1, 4, 3, 16, 24),
        torch.zeros(3, 4, 16, 24),
        torch.zeros(1, 3, 4, 16, 24, dtype=torch.uint8),
    ],
)
def test_other_clips_are_refused_in_one_line(clip: torch.Tensor) -> None:
    with pytest.raises(ConfigError, match=r"wants floating point \[B, 3, 4, 16, 24\]") as caught:
        encoder()(clip)
    assert "\n" not in str(caught.value)


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="not a multiple of patch 8"):
        VisionTransformer(frames=4, size=(16, 25), tubelet=2, patch=8, width=24, depth=1, heads=3)
    with pytest.raises(ConfigError, match="width 25 is not a multiple of heads 3"):
        VisionTransformer(frames=4, size=(16, 24), tubelet=2, patch=8, width=25, depth=1, heads=3)


@pytest.mark.parametrize(
    ("size", "millions"),
    [
        ("nano", 0.99),
        ("ti", 5.6),
        ("s", 21.9),
        ("b", 86.2),
        ("l", 303.9),
        ("h", 631.7),
        ("g", 1011.0),
    ],
)
def test_sizes_are_the_published_ones(size: str, millions: float) -> None:
    """Papers round to S 22 M, B 87 M, L 305 M, H 633 M and g 1,011 M, positions included."""
    with torch.device("meta"):
        model = build_encoder(ClipConfig(), size)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count / 1e6 == pytest.approx(millions, rel=0.01)
    assert model.width == SIZES[size][0]


def test_initial_weights_are_xavier_and_biases_zero() -> None:
    model = encoder()
    linear = model.blocks[0].mlp.fc1
    bound = (6 / (24 + 96)) ** 0.5
    assert 0.9 * bound < linear.weight.abs().max() <= bound
    assert not linear.bias.any()


def test_rows_and_columns_are_treated_alike() -> None:
    """Turning rows into columns, patches and kernels alike, only renumbers the tokens."""
    model = encoder(depth=0)
    turned = VisionTransformer(
        frames=4, size=(24, 16), tubelet=2, patch=8, width=24, depth=0, heads=3
    )
    turned.load_state_dict(model.state_dict())
    kernel = model.patch_embed.weight.view(24, 3, 2, 8, 8).transpose(3, 4)
    turned.patch_embed.weight.data.copy_(kernel.flatten(1))
    model.positions.zero_()
    turned.positions.zero_()
    tokens = model(clips()).view(2, 2, 2, 3, 24)
    torch.testing.assert_close(
        turned(clips().transpose(3, 4)).view(2, 2, 3, 2, 24), tokens.transpose(2, 3)
    )


@pytest.mark.parametrize("share", [0.0, 0.6])
def test_the_pooled_last_block_is_the_mean_of_its_tokens(share: float) -> None:
    """In value and in gradient, also where samples leave branches out."""
    torch.manual_seed(0)
    model = VisionTransformer(
        frames=4, size=(32, 48), tubelet=2, patch=8, width=16, depth=3, heads=2, final_norm=False
    ).double()
    model.set_drop_path(share)
    clip = torch.randn(5, 3, 4, 32, 48, dtype=torch.float64)
    weights = torch.randn(16, dtype=torch.float64)
    found = []
    for pooled in (lambda: model(clip).mean(1), lambda: model.mean(clip)):
        torch.manual_seed(1)
        model.zero_grad()
        value = pooled()
        torch.autograd.backward((value * weights).square().sum())
        found.append([value.detach(), *(p.grad.clone() for p in model.parameters())])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-12)
