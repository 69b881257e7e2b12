"""Our masked autoencoder is transformers' VideoMAEForPreTraining, loss and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from m3video.config import ClipConfig, PretrainConfig
from m3video.masking import random_mask
from m3video.model import HeadSpec, MaskedAutoencoder, VisionTransformer, convert
from m3video.model.checkpoint import load_weights
from m3video.targets.base import ClipView, Target
from m3video.targets.pixel import PixelTarget
from m3video.video.augment import normalise
from m3video.video.sampling import plan_clip

transformers = pytest.importorskip("transformers")

CLIP = ClipConfig(frames=8, size=(32, 48), patch=8)


def pixel_target(frames: Tensor) -> Target:
    """The library's own pixel target, so that it, too, must equal theirs."""
    config = PretrainConfig.model_validate(
        {"data": "", "out": "", "clip": CLIP, "targets": {"pixel": {"weight": 1}}}
    )
    real = torch.ones(frames.shape[:2], dtype=torch.bool)
    return PixelTarget(config)(ClipView(frames, real, plan_clip(CLIP, 0), CLIP, config.motion))


def theirs(*, final_norm: bool, depth: int) -> torch.nn.Module:
    """A small model with random weights, biases and norms included, on non-square frames."""
    config = transformers.VideoMAEConfig(
        image_size=list(CLIP.size),
        patch_size=CLIP.patch,
        num_frames=CLIP.frames,
        tubelet_size=CLIP.tubelet,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
        decoder_hidden_size=24,
        decoder_num_hidden_layers=depth,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=96,
        layer_norm_eps=1e-6,
        use_mean_pooling=not final_norm,
        norm_pix_loss=True,
    )
    model = transformers.VideoMAEForPreTraining(config)
    model.decoder.norm.eps = 1e-6  # theirs keeps torch's 1e-5 there, the authors' has 1e-6
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data.add_(noise, alpha=0.1)
    return model


def ours(*, final_norm: bool, depth: int) -> MaskedAutoencoder:
    encoder = VisionTransformer(
        frames=CLIP.frames,
        size=CLIP.size,
        tubelet=CLIP.tubelet,
        patch=CLIP.patch,
        width=48,
        depth=2,
        heads=4,
        mlp_ratio=2.0,
        final_norm=final_norm,
    )
    return MaskedAutoencoder(
        encoder,
        heads={"pixel": HeadSpec(3 * CLIP.tubelet * CLIP.patch**2)},
        decoder_width=24,
        decoder_depth=depth,
        decoder_heads=2,
    )


@pytest.mark.parametrize(("final_norm", "depth"), [(True, 1), (True, 2), (False, 2)])
def test_loss_and_gradients_equal_transformers(final_norm: bool, depth: int) -> None:
    generator = torch.Generator().manual_seed(1)
    shape = (2, CLIP.frames, *CLIP.size, 3)
    frames = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
    clip = normalise(frames)
    mask = random_mask(2, CLIP.tokens, 0.7, generator)
    reference, model = (
        theirs(final_norm=final_norm, depth=depth),
        ours(final_norm=final_norm, depth=depth),
    )
    weights = {name: value.detach() for name, value in reference.named_parameters()}
    load_weights(model, convert.transformers_autoencoder(weights), "transformers")

    expected = reference(clip.transpose(1, 2), mask)
    expected.loss.backward()
    loss = model(clip, mask, {"pixel": pixel_target(frames)})["loss"]
    loss.backward()

    assert loss.item() == pytest.approx(expected.loss.item(), rel=1e-4)
    gradients = {name: value.grad for name, value in reference.named_parameters()}
    converted = convert.transformers_autoencoder(gradients)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        error = (parameter.grad - converted[name]).norm() / converted[name].norm()
        assert error < 1e-4, name


def test_older_names_of_the_biases_convert_to_the_same() -> None:
    weights = dict(theirs(final_norm=True, depth=1).state_dict())
    older = {
        name.replace("query.bias", "q_bias").replace("value.bias", "v_bias"): value
        for name, value in weights.items()
    }
    assert older.keys() != weights.keys()
    new, old = convert.transformers_autoencoder(weights), convert.transformers_autoencoder(older)
    assert new.keys() == old.keys()
    assert all(torch.equal(new[name], old[name]) for name in new)
