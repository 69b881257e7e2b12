"""Files of others become model directories: what is read, and how it is sorted."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from m3video.config import ImportConfig
from m3video.errors import CheckpointError, ConfigError
from m3video.model import Classifier, load_classifier, load_encoder, load_model
from m3video.model.importing import Imported, import_weights
from m3video.model.vit import sine_cosine_positions
from tests.model import official

State = dict[str, Tensor]


def formula(name: str) -> State:
    """Small weights under the authors' names."""
    return official.formula_weights(json.loads(official.GOLDEN.read_text())[name]["shapes"])


def imported(path: Path, **settings: Any) -> Imported:
    given = {"frames": 16, "size": (64, 64), "heads": 3, **settings}
    config = {"source": path, "out": path.parent / "model", **given}
    return import_weights(ImportConfig.model_validate(config))


@pytest.mark.parametrize("name", official.NAMES)
def test_the_authors_outputs_come_from_the_model_directory(name: str, tmp_path: Path) -> None:
    """The oracle's weights as a .pth, imported, loaded again: the same to 1e-5."""
    tensors = official.oracle(name)
    torch.save({"model": official.weights_of(tensors)}, tmp_path / "a.pth")
    imported(tmp_path / "a.pth")
    if name == "videomae_finetune_tiny":
        with torch.no_grad():
            logits = load_classifier(tmp_path)(tensors["clip"])
        assert official.relative_error(logits, tensors["logits"]) < 1e-5
        return
    model = official.autoencoder(name)
    weights = official.weights_of(tensors)
    convert = official.convert
    to_ours = convert.mme_autoencoder if "mme" in name else convert.videomae_autoencoder
    model.load_state_dict(to_ours(weights))
    model.encoder = load_encoder(tmp_path)
    with torch.no_grad():
        predictions = model(tensors["clip"], tensors["mask"].bool())["predictions"]
    for target, value in predictions.items():
        key = "prediction" if target == "pixel" else f"prediction_{target}"
        assert official.relative_error(value, tensors[key]) < 1e-5


@pytest.mark.parametrize("name", official.NAMES)
def test_small_official_files_compute_what_they_should(name: str, tmp_path: Path) -> None:
    """The same without the oracles: the golden numbers of the authors' models."""
    weights = formula(name)
    torch.save({"model": weights}, tmp_path / "a.pth")
    result = imported(tmp_path / "a.pth")
    clip = official.formula_clip()
    with torch.no_grad():
        if name == "videomae_finetune_tiny":
            classifier = load_classifier(tmp_path)
            assert classifier.labels == tuple("0123456")
            mask = official.formula_mask()
            expected = official.our_outputs(name, weights, clip, mask)["logits"]
            assert torch.allclose(classifier(clip), expected, atol=1e-5)
            assert result.left_over == ()
            return
        expected_encoder = official.encoder(final_norm=True)
        part = {k.removeprefix("encoder."): v for k, v in weights.items() if "encoder." in k[:8]}
        expected_encoder.load_state_dict(official.convert.finetuned_encoder(part))
        assert torch.equal(load_encoder(tmp_path)(clip), expected_encoder(clip))
    decoder = [key for key in weights if not key.startswith("encoder.")]
    assert result.left_over == tuple(sorted(decoder))
    assert result.used == len(weights) - len(decoder)


def _prefixed(prefix: str) -> Callable[[State], dict[str, Any]]:
    return lambda state: {"model": {prefix + key: value for key, value in state.items()}}


def _deepspeed(state: State) -> dict[str, Any]:
    return {"module": dict(state), "epoch": 7, "optimizer": None, "lr": 1e-3}


