"""The masked autoencoder: its loss, its decoders and heads, and that it can learn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from m3video.config import PretrainConfig
from m3video.errors import ConfigError
from m3video.masking import random_mask
from m3video.model import HeadSpec, MaskedAutoencoder, VisionTransformer, build_model, vit

GRID = (2, 2, 3)
TOKENS = 12


@dataclass
class Target:
    values: Tensor
    valid: Tensor


def autoencoder(heads: dict[str, HeadSpec], **options: Any) -> MaskedAutoencoder:
    torch.manual_seed(0)
    encoder = VisionTransformer(
        frames=4, size=(16, 24), tubelet=2, patch=8, width=24, depth=1, heads=3
    )
    return MaskedAutoencoder(
        encoder,
        heads=heads,
        **{"decoder_width": 12, "decoder_depth": 1, "decoder_heads": 2, **options},
    )


def inputs(batch: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    clip = torch.randn(batch, 3, 4, 16, 24, generator=generator)
    return clip, random_mask(batch, GRID, 0.75, generator)


def target(dim: int, batch: int = 2, *, wide: bool = True) -> Target:
    generator = torch.Generator().manual_seed(2)
    values = torch.randn(batch, TOKENS, dim, generator=generator)
    valid = torch.rand(batch, TOKENS, dim if wide else 1, generator=generator) < 0.7
    return Target(values, valid)


@pytest.mark.parametrize("wide", [True, False])
def test_loss_is_the_mean_over_valid_elements_of_hidden_tokens(wide: bool) -> None:
    model = autoencoder({"a": HeadSpec(5, weight=2.0), "b": HeadSpec(3, "mlp", weight=0.5)})
    clip, mask = inputs()
    targets = {"a": target(5, wide=wide), "b": target(3, wide=wide)}
    out = model(clip, mask, targets)
    total = 0.0
    for name, weight in (("a", 2.0), ("b", 0.5)):
        squares = []
        for row in range(2):
            for place, token in enumerate(mask[row].nonzero().flatten().tolist()):
                values, valid = (
                    targets[name].values,
                    targets[name].valid.expand_as(targets[name].values),
                )
                error = out["predictions"][name][row, place] - values[row, token]
                squares += error[valid[row, token]].square().tolist()
        expected = sum(squares) / len(squares)
        assert out["losses"][name].item() == pytest.approx(expected, rel=1e-5)
        total += weight * expected
    assert out["loss"].item() == pytest.approx(total, rel=1e-5)


def gradients(model: MaskedAutoencoder, targets: dict[str, Target]) -> list[Tensor]:
    model.zero_grad()
    model(*inputs(), targets)["loss"].backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("wide", [True, False])
def test_what_is_not_valid_leaks_into_nothing(garbage: float, wide: bool) -> None:
    model = autoencoder({"a": HeadSpec(5)})
    clean = target(5, wide=wide)
    dirty = Target(torch.where(clean.valid, clean.values, garbage), clean.valid)
    loss = model(*inputs(), {"a": clean})["loss"]
    assert torch.equal(model(*inputs(), {"a": dirty})["loss"], loss)
    for expected, grad in zip(
        gradients(model, {"a": clean}), gradients(model, {"a": dirty}), strict=True
    ):
        assert torch.equal(expected, grad)


def test_visible_tokens_have_no_loss() -> None:
    model = autoencoder({"a": HeadSpec(5)})
    clip, mask = inputs()
    full = target(5)
    other = Target(torch.where(mask[..., None], full.values, 100.0), full.valid)
    assert torch.equal(
        model(clip, mask, {"a": full})["loss"], model(clip, mask, {"a": other})["loss"]
    )


def test_nothing_valid_is_no_loss_and_no_gradient() -> None:
    model = autoencoder({"a": HeadSpec(5)})
    nothing = Target(torch.full((2, TOKENS, 5), float("nan")), torch.zeros(2, TOKENS, 1).bool())
    out = model(*inputs(), {"a": nothing})
    assert out["loss"].item() == 0
    assert all(not gradient.any() for gradient in gradients(model, {"a": nothing}))


def test_predictions_are_of_hidden_tokens_in_order() -> None:
    """Exchanging what two hidden tokens should be exchanges which prediction is scored."""
    model = autoencoder({"a": HeadSpec(5)})
    clip, mask = inputs(batch=1)
    hidden = mask[0].nonzero().flatten()
    prediction = model(clip, mask)["predictions"]["a"]
    values = torch.full((1, TOKENS, 5), float("nan"))
    values[0, hidden] = prediction[0].detach()
    exact = Target(values, torch.ones(1, TOKENS, 1, dtype=torch.bool))
    assert model(clip, mask, {"a": exact})["loss"].item() == 0


@pytest.mark.parametrize(("activation", "low", "high"), [("sigmoid", 0, 1), ("tanh", -1, 1)])
def test_activations_bound_the_prediction(activation: Any, low: float, high: float) -> None:
    model = autoencoder({"a": HeadSpec(5, "mlp", activation), "b": HeadSpec(5)})
    for head in model.heads.values():
        for parameter in head.parameters():
            parameter.data.mul_(100)
    out = model(*inputs())["predictions"]
    assert low <= out["a"].min() < low + 0.1
    assert high - 0.1 < out["a"].max() <= high
    assert out["b"].abs().max() > high


@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize("decoders", ["shared", "per-target"])
def test_decoders_of_any_depth(depth: int, decoders: str) -> None:
    heads = {"a": HeadSpec(5), "b": HeadSpec(7, "mlp")}
    model = autoencoder(heads, decoder_depth=depth, decoders=decoders)
    out = model(*inputs(), {"a": target(5), "b": target(7)})
    assert out["predictions"]["a"].shape == (2, 9, 5)
    assert out["predictions"]["b"].shape == (2, 9, 7)
    assert len(model.decoders) == (1 if decoders == "shared" else 2)
    out["losses"]["a"].backward()
    reached = {name for name, value in model.named_parameters() if value.grad is not None}
    assert "mask_token" in reached
    # Without blocks, nothing tells the hidden tokens about the clip.
    encoder_grad = model.encoder.patch_embed.weight.grad
    assert (encoder_grad is not None and bool(encoder_grad.any())) == (depth > 0)
    if decoders == "per-target":
        assert not any(name.startswith(("decoders.b", "heads.b")) for name in reached)


def test_norms_have_the_authors_epsilon() -> None:
    """1e-6 everywhere; transformers keeps 1e-5 in the decoder's last norm."""
    model = autoencoder({"a": HeadSpec(5)})
    norms = [module for module in model.modules() if isinstance(module, torch.nn.LayerNorm)]
    assert len(norms) == 6
    assert {norm.eps for norm in norms} == {1e-6}


