"""Weights on disk: what comes back, what is refused, and that nothing half-written ever shows."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from m3video.config import ClipConfig
from m3video.errors import CheckpointError
from m3video.model import (
    Classifier,
    VisionTransformer,
    load_classifier,
    load_encoder,
    load_model,
    save_model,
)
from m3video.model.checkpoint import load_weights, read_json, write_tensors
from m3video.video.augment import MEAN
from m3video.whole import write_json, written_whole

CLIP = ClipConfig(frames=4, stride=3, size=(16, 24), patch=8)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def encoder(width: int = 24, *, final_norm: bool = True) -> VisionTransformer:
    torch.manual_seed(5)
    return VisionTransformer(
        frames=4,
        size=(16, 24),
        tubelet=2,
        patch=8,
        width=width,
        depth=1,
        heads=3,
        mlp_ratio=2.0,
        norm_eps=1e-5,
        final_norm=final_norm,
    )


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    save_model(encoder(), tmp_path / "run" / "model", CLIP)
    return tmp_path / "run" / "model"


@pytest.mark.parametrize("final_norm", [True, False])
def test_an_encoder_comes_back_as_it_was(tmp_path: Path, final_norm: bool) -> None:
    saved = encoder(final_norm=final_norm)
    save_model(saved, tmp_path / "run" / "model", CLIP)
    clip = torch.randn(1, 3, 4, 16, 24, generator=torch.Generator().manual_seed(0))
    for path in (tmp_path / "run", tmp_path / "run" / "model", str(tmp_path / "run")):
        loaded = load_encoder(path)
        assert not loaded.training
        assert loaded.clip == CLIP
        assert loaded.architecture == saved.architecture
        assert torch.equal(loaded(clip), saved(clip))


def classifier(labels: tuple[str, ...] = ("jump", "fall", "été")) -> Classifier:
    model = Classifier(encoder(), labels)
    torch.nn.init.normal_(model.head.weight)
    return model.eval()


def test_a_classifier_comes_back_with_the_names_of_its_classes(tmp_path: Path) -> None:
    saved = classifier()
    save_model(saved, tmp_path / "model", saved.encoder.clip)
    loaded = load_classifier(tmp_path)
    assert loaded.labels == ("jump", "fall", "été")
    assert not loaded.training
    clip = torch.randn(2, 3, *(loaded.encoder.clip.frames, *loaded.encoder.clip.size))
    assert torch.equal(loaded(clip), saved(clip))


def test_the_encoder_of_a_classifier_can_be_had_alone(tmp_path: Path) -> None:
    saved = classifier()
    save_model(saved, tmp_path, saved.encoder.clip)
    loaded = load_encoder(tmp_path)
    clip = torch.randn(1, 3, *(loaded.clip.frames, *loaded.clip.size))
    assert torch.equal(loaded(clip), saved.encoder(clip))


def test_an_encoder_is_no_classifier(model_folder: Path) -> None:
    with pytest.raises(CheckpointError, match="without classes; fine-tune it first"):
        load_classifier(model_folder)


@pytest.mark.parametrize("labels", [[], ["a", "a"], "ab", [1, 2], {"a": 1}])
def test_labels_that_are_no_names_are_refused(tmp_path: Path, labels: object) -> None:
    saved = classifier()
    save_model(saved, tmp_path, saved.encoder.clip)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "labels": labels}))
    with pytest.raises(CheckpointError, match=r"config\.json: labels: different names"):
        load_model(tmp_path)


def test_loading_draws_no_random_numbers(model_folder: Path) -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    load_encoder(model_folder)
    assert torch.equal(torch.rand(1), expected)


def test_a_model_directory_holds_two_plain_files(model_folder: Path) -> None:
    assert names(model_folder) == ["config.json", "model.safetensors"]
    config = json.loads((model_folder / "config.json").read_text())
    assert config["clip"]["size"] == [16, 24]
    assert config["mean"] == list(MEAN)
    assert config["m3video"]
    assert set(load_file(model_folder / "model.safetensors")) == set(encoder().state_dict())


def _no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _pickle(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(pickle.dumps({"a": [1.0] * 100}))


def _cut(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])


def _weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def _key_missing(folder: Path) -> None:
    _weights(folder, lambda tensors: [tensors.pop(key) for key in sorted(tensors)[:3]])


def _key_surplus(folder: Path) -> None:
    _weights(folder, lambda tensors: tensors.update(cls_token=torch.zeros(1)))


def _shape(folder: Path) -> None:
    _weights(folder, lambda tensors: tensors.update({"norm.weight": torch.zeros(25)}))


def _config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def _not_json(folder: Path) -> None:
    (folder / "config.json").write_bytes(b"\xff\xfe{")


def _other_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "videomae"}')


def _list_config(folder: Path) -> None:
    (folder / "config.json").write_text("[]")


def _bad_clip(folder: Path) -> None:
    _config(folder, clip={"frames": 4, "size": [16, 25], "patch": 8})


def _other_architecture(folder: Path) -> None:
    _config(folder, architecture={"width": 24, "layers": 3})


def _bad_heads(folder: Path) -> None:
    _config(folder, architecture={"width": 24, "depth": 1, "heads": 5})


def _too_deep(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["architecture"]["depth"] = 10**9
    (folder / "config.json").write_text(json.dumps(config))


def _too_wide(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["architecture"]["mlp_ratio"] = 1e15
    (folder / "config.json").write_text(json.dumps(config))


def _other_normalisation(folder: Path) -> None:
    _config(folder, mean=[0.5, 0.5, 0.5])


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (_no_config, "a directory without a model; give a run directory"),
        (_no_weights, "cannot be read as safetensors: no such file"),
        (_pickle, "cannot be read as safetensors"),
        (_cut, "cannot be read as safetensors"),
        (_key_missing, r"blocks.0.attention.proj.bias and 2 more missing"),
        (_key_surplus, "cls_token not part of the model"),
        (_shape, r"norm.weight is \[25\], the model wants \[24\]"),
        (_not_json, "cannot be read as JSON"),
        (_other_config, "not the config of an m3video model: no 'clip'"),
        (_list_config, "not the config of an m3video model"),
        (_bad_clip, "not a multiple of patch 8"),
        (_other_architecture, "not an architecture of m3video: .*layers"),
        (_too_deep, r"says width 24 and depth 1000000000, and .* depth 1: they do not belong"),
        (_too_wide, "not an architecture of m3video: .*"),
        (_bad_heads, "width 24 is not a multiple of heads 5"),
        (_other_normalisation, r"wants frames of mean and deviation \(\(0.5, 0.5, 0.5\)"),
    ],
)
def test_what_is_broken_is_refused_in_one_line(
    model_folder: Path, break_it: Callable[[Path], None], message: str
) -> None:
    break_it(model_folder)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_encoder(model_folder)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(model_folder))


def test_wrong_places_are_refused_in_one_line(tmp_path: Path, model_folder: Path) -> None:
    with pytest.raises(CheckpointError, match="not there; give a run directory"):
        load_encoder(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="a file; give a run directory"):
        load_encoder(model_folder / "model.safetensors")


def test_weights_of_another_width_are_named(tmp_path: Path) -> None:
    weights = encoder(width=48).state_dict()
    with pytest.raises(CheckpointError, match=r"a.safetensors: weights of another model: .* is \["):
        load_weights(encoder(), weights, tmp_path / "a.safetensors")


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    write_json(path, {"step": 1})
    with pytest.raises(TypeError):
        write_json(path, {"step": object()})

    def fail_half_way() -> None:
        with written_whole(path) as aside:
            aside.write_text('{"st')
            raise RuntimeError("disk on fire")

    with pytest.raises(RuntimeError, match="on fire"):
        fail_half_way()
    assert read_json(path) == {"step": 1}
    assert names(tmp_path) == ["state.json"]


def test_a_directory_is_replaced_as_a_whole(tmp_path: Path, model_folder: Path) -> None:
    (model_folder / "old.txt").write_text("from before")
    save_model(encoder(width=48), model_folder, CLIP)
    assert names(model_folder) == ["config.json", "model.safetensors"]
    assert names(model_folder.parent) == ["model"]
    assert load_encoder(model_folder).width == 48


def test_what_a_killed_writer_leaves_is_not_seen_and_is_cleared(
    tmp_path: Path, model_folder: Path
) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path\n"
        "from m3video.model.checkpoint import written_whole\n"
        "with written_whole(Path(sys.argv[1])) as aside:\n"
        "    aside.mkdir()\n"
        "    (aside / 'half.safetensors').write_bytes(b'half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(model_folder)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert load_encoder(model_folder).width == 24
    assert len(names(model_folder.parent)) == 2
    save_model(encoder(width=48), model_folder, CLIP)
    assert names(model_folder.parent) == ["model"]
    assert names(model_folder) == ["config.json", "model.safetensors"]
    assert load_encoder(model_folder).width == 48


def test_views_of_one_tensor_are_written(tmp_path: Path) -> None:
    table = torch.arange(6.0).reshape(2, 3)
    write_tensors(tmp_path / "t.safetensors", {"turned": table.T, "row": table[1]})
    back = load_file(tmp_path / "t.safetensors")
    assert torch.equal(back["turned"], table.T)
    assert torch.equal(back["row"], table[1])


def test_newer_weights_of_the_same_model_replace_one_file(model_folder: Path) -> None:
    """The directory stays: whoever loads the model in that moment finds the old or the new one."""
    before = model_folder.stat().st_ino
    newer = encoder()
    torch.nn.init.ones_(newer.patch_embed.bias)
    save_model(newer, model_folder, CLIP)
    assert model_folder.stat().st_ino == before
    assert torch.equal(load_encoder(model_folder).patch_embed.bias, newer.patch_embed.bias)


def test_a_file_never_takes_the_place_of_a_directory(model_folder: Path) -> None:
    with pytest.raises(IsADirectoryError, match=str(model_folder)):
        write_json(model_folder, {"linear": 0.5})
    assert load_encoder(model_folder).width == 24
    assert names(model_folder.parent) == ["model"]


def test_a_model_never_takes_the_place_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"cat")
    with pytest.raises(CheckpointError, match="photos: not empty and no model"):
        save_model(encoder(), tmp_path / "photos", CLIP)
    assert names(tmp_path / "photos") == ["cat.jpg"]
    (tmp_path / "empty").mkdir()
    save_model(encoder(), tmp_path / "empty", CLIP)
    assert load_encoder(tmp_path / "empty").width == 24


def test_names_that_are_not_utf8_survive_json(tmp_path: Path) -> None:
    value = {os.fsdecode(b"caf\xe9.mp4"): "ü 視"}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    assert "ü 視" in (tmp_path / "a.json").read_text()


def test_weights_that_cannot_be_written_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(tensors: object, path: Path) -> None:
        raise SafetensorError("I/O error:\nNo space left on device (os error 28)")

    monkeypatch.setattr("m3video.model.checkpoint.save_file", full)
    with pytest.raises(CheckpointError, match=r"t.safetensors: cannot be written: .*No space"):
        write_tensors(tmp_path / "t.safetensors", {"a": torch.zeros(1)})
    assert names(tmp_path) == []
