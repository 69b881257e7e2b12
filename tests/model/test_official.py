"""Our models compute what the authors' own do."""

from __future__ import annotations

import json

import pytest
import torch

from m3video.model import MaskedAutoencoder, VisionTransformer, convert
from tests.model import official


@pytest.mark.parametrize("name", official.NAMES)
def test_equals_the_authors_outputs(name: str) -> None:
    tensors = official.oracle(name)
    weights, mask = official.weights_of(tensors), tensors.get("mask", torch.zeros(2, 128)).bool()
    outputs = official.our_outputs(name, weights, tensors["clip"], mask)
    assert outputs
    for key, ours in outputs.items():
        assert official.relative_error(ours, tensors[key]) < 1e-5, key


@pytest.mark.parametrize("name", official.NAMES)
def test_equals_the_golden_numbers(name: str) -> None:
    golden = json.loads(official.GOLDEN.read_text())[name]
    weights = official.formula_weights(golden["shapes"])
    outputs = official.our_outputs(name, weights, official.formula_clip(), official.formula_mask())
    assert outputs.keys() == golden["outputs"].keys()
    for key, output in outputs.items():
        digest, expected = official.digest(output), golden["outputs"][key]
        scale = expected["mean_square"] ** 0.5
        assert digest["mean_square"] == pytest.approx(expected["mean_square"], rel=1e-5)
        assert digest["entries"] == pytest.approx(expected["entries"], abs=1e-5 * scale)


@pytest.mark.parametrize("kind", ["videomae_b_pretrain", "mme_b_pretrain", "finetuned"])
def test_official_base_checkpoints_fit(kind: str) -> None:
    path = official.ORACLES / "official_keys.json"
    if not path.exists():
        pytest.skip("no ../shared/data/oracles/official_keys.json")
    listed = json.loads(path.read_text())
    entry = next(value for name, value in listed.items() if name.startswith(kind) or kind in name)
    with torch.device("meta"):
        state = {key: torch.empty(shape) for key, shape in entry.items()}
        model = _base_model(kind)
    convert_state = {
        "videomae_b_pretrain": convert.videomae_autoencoder,
        "mme_b_pretrain": convert.mme_autoencoder,
        "finetuned": convert.finetuned_encoder,
    }[kind]
    converted = {key: tensor.shape for key, tensor in convert_state(state).items()}
    assert converted == {key: tensor.shape for key, tensor in model.state_dict().items()}


def _base_model(kind: str) -> torch.nn.Module:
    encoder = VisionTransformer(
        frames=16,
        size=(224, 224),
        tubelet=2,
        patch=16,
        width=768,
        depth=12,
        heads=12,
        final_norm=kind != "finetuned",
    )
    if kind == "finetuned":
        return encoder
    tiny = official.autoencoder("mme_pretrain_tiny" if "mme" in kind else "videomae_pretrain_tiny")
    return MaskedAutoencoder(
        encoder,
        heads=tiny.specs,
        decoder_width=192 if "mme" in kind else 384,
        decoder_depth=1 if "mme" in kind else 4,
        decoder_heads=3 if "mme" in kind else 6,
    )