def test_a_known_count_changes_nothing() -> None:
    model = autoencoder({"a": HeadSpec(5)})
    clip, mask = inputs()
    told = model(clip, mask, {"a": target(5)}, hidden=9)["loss"]
    assert torch.equal(told, model(clip, mask, {"a": target(5)})["loss"])


def half(mask: Tensor) -> Tensor:
    """4 of the 9 hidden tokens of each row, others in each."""
    order = torch.rand(mask.shape, generator=torch.Generator().manual_seed(5)) - mask.float()
    return torch.zeros_like(mask).scatter_(1, order.argsort(dim=1)[:, :4], True)


def test_decoding_all_hidden_tokens_is_the_plain_model() -> None:
    model = autoencoder({"a": HeadSpec(5)}, decoder_depth=2)
    clip, mask = inputs()
    plain, whole = (
        model(clip, mask, {"a": target(5)}),
        model(clip, mask, {"a": target(5)}, decode=mask),
    )
    assert torch.equal(plain["loss"], whole["loss"])
    assert torch.equal(plain["predictions"]["a"], whole["predictions"]["a"])


@pytest.mark.parametrize("wide", [True, False])
def test_only_decoded_tokens_have_a_loss(wide: bool) -> None:
    model = autoencoder({"a": HeadSpec(5)})
    clip, mask = inputs()
    decode = half(mask)
    truth = target(5, wide=wide)
    out = model(clip, mask, {"a": truth}, decode=decode)
    assert out["predictions"]["a"].shape == (2, 4, 5)
    errors = []
    for row in range(2):
        for place, token in enumerate(decode[row].nonzero().flatten().tolist()):
            valid = truth.valid.expand_as(truth.values)[row, token]
            error = out["predictions"]["a"][row, place] - truth.values[row, token]
            errors += error[valid].square().tolist()
    assert out["loss"].item() == pytest.approx(sum(errors) / len(errors), rel=1e-5)


def test_the_decoder_computes_visible_and_decoded_tokens_only() -> None:
    """And what it says of a token without blocks, from its position alone, is what it said."""
    model = autoencoder({"a": HeadSpec(5)}, decoder_depth=2)
    clip, mask = inputs()
    lengths: list[int] = []
    for block in model.decoders["shared"].blocks:
        block.register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape[1]))
    model(clip, mask, decode=half(mask))
    assert lengths == [3 + 4, 3 + 4]
    model = autoencoder({"a": HeadSpec(5)}, decoder_depth=0)
    some = model(clip, mask, decode=half(mask))["predictions"]["a"]
    everything = torch.zeros(2, TOKENS, 5)
    everything[mask] = model(clip, mask)["predictions"]["a"].flatten(0, 1)
    assert torch.allclose(some, everything[half(mask)].view(2, 4, 5), atol=1e-6)


