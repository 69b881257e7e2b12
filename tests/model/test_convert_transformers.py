"""Folders of transformers' VideoMAE become model directories that compute the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from m3video.config import ImportConfig
from m3video.errors import CheckpointError, ConfigError
from m3video.model import Classifier, load_classifier, load_encoder
from m3video.model.importing import Imported, import_weights

transformers = pytest.importorskip("transformers")


def theirs(kind: str, **settings: Any) -> nn.Module:
    """A small random model on non-square frames, with norms and biases that are not 1 and 0."""
    config = transformers.VideoMAEConfig(
        **{
            "image_size": [32, 48],
            "patch_size": 8,
            "num_frames": 8,
            "hidden_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 100,
            "decoder_hidden_size": 24,
            "decoder_num_hidden_layers": 1,
            "decoder_num_attention_heads": 2,
            "layer_norm_eps": 1e-3,
            **settings,
        }
    )
    model: nn.Module = getattr(transformers, kind)(config)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return model.eval()


def imported(folder: Path, **settings: Any) -> Imported:
    config = {"source": folder, "out": folder.parent / "model", **settings}
    return import_weights(ImportConfig.model_validate(config))


def clips() -> Tensor:
    return torch.randn(2, 3, 8, 32, 48, generator=torch.Generator().manual_seed(1))


def error(ours: Tensor, expected: Tensor) -> float:
    return ((ours - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("mean_pooling", [True, False])
@pytest.mark.parametrize("kind", ["VideoMAEModel", "VideoMAEForPreTraining"])
def test_tokens_are_those_of_transformers(tmp_path: Path, kind: str, mean_pooling: bool) -> None:
    model = theirs(kind, use_mean_pooling=mean_pooling)
    model.save_pretrained(tmp_path / "hf")
    result = imported(tmp_path / "hf", stride=2)
    base = model.videomae if kind == "VideoMAEForPreTraining" else model
    encoder = load_encoder(tmp_path)
    assert encoder.clip.stride == 2
    assert encoder.architecture["final_norm"] is not mean_pooling
    with torch.no_grad():
        expected = base(clips().transpose(1, 2)).last_hidden_state
        assert error(encoder(clips()), expected) < 1e-5
    assert result.missing == ()
    assert bool(result.left_over) == (kind == "VideoMAEForPreTraining")
    assert all(name.startswith(("decoder", "encoder_to", "mask_t")) for name in result.left_over)


def test_a_classifier_comes_with_the_names_of_its_classes(tmp_path: Path) -> None:
    names = {0: "jump", 1: "fall", 2: "été"}
    model = theirs("VideoMAEForVideoClassification", id2label=names)
    model.save_pretrained(tmp_path / "hf")
    assert imported(tmp_path / "hf").left_over == ()
    classifier = load_classifier(tmp_path)
    assert classifier.labels == ("jump", "fall", "été")
    with torch.no_grad():
        expected = model(clips().transpose(1, 2)).logits
        assert error(classifier(clips()), expected) < 1e-5


def test_names_can_be_given_and_those_that_transformers_makes_up_are_none(tmp_path: Path) -> None:
    theirs("VideoMAEForVideoClassification", num_labels=3).save_pretrained(tmp_path / "hf")
    imported(tmp_path / "hf")
    assert load_classifier(tmp_path).labels == ("0", "1", "2")
    (tmp_path / "l.txt").write_text("a\nb\nc\n")
    imported(tmp_path / "hf", out=tmp_path / "named", labels=tmp_path / "l.txt")
    assert load_classifier(tmp_path / "named").labels == ("a", "b", "c")


def test_a_head_on_one_token_is_left_over(tmp_path: Path) -> None:
    theirs("VideoMAEForVideoClassification", use_mean_pooling=False).save_pretrained(
        tmp_path / "hf"
    )
    result = imported(tmp_path / "hf")
    assert not isinstance(result.model, Classifier)
    assert result.left_over == ("classifier.bias", "classifier.weight")


def test_older_folders_have_other_names_for_biases_and_a_pickle(tmp_path: Path) -> None:
    model = theirs("VideoMAEForVideoClassification")
    model.save_pretrained(tmp_path / "hf")
    older = {
        name.replace("query.bias", "q_bias").replace("value.bias", "v_bias"): value
        for name, value in model.state_dict().items()
    }
    (tmp_path / "hf" / "model.safetensors").unlink()
    torch.save(older, tmp_path / "hf" / "pytorch_model.bin")
    imported(tmp_path / "hf")
    with torch.no_grad():
        expected = model(clips().transpose(1, 2)).logits
        assert error(load_classifier(tmp_path)(clips()), expected) < 1e-5


def test_without_biases_of_attention_they_are_zero(tmp_path: Path) -> None:
    model = theirs("VideoMAEModel", qv_bias=False)
    model.save_pretrained(tmp_path / "hf")
    result = imported(tmp_path / "hf")
    assert len(result.missing) == 4
    with torch.no_grad():
        expected = model(clips().transpose(1, 2)).last_hidden_state
        assert error(load_encoder(tmp_path)(clips()), expected) < 1e-5


def test_a_config_may_leave_out_what_is_as_by_default(tmp_path: Path) -> None:
    theirs("VideoMAEModel", image_size=16, num_frames=16).save_pretrained(tmp_path / "hf")
    path = tmp_path / "hf" / "config.json"
    config = json.loads(path.read_text())
    kept = {key: config[key] for key in ("model_type", "patch_size", "num_attention_heads")}
    path.write_text(json.dumps(kept | {"image_size": 16}))
    encoder = imported(tmp_path / "hf").model
    assert not isinstance(encoder, Classifier)
    assert encoder.clip.frames == 16
    assert encoder.architecture["norm_eps"] == 1e-12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "vit"}, "is of model_type 'vit', not 'videomae'"),
        ({"model_type": "VideoMAEv2_Base"}, "give their file itself"),
        ({"hidden_act": "relu"}, "hidden_act 'relu' cannot be had here, only 'gelu'"),
        ({"num_channels": 1}, "num_channels 1 cannot be had here"),
        ({"patch_size": [8, 4]}, r"patches of \[8, 4\] are not square"),
        ({"num_attention_heads": "x"}, "num_attention_heads 'x' and layer_norm_eps"),
        ({"num_frames": None}, "frames: Input should be a valid integer"),
        ({"image_size": 30}, "size 30×30 is not a multiple of patch 8"),
        ({"num_attention_heads": 5}, "width 48 is not a multiple of heads 5"),
        ({"architecture": {}, "model_type": None}, "a model directory of m3video already"),
    ],
)
def test_other_models_are_refused_in_one_line(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    theirs("VideoMAEModel").save_pretrained(tmp_path / "hf")
    path = tmp_path / "hf" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises((CheckpointError, ConfigError), match=message) as caught:
        imported(tmp_path / "hf")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "model").exists()


def test_parts_that_are_missing_or_contradict_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "hf"
    theirs("VideoMAEModel").save_pretrained(folder)
    for settings, words in (
        ({"frames": 16}, "frames 16: config.json of .* says 8"),
        ({"size": (64, 64)}, r"size \(64, 64\): config.json of .* says \(32, 48\)"),
        ({"heads": 3}, "heads 3: config.json of .* says 4"),
        ({"labels": tmp_path / "l.txt"}, "has no classifier on the mean"),
    ):
        with pytest.raises(ConfigError, match=words):
            imported(folder, **settings)
    preprocessor = folder / "preprocessor_config.json"
    preprocessor.write_text('{"image_mean": [0.5, 0.5, 0.5]}')
    with pytest.raises(CheckpointError, match=r"image_mean \[0.5, 0.5, 0.5\]: m3video normalises"):
        imported(folder)
    preprocessor.unlink()
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"neither model.safetensors nor pytorch_model.bin"):
        imported(folder)
    tensors.pop("encoder.layer.1.output.dense.bias")
    torch.save(tensors, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"blocks.1.mlp.fc2.bias missing"):
        imported(folder)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"a folder without config.json"):
        imported(folder)
    assert not (tmp_path / "model").exists()
