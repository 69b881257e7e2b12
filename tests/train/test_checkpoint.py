"""Checkpoints appear whole, old ones go, and what a killed save left does no harm."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from m3video.config import TrainConfig
from m3video.errors import CheckpointError
from m3video.model.checkpoint import save_model
from m3video.model.classifier import Classifier
from m3video.model.masked_autoencoder import MaskedAutoencoder, build_model
from m3video.train import checkpoint
from m3video.train.checkpoint import (
    TrainState,
    load_checkpoint,
    load_init,
    newest_checkpoint,
    save_checkpoint,
)
from m3video.train.optim import make_optimizer, state_by_name
from tests.train.tiny import tiny_config


def trained(seed: int = 0) -> tuple[nn.Module, torch.optim.AdamW]:
    """A layer after one step."""
    torch.manual_seed(seed)
    model = nn.Linear(3, 2)
    optimizer = make_optimizer(model, TrainConfig())
    model(torch.randn(4, 3)).square().sum().backward()
    optimizer.step()
    return model, optimizer


def save(run: Path, step: int, keep: int = 2, seed: int = 0) -> Path:
    model, optimizer = trained(seed)
    return save_checkpoint(
        run / "checkpoints",
        run / "last",
        model=model,
        optimizer=optimizer,
        state=TrainState(step=step, unreadable={"a.mp4": "empty"}),
        keep=keep,
    )


def test_comes_back_as_it_was(tmp_path: Path) -> None:
    place = save(tmp_path, 3, seed=1)
    expected, moments = trained(seed=1)
    model, optimizer = trained(seed=2)
    state = load_checkpoint(place, model, optimizer)
    assert state == TrainState(step=3, unreadable={"a.mp4": "empty"})
    for name, tensor in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)
    for name, tensor in state_by_name(expected, moments).items():
        assert torch.equal(state_by_name(model, optimizer)[name], tensor)
    assert sorted(file.name for file in place.iterdir()) == [
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
    ]


def test_keeps_the_newest_and_points_at_the_last(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "step-9-of-mine").mkdir(parents=True)
    for step in (2, 9, 10, 100):  # by number, not by name
        save(tmp_path, step)
    left = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert left == ["step-10", "step-100", "step-9-of-mine"]
    assert (tmp_path / "last").is_symlink()
    assert (tmp_path / "last").readlink() == Path("checkpoints/step-100")


def test_killed_while_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1)

    def die(path: Path, value: object) -> None:
        raise SystemExit

    monkeypatch.setattr(checkpoint, "write_json", die)
    with pytest.raises(SystemExit):
        save(tmp_path, 2)
    assert newest_checkpoint(tmp_path / "checkpoints", tmp_path / "last") == (
        tmp_path / "checkpoints" / "step-1"
    )


def test_leftovers_are_cleared_and_a_whole_checkpoint_is_used(tmp_path: Path) -> None:
    save(tmp_path, 1)
    (tmp_path / "checkpoints" / ".step-3.partial").mkdir()
    place = save(tmp_path, 2)
    # killed between the rename of step-2 and the move of `last`
    (tmp_path / "last").unlink()
    (tmp_path / "last").symlink_to("checkpoints/step-1")
    assert newest_checkpoint(tmp_path / "checkpoints", tmp_path / "last") == place
    assert (tmp_path / "last").readlink() == Path("checkpoints/step-2")
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-1", "step-2"]


def test_no_checkpoint_yet(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path / "checkpoints", tmp_path / "last") is None


def test_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    place = save(tmp_path, 1)
    (place / "optimizer.safetensors").write_bytes(b"no")
    with pytest.raises(CheckpointError, match=r"step-1/optimizer.safetensors: "):
        load_checkpoint(place, *trained())


def build(tmp_path: Path, **changes: object) -> MaskedAutoencoder:
    return build_model(tiny_config(tmp_path, **changes), {"trajectory": 24, "trajectory_hog": 108})


def test_init_from_a_run_takes_what_fits(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = build(tmp_path)
    save_checkpoint(
        tmp_path / "checkpoints",
        tmp_path / "last",
        model=source,
        optimizer=make_optimizer(source, TrainConfig()),
        state=TrainState(step=5),
        keep=1,
    )
    same = build(tmp_path)
    assert load_init(same, tmp_path) == []
    assert torch.equal(same.mask_token, source.mask_token)
    wider = build(tmp_path, model={"decoder_width": 96})
    mine = wider.mask_token.detach().clone()
    left = load_init(wider, tmp_path)
    assert "mask_token" in left
    assert not any(name.startswith("encoder.") for name in left)
    assert torch.equal(wider.mask_token, mine)
    for name, tensor in source.encoder.state_dict().items():
        assert torch.equal(wider.encoder.state_dict()[name], tensor), name


def test_init_from_a_model_directory_takes_the_encoder(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    source = build(tmp_path)
    save_model(source.encoder, tmp_path / "model", config.clip)
    for path in (tmp_path, tmp_path / "model"):
        model = build(tmp_path)
        left = load_init(model, path)
        assert "mask_token" in left
        assert torch.equal(model.encoder.patch_embed.weight, source.encoder.patch_embed.weight)


def test_init_from_a_classifier_takes_its_encoder_and_its_norm(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    model = Classifier(build(tmp_path).encoder, ("a", "b"))
    torch.nn.init.normal_(model.norm.weight)
    save_model(model, tmp_path / "model", config.clip)
    started = build(tmp_path)
    left = load_init(started, tmp_path)
    assert not any(name.startswith("encoder.") for name in left)
    own = started.encoder.state_dict()
    assert torch.equal(own["norm.weight"], model.norm.weight)
    assert torch.equal(
        own["blocks.0.mlp.fc1.weight"], model.state_dict()["encoder.blocks.0.mlp.fc1.weight"]
    )


def test_init_from_an_encoder_without_a_norm_says_so(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    source = build(tmp_path).encoder
    source.take_norm()
    save_model(source, tmp_path / "model", config.clip)
    left = load_init(build(tmp_path), tmp_path)
    assert [name for name in left if name.startswith("encoder.")] == [
        "encoder.norm.bias",
        "encoder.norm.weight",
    ]


def test_init_refuses_another_encoder_and_an_empty_place(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    save_model(build(tmp_path).encoder, tmp_path / "model", config.clip)
    larger = build(tmp_path, model={"size": "ti"})
    with pytest.raises(CheckpointError, match=r"--init .*: encoder\.\S+ is \[.*\] there and \["):
        load_init(larger, tmp_path)
    with pytest.raises(CheckpointError, match="no weights there"):
        load_init(larger, tmp_path / "nowhere")
