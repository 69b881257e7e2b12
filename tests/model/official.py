"""The authors' tiny models: their weights under official key names, and ours built to match.

`python -m tests.model.official` regenerates `golden/official.json`: our outputs on weights and
clips that a formula gives. It writes them only when, on the weights kept in
`../shared/data/oracles`, our outputs equal the authors' own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear

from m3video.model import HeadSpec, MaskedAutoencoder, VisionTransformer, convert
from m3video.model.checkpoint import load_weights
from m3video.whole import write_json

GOLDEN = Path(__file__).parent / "golden" / "official.json"
ORACLES = Path(__file__).parents[3] / "shared" / "data" / "oracles"
NAMES = ("videomae_pretrain_tiny", "mme_pretrain_tiny", "videomae_finetune_tiny")


def oracle(name: str) -> dict[str, Tensor]:
    path = ORACLES / f"{name}.safetensors"
    if not path.exists():
        pytest.skip(f"no ../shared/data/oracles/{name}.safetensors")
    return load_file(path)


def weights_of(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix("weights."): tensor
        for name, tensor in tensors.items()
        if name.startswith("weights.")
    }


def encoder(*, final_norm: bool) -> VisionTransformer:
    return VisionTransformer(
        frames=16,
        size=(64, 64),
        tubelet=2,
        patch=16,
        width=48,
        depth=2,
        heads=3,
        final_norm=final_norm,
    )


def autoencoder(name: str) -> MaskedAutoencoder:
    heads = {"pixel": HeadSpec(1536)}
    if name == "mme_pretrain_tiny":
        heads = {
            "hog": HeadSpec(108, "mlp", "sigmoid"),
            "trajectory": HeadSpec(32, "mlp", "tanh"),
        }
    return MaskedAutoencoder(
        encoder(final_norm=True),
        heads=heads,
        decoder_width=24,
        decoder_depth=1 if name == "mme_pretrain_tiny" else 2,
        decoder_heads=3,
    )


@torch.no_grad()
def our_outputs(
    name: str, weights: dict[str, Tensor], clip: Tensor, mask: Tensor
) -> dict[str, Tensor]:
    """What our model makes of the official weights, by the oracle's names."""
    if name == "videomae_finetune_tiny":
        classifier: nn.Module = encoder(final_norm=False)
        load_weights(classifier, convert.finetuned_encoder(weights), name)
        mean = classifier(clip).mean(dim=1)
        normed = layer_norm(mean, (48,), weights["fc_norm.weight"], weights["fc_norm.bias"], 1e-6)
        return {"logits": linear(normed, weights["head.weight"], weights["head.bias"])}
    model = autoencoder(name)
    if name == "mme_pretrain_tiny":
        load_weights(model, convert.mme_autoencoder(weights), name)
        predictions = model(clip, mask)["predictions"]
        return {f"prediction_{target}": value for target, value in predictions.items()}
    load_weights(model, convert.videomae_autoencoder(weights), name)
    return {"prediction": model(clip, mask)["predictions"]["pixel"]}


def formula_weights(shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    """Weights that need neither a file nor a random generator."""
    weights = {}
    for number, (name, shape) in enumerate(sorted(shapes.items())):
        wave = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
        wave = (1.7 * wave + 0.3 * wave.square() + number).sin().float().reshape(shape)
        weights[name] = 1 + 0.1 * wave if "norm" in name and "weight" in name else 0.1 * wave
    return weights


def formula_clip() -> Tensor:
    wave = torch.arange(2 * 3 * 16 * 64 * 64, dtype=torch.float64)
    return (0.37 * wave + (0.001 * wave).sin()).sin().float().reshape(2, 3, 16, 64, 64)


def formula_mask() -> Tensor:
    """bool [2, 128]: 96 of 128 hidden in each clip, other ones in each."""
    token = torch.arange(128)
    return torch.stack((token * 7 % 4 != 0, (token // 4 + token) % 4 != 1))


def digest(output: Tensor) -> dict[str, Any]:
    """A few numbers that stand for an output: its mean square and 12 entries spread over it."""
    flat = output.flatten()
    chosen = flat[torch.linspace(0, len(flat) - 1, 12).long()]
    return {"mean_square": flat.double().square().mean().item(), "entries": chosen.tolist()}


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def main() -> None:
    golden = {}
    for name in NAMES:
        tensors = oracle(name)
        weights, mask = weights_of(tensors), tensors.get("mask", torch.zeros(2, 128)).bool()
        for key, ours in our_outputs(name, weights, tensors["clip"], mask).items():
            error = relative_error(ours, tensors[key])
            print(f"{name} {key}: {error:.1e} from the authors' output")
            assert error < 1e-5
        shapes = {key: list(tensor.shape) for key, tensor in weights.items()}
        outputs = our_outputs(name, formula_weights(shapes), formula_clip(), formula_mask())
        golden[name] = {
            "shapes": shapes,
            "outputs": {key: digest(output) for key, output in outputs.items()},
        }
    write_json(GOLDEN, golden)


if __name__ == "__main__":
    main()
