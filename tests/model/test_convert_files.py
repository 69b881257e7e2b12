"""Files of others become model directories: what is read, how it is sorted, what is refused."""

from __future__ import annotations

import argparse
import json
import os
import pickle
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


class Evil:
    """What a pickle may do when it is read without care."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch hacked",)


def _resnet() -> State:
    return {
        "conv1.weight": torch.ones(64, 3, 7, 7),
        "fc.bias": torch.ones(4),
        "bn1.bias": torch.ones(2),
    }


def _changed(name: str = "videomae_finetune_tiny", **changes: Tensor) -> State:
    return formula(name) | changes


def _image_patches() -> State:
    return _changed(**{"patch_embed.proj.weight": torch.ones(48, 3, 16, 16)})


def _nan() -> State:
    return _changed(**{"blocks.1.mlp.fc1.bias": torch.full((192,), torch.nan)})


def _two_encoders() -> State:
    state = formula("videomae_pretrain_tiny")
    return state | {f"teacher.{key}": value for key, value in state.items()}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (_resnet, r"one patch_embed.proj.weight of VideoMAE is wanted; it has conv1.weight, fc"),
        (_two_encoders, r"2 of them: encoder.patch_embed.proj.weight, teacher.encoder"),
        (_image_patches, r"is \[48, 3, 16, 16\]; a model of RGB videos"),
        (_nan, "blocks.1.mlp.fc1.bias has values that are not finite"),
        (lambda: _changed(cls_token=torch.ones(1, 1, 48)), "cls_token is no part of VideoMAE's"),
        (lambda: _changed(time_embed=torch.ones(1, 8, 48)), "time_embed is no part of VideoMAE's"),
        (
            lambda: _changed(**{"blocks.0.gamma_1": torch.ones(48)}),
            "blocks.0.gamma_1 not part of the model",
        ),
        (
            lambda: _changed(**{"blocks.0.attn.scale": torch.ones(3, 1, 1)}),
            "blocks.0.attention.scale not part of the model",
        ),
        (lambda: _changed(pos_embed=torch.rand(1, 128, 48)), "its pos_embed was learned"),
        (
            lambda: _changed(pos_embed=sine_cosine_positions(1568, 48)[None]),
            "for 1568 tokens, and 16 frames of 64×64 have 128; give --frames and --size",
        ),
        (lambda: {"model": {}}, "no state dict in it"),
        (lambda: {"model": {"epoch": 3}}, "no state dict in it"),
        (lambda: [torch.ones(3)], "no state dict in it"),
        (lambda: {"a": Evil()}, "holds objects beside weights, which could run code"),
    ],
)
def test_what_is_no_videomae_is_refused_in_one_line(
    content: Callable[[], Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(content(), tmp_path / "a.pth")
    with pytest.raises((CheckpointError, ConfigError), match=message) as caught:
        imported(tmp_path / "a.pth")
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "a.pth") in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pth"]


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_that_was_cut_off_is_refused(share: float, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix == ".pth":
        torch.save(formula("videomae_finetune_tiny"), path)
    else:
        save_file(formula("videomae_finetune_tiny"), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(
        CheckpointError, match=r"not a file of weights|cannot be read as safet"
    ) as e:
        imported(path)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"hello" * 100, b"\x80\x02]q\x00.", None])
def test_a_file_that_is_something_else_is_refused(data: bytes | None, tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(pickle.dumps({"a": [1, 2]}) if data is None else data)
    with pytest.raises(CheckpointError, match=r"not a file of weights|no state dict") as caught:
        imported(tmp_path / "a.pth")
    assert "\n" not in str(caught.value)


def test_places_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none.pth: no such file or folder"):
        imported(tmp_path / "none.pth")
    torch.save(formula("videomae_pretrain_tiny"), tmp_path / "a.pth")
    imported(tmp_path / "a.pth")
    with pytest.raises(ConfigError, match="there is something already; choose another --out"):
        imported(tmp_path / "a.pth")
    with pytest.raises(ConfigError, match="width 48 is of no published model; give its attention"):
        imported(tmp_path / "a.pth", out=tmp_path / "b", heads=None)
    with pytest.raises(ConfigError, match="width 48 is not a multiple of heads 7; give the right"):
        imported(tmp_path / "a.pth", out=tmp_path / "b", heads=7)
    with pytest.raises(
        ConfigError, match="size 60×64 is not a multiple of patch 16; give the --fr"
    ):
        imported(tmp_path / "a.pth", out=tmp_path / "b", size=(60, 64))
    with pytest.raises(ConfigError, match=r"labels .* has no classifier"):
        imported(tmp_path / "a.pth", out=tmp_path / "b", labels=tmp_path / "l.txt")
    assert not (tmp_path / "b").exists()


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
