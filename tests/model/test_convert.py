"""Conversions: what they refuse. That they are right is shown by the equality tests."""

from __future__ import annotations

import json

import pytest
import torch

from m3video.errors import CheckpointError
from m3video.model import convert
from m3video.model.checkpoint import load_weights
from tests.model import official


def test_the_encoder_of_a_converted_autoencoder_loads_alone() -> None:
    shapes = json.loads(official.GOLDEN.read_text())["mme_pretrain_tiny"]["shapes"]
    weights = convert.mme_autoencoder(official.formula_weights(shapes))
    autoencoder, encoder = (
        official.autoencoder("mme_pretrain_tiny"),
        official.encoder(final_norm=True),
    )
    load_weights(autoencoder, weights, "mme")
    load_weights(encoder, convert.encoder_of(weights), "mme")
    clip = official.formula_clip()
    with torch.no_grad():
        assert torch.equal(encoder(clip), autoencoder.encoder(clip))


def test_the_file_instead_of_its_state_dict_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"no encoder among the weights \(model, …\)"):
        convert.encoder_of({"model": torch.zeros(1)})


def test_a_key_that_is_not_known_is_named() -> None:
    shapes = json.loads(official.GOLDEN.read_text())["videomae_pretrain_tiny"]["shapes"]
    weights = official.formula_weights({**shapes, "encoder.cls_token": [1, 1, 48]})
    with pytest.raises(CheckpointError, match=r"encoder.cls_token not part of the model"):
        load_weights(
            official.autoencoder("videomae_pretrain_tiny"),
            convert.videomae_autoencoder(weights),
            "videomae.pth",
        )