def test_known_counts_of_decoded_tokens_change_nothing() -> None:
    model = autoencoder({"a": HeadSpec(5)})
    clip, mask = inputs()
    decode = half(mask)
    told = model(clip, mask, {"a": target(5)}, hidden=9, decode=decode, decoded=4)["loss"]
    assert torch.equal(told, model(clip, mask, {"a": target(5)}, decode=decode)["loss"])


def test_decoding_what_is_visible_or_unequal_numbers_is_refused() -> None:
    model = autoencoder({"a": HeadSpec(5)})
    clip, mask = inputs()
    with pytest.raises(ConfigError, match="decode has visible tokens"):
        model(clip, mask, decode=torch.ones_like(mask))
    uneven = half(mask)
    uneven[0] = False
    with pytest.raises(ConfigError, match=r"marks \[0, 4\] tokens in different clips"):
        model(clip, mask, decode=uneven)


def test_bfloat16_autocast_scores_in_float32() -> None:
    model = autoencoder({"a": HeadSpec(5)})
    with torch.autocast("cpu", torch.bfloat16):
        out = model(*inputs(), {"a": target(5)})
    assert out["predictions"]["a"].dtype == torch.bfloat16
    assert out["loss"].dtype == torch.float32
    expected = model(*inputs(), {"a": target(5)})["loss"].item()
    assert out["loss"].item() == pytest.approx(expected, rel=0.05)


def test_attention_is_what_flash_kernels_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half precision, no mask, no dropout, numbers of a head side by side."""
    attention, calls = vit.scaled_dot_product_attention, []

    def record(*given: Any, **settings: Any) -> Tensor:
        calls.append((given, settings))
        return attention(*given, **settings)

    monkeypatch.setattr(vit, "scaled_dot_product_attention", record)
    model = autoencoder({"a": HeadSpec(5)})
    with torch.autocast("cpu", torch.bfloat16):
        model(*inputs(), {"a": target(5)})
    assert len(calls) == len(model.encoder.blocks) + 1
    for given, settings in calls:
        assert len(given) == 3
        assert settings == {}
        assert all(tensor.dtype == torch.bfloat16 for tensor in given)
        assert all(tensor.stride(-1) == 1 for tensor in given)


def test_one_graph_without_breaks() -> None:
    """A known count leaves nothing that depends on the data: the whole forward is one graph."""
    model = autoencoder({"a": HeadSpec(5)})
    clip, mask = inputs()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    out = compiled(clip, mask, {"a": target(5)}, hidden=9)
    assert torch.equal(out["loss"], model(clip, mask, {"a": target(5)})["loss"])
    decode = half(mask)
    out = compiled(clip, mask, {"a": target(5)}, hidden=9, decode=decode, decoded=4)
    assert torch.equal(out["loss"], model(clip, mask, {"a": target(5)}, decode=decode)["loss"])


def test_it_learns_what_the_visible_tokens_tell() -> None:
    """The target is the clip's brightness: found through attention, by no position alone."""
    model = autoencoder({"a": HeadSpec(1)})
    generator = torch.Generator().manual_seed(3)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(120):
        level = torch.randn(16, generator=generator)
        clip = level[:, None, None, None, None].expand(16, 3, 4, 16, 24).contiguous()
        mask = random_mask(16, GRID, 0.75, generator)
        values = level[:, None, None].expand(16, TOKENS, 1)
        out = model(clip, mask, {"a": Target(values, torch.ones_like(values).bool())}, hidden=9)
        optimiser.zero_grad()
        out["loss"].backward()
        optimiser.step()
        losses.append(out["loss"].item())
    assert sum(losses[-10:]) / 10 < 0.1  # its variance is 1


def test_build_model_follows_the_config() -> None:
    config = PretrainConfig.model_validate(
        {
            "data": "moving-shapes",
            "out": "runs/test",
            "clip": {"frames": 4, "size": (16, 24), "patch": 8},
            "targets": {
                "pixel": {"weight": 0.5},
                "trajectory": {"weight": 1.0, "head": "mlp", "activation": "tanh"},
            },
            "model": {
                "size": "nano",
                "decoder_width": 48,
                "decoder_depth": 2,
                "decoders": "per-target",
            },
        }
    )
    model = build_model(config, {"pixel": 384, "trajectory": 48})
    assert model.specs == {
        "pixel": HeadSpec(384, "linear", "none", 0.5),
        "trajectory": HeadSpec(48, "mlp", "tanh", 1.0),
    }
    assert model.encoder.width == 128
    assert model.encoder.clip == config.clip
    assert [len(decoder.blocks) for decoder in model.decoders.values()] == [2, 2]
    assert model(*inputs())["predictions"]["trajectory"].shape == (2, 9, 48)


def test_no_target_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one target"):
        autoencoder({})