def _training(state: State) -> dict[str, Any]:
    options = argparse.Namespace(lr=1e-3, data_path="videos", betas=(0.9, 0.95))
    optimizer = {"state": {0: {"step": 3, "exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}
    return {"model": state, "optimizer": optimizer, "epoch": 3, "args": options}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": {"model": state}},
        _prefixed("module."),
        _prefixed("backbone."),
        _prefixed("module.backbone."),
        _prefixed("model."),
        _deepspeed,
        _training,
        lambda state: {"model": {key: value.half() for key, value in state.items()}},
    ],
)
@pytest.mark.parametrize("name", ["videomae_pretrain_tiny", "videomae_finetune_tiny"])
def test_wrappers_and_prefixes_do_not_matter(
    name: str, wrap: Callable[[State], dict[str, Any]], tmp_path: Path
) -> None:
    weights = {key: value.half().float() for key, value in formula(name).items()}
    torch.save(weights, tmp_path / "plain.pth")
    torch.save(wrap(weights), tmp_path / "wrapped.pth")
    imported(tmp_path / "plain.pth", out=tmp_path / "plain")
    imported(tmp_path / "wrapped.pth", out=tmp_path / "wrapped")
    plain, wrapped = load_model(tmp_path / "plain"), load_model(tmp_path / "wrapped")
    assert type(plain) is type(wrapped)
    for key, value in plain.state_dict().items():
        assert torch.equal(value, wrapped.state_dict()[key]), key


def test_safetensors_files_are_read_too(tmp_path: Path) -> None:
    save_file(formula("videomae_finetune_tiny"), tmp_path / "a.safetensors")
    assert isinstance(imported(tmp_path / "a.safetensors").model, Classifier)


def test_trackmae_keeps_its_encoder(tmp_path: Path) -> None:
    """Two decoders, tables of positions, one bias for queries, keys and values. A bias of the keys
    changes nothing, so it may be anything."""
    weights = formula("videomae_pretrain_tiny")
    expected = official.encoder(final_norm=True)
    expected.load_state_dict(
        official.convert.encoder_of(official.convert.videomae_autoencoder(weights))
    )
    track = {}
    for key, value in weights.items():
        if key.endswith("q_bias"):
            other = weights[key.replace("q_bias", "v_bias")]
            stem = key.removesuffix("q_bias")
            track[f"{stem}qkv.bias"] = torch.cat((value, torch.rand(len(value)), other))
        elif not key.endswith("v_bias"):
            track[key] = value
    decoder = {k: v for k, v in track.items() if k.startswith("decoder.")}
    track |= {f"tracker_{key}": value for key, value in decoder.items()}
    track["encoder_to_tracker.weight"] = track["encoder_to_decoder.weight"]
    track["encoder.pos_embed"] = sine_cosine_positions(128, 48)[None]
    track["decoder_pos_embed"] = sine_cosine_positions(128, 24)[None]
    torch.save({"model": track, "epoch": 800}, tmp_path / "track.pth")
    result = imported(tmp_path / "track.pth")
    with torch.no_grad():
        clip = official.formula_clip()
        assert torch.equal(load_encoder(tmp_path)(clip), expected(clip))
    assert "tracker_decoder (" in result.describe()
    assert "missing, so zero: nothing" in result.describe()


def test_sizes_and_the_clip_are_inferred_or_given(tmp_path: Path) -> None:
    weights = formula("videomae_pretrain_tiny")
    torch.save({"model": weights}, tmp_path / "a.pth")
    model = imported(tmp_path / "a.pth", frames=8, size=(48, 80), stride=2).model
    loaded = load_encoder(tmp_path)
    assert not isinstance(model, Classifier)
    assert loaded.clip == model.clip
    assert (loaded.clip.frames, loaded.clip.size, loaded.clip.stride) == (8, (48, 80), 2)
    assert (loaded.clip.tubelet, loaded.clip.patch) == (2, 16)
    assert loaded.architecture == {
        "width": 48,
        "depth": 2,
        "heads": 3,
        "mlp_ratio": 4.0,
        "norm_eps": 1e-6,
        "final_norm": True,
    }


def one_block(width: int, hidden: int, patch: int = 4) -> State:
    """A fine-tuned encoder of one block, without a classifier."""
    linear = {"attn.qkv": (3 * width, width), "attn.proj": (width, width)}
    linear |= {"mlp.fc1": (hidden, width), "mlp.fc2": (width, hidden)}
    state = {f"blocks.0.{name}.weight": torch.randn(shape) for name, shape in linear.items()}
    state |= {f"blocks.0.{name}.bias": torch.randn(shape[0]) for name, shape in linear.items()}
    del state["blocks.0.attn.qkv.bias"]
    for norm in ("norm1", "norm2"):
        state |= {f"blocks.0.{norm}.{part}": torch.ones(width) for part in ("weight", "bias")}
    state |= {"blocks.0.attn.q_bias": torch.ones(width), "blocks.0.attn.v_bias": torch.ones(width)}
    state["patch_embed.proj.weight"] = torch.randn(width, 3, 2, patch, patch)
    state["patch_embed.proj.bias"] = torch.randn(width)
    return state


@pytest.mark.parametrize(
    ("width", "hidden", "heads"),
    [(384, 1536, 6), (1408, 6144, 16), (704, 960, 11)],
)
def test_heads_and_mlp_of_the_published_widths(
    width: int, hidden: int, heads: int, tmp_path: Path
) -> None:
    """Giant of VideoMAE V2 has an MLP of 48/11 of its width, which no float is; and 704 times the
    float nearest to 960 / 704 is less than 960."""
    torch.save({"module": one_block(width, hidden)}, tmp_path / "a.pth")
    model = imported(tmp_path / "a.pth", frames=2, size=(4, 8), heads=None).model
    assert not isinstance(model, Classifier)
    assert model.architecture["heads"] == heads
    assert len(model.state_dict()["blocks.0.mlp.fc1.bias"]) == hidden
    assert model.architecture["final_norm"] is False


def test_a_model_without_attention_biases_has_zeros_and_says_so(tmp_path: Path) -> None:
    state = one_block(64, 256)
    state = {key: value for key, value in state.items() if not key.endswith(("q_bias", "v_bias"))}
    torch.save(state, tmp_path / "a.pth")
    result = imported(tmp_path / "a.pth", frames=2, size=(4, 8), heads=None)
    assert result.missing == ("blocks.0.attention.q_bias", "blocks.0.attention.v_bias")
    assert "missing, so zero: blocks (2)" in result.describe()
    del state["blocks.0.mlp.fc2.bias"]
    torch.save(state, tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match=r"b.pth: weights of another model: .*fc2.bias miss"):
        imported(tmp_path / "b.pth", out=tmp_path / "b", frames=2, size=(4, 8), heads=None)


def test_a_head_on_one_token_is_left_over(tmp_path: Path) -> None:
    state = one_block(64, 256)
    state |= {"norm.weight": torch.ones(64), "norm.bias": torch.ones(64)}
    state |= {"head.weight": torch.ones(5, 64), "head.bias": torch.ones(5)}
    torch.save(state, tmp_path / "a.pth")
    result = imported(tmp_path / "a.pth", frames=2, size=(4, 8), heads=None)
    assert not isinstance(result.model, Classifier)
    assert result.left_over == ("head.bias", "head.weight")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("l.txt", "jump\n\n fall down \nrun\nété\na\nb\nc\n"),
        ("l.json", json.dumps(["jump", "fall down", "run", "été", "a", "b", "c"])),
        (
            "l.json",
            '{"6":"c","5":"b","0":"jump","1":"fall down","2":"run","3":"\\u00e9t\\u00e9","4":"a"}',
        ),
        ("l.txt", "\ufeffjump\r\nfall down\r\nrun\r\nété\r\na\r\nb\r\nc"),
    ],
)
def test_names_of_classes(name: str, text: str, tmp_path: Path) -> None:
    torch.save(formula("videomae_finetune_tiny"), tmp_path / "a.pth")
    (tmp_path / name).write_text(text, encoding="utf-8")
    imported(tmp_path / "a.pth", labels=tmp_path / name)
    assert load_classifier(tmp_path).labels == ("jump", "fall down", "run", "été", "a", "b", "c")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("l.txt", "a\nb\n", "2 names for a classifier of 7 classes"),
        ("l.txt", "a\nb\nc\nd\ne\nf\na\n", "'a' is the name of two classes"),
        ("l.json", '{"1": "a"}', "ids of the classes must be 0, 1, 2"),
        ("l.json", '{"a": 0}', "cannot be read as names of classes"),
        ("l.json", "[1, 2]", "a list of names, or"),
        ("l.json", "{", "cannot be read as names of classes"),
        ("none.txt", None, "cannot be read as names of classes"),
    ],
)
def test_names_that_do_not_fit_are_refused(
    name: str, text: str | None, message: str, tmp_path: Path
) -> None:
    torch.save(formula("videomae_finetune_tiny"), tmp_path / "a.pth")
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        imported(tmp_path / "a.pth", labels=tmp_path / name)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["videomae_b_pretrain", "videomae_b_finetuned", "mme_b_pretrain"])
def test_files_of_the_official_base_models(kind: str, tmp_path: Path) -> None:
    path = official.ORACLES / "official_keys.json"
    if not path.exists():
        pytest.skip("no ../shared/data/oracles/official_keys.json")
    listed = json.loads(path.read_text())
    entry = next(value for name, value in listed.items() if name.startswith(kind))
    generator = torch.Generator().manual_seed(0)
    state = {key: 0.02 * torch.randn(shape, generator=generator) for key, shape in entry.items()}
    torch.save({"module" if "fine" in kind else "model": state}, tmp_path / "a.pth")
    config = ImportConfig(source=tmp_path / "a.pth", out=tmp_path / "model")
    result = import_weights(config)
    assert result.missing == ()
    model = load_model(tmp_path)
    encoder = model.encoder if isinstance(model, Classifier) else model
    shape = encoder.architecture
    assert (shape["width"], shape["depth"], shape["heads"]) == (768, 12, 12)
    assert encoder.clip.size == (224, 224)
    prefix = "" if "fine" in kind else "encoder."
    kernel = state[f"{prefix}patch_embed.proj.weight"]
    assert torch.equal(encoder.patch_embed.weight.detach(), kernel.flatten(1))
    assert isinstance(model, Classifier) == ("fine" in kind)
    if isinstance(model, Classifier):
        assert len(model.labels) == 400
        assert torch.equal(model.head.weight.detach(), state["head.weight"])
