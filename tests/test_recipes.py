"""Recipes: the figures of the papers and the release, pinned."""

from __future__ import annotations

from pathlib import Path

import pytest

from m3video.errors import ConfigError
from m3video.recipes import RECIPES, merge, recipe_config


def test_videomae_is_the_papers() -> None:
    config = recipe_config("videomae", data="x", out=Path("y"))
    assert (config.clip.frames, config.clip.stride, config.clip.size) == (16, 4, (224, 224))
    assert (config.mask.kind, config.mask.ratio) == ("tube", 0.9)
    assert (config.model.decoder_width, config.model.decoder_depth) == (384, 4)
    assert list(config.targets.active) == ["pixel"]
    assert config.targets.pixel.normalise
    assert (config.train.lr, config.train.betas, config.train.weight_decay) == (
        1.5e-4,
        (0.9, 0.95),
        0.05,
    )


def test_mme_predicts_position_and_shape_along_trajectories() -> None:
    config = recipe_config("mme", data="x", out=Path("y"))
    assert list(config.targets.active) == ["trajectory", "trajectory_hog"]
    assert (config.motion.length, config.motion.seeds) == (6, 4)
    assert (config.mask.kind, config.mask.ratio) == ("tube", 0.7)
    assert (config.model.decoder_width, config.model.decoder_depth) == (192, 1)
    assert not config.augment.flip


def test_mme_released_is_what_the_release_trains() -> None:
    targets = recipe_config("mme-released", data="x", out=Path("y")).targets
    assert list(targets.active) == ["hog", "trajectory"]
    assert (targets.hog.bins, targets.hog.cell, targets.hog.colour) == (9, 8, "rgb")
    assert (targets.hog.head, targets.hog.activation) == ("mlp", "sigmoid")
    assert (targets.trajectory.clamp, targets.trajectory.scale) == (20.0, 20.0)
    assert (targets.trajectory.normalise, targets.trajectory.activation) == ("patch-std", "tanh")


@pytest.mark.parametrize("name", [name for name in RECIPES if name.endswith("-tiny")])
def test_tiny_keeps_targets_and_mask(name: str) -> None:
    tiny = recipe_config(name, data="x", out=Path("y"))
    full = recipe_config(name.removesuffix("-tiny"), data="x", out=Path("y"))
    assert list(tiny.targets.active) == list(full.targets.active)
    assert tiny.mask == full.mask
    assert tiny.clip.size == (64, 64)
    assert tiny.model.size == "nano"


def test_changes_are_laid_over_the_recipe() -> None:
    changes = {"train": {"steps": 300}, "targets": {"pixel": {"weight": 0.5}}}
    config = recipe_config("mme", data="x", out=Path("y"), changes=changes)
    assert config.train.steps == 300
    assert list(config.targets.active) == ["pixel", "trajectory", "trajectory_hog"]
    assert "pixel" not in RECIPES["mme"].settings["targets"], "the recipe itself was changed"


def test_merge_keeps_what_is_not_changed() -> None:
    assert merge({"a": {"b": 1, "c": 2}}, {"a": {"c": 3}}) == {"a": {"b": 1, "c": 3}}


def test_unknown_recipe_names_the_known() -> None:
    words = "recipe 'mmme' is not known: use one of videomae, maskfeat, flow,"
    with pytest.raises(ConfigError, match=words):
        recipe_config("mmme", data="x", out=Path("y"))
