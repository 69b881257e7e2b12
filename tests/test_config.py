"""Configs: what is refused, in what words, and that they survive a round trip through YAML."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from m3video.config import (
    ClipConfig,
    PretrainConfig,
    ProbeConfig,
    TargetsConfig,
    load_pretrain_config,
    one_line,
    save_config,
)
from m3video.errors import ConfigError
from m3video.recipes import RECIPES, recipe_config


@pytest.mark.parametrize("name", RECIPES)
def test_yaml_round_trip(name: str, tmp_path: Path) -> None:
    config = recipe_config(name, data="videos", out=Path("runs/x"))
    save_config(config, tmp_path / "config.yaml")
    assert load_pretrain_config(tmp_path / "config.yaml") == config


def test_unknown_key_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        "data: x\nout: y\ntargets: {pixel: {weight: 1}}\nlearning: 3\n"
    )
    with pytest.raises(ConfigError, match="learning: no such setting; there are data, out, "):
        load_pretrain_config(tmp_path / "c.yaml")


@pytest.mark.parametrize("text", ["- a\n- b\n", "", "just words", "a: [1,"])
def test_what_is_no_mapping_is_refused_in_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_pretrain_config(tmp_path / "c.yaml")
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "c.yaml") in str(caught.value)


def test_tokens_of_a_non_square_clip() -> None:
    clip = ClipConfig(frames=8, size=(96, 160), patch=16)
    assert clip.tokens == (4, 6, 10)
    assert clip.token_count == 240


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"clip": {"frames": 15}}, "frames 15 is not a multiple of tubelet 2"),
        ({"clip": {"size": (100, 224)}}, "size 100×224 is not a multiple of patch 16"),
        ({"targets": {"pixel": {"weight": 0}}}, "no target has a weight above 0"),
        ({"targets": {"hog": {"weight": 1, "cell": 5}}}, "does not divide patch 16"),
        ({"augment": {"scales": (1.5,)}}, r"must be one or more numbers in \(0, 1\]"),
        ({"augment": {"scales": ()}}, "must be one or more numbers"),
        ({"mask": {"ratio": 1.0}}, "above 0 and below 1"),
        ({"model": {"decoder_heads": 5}}, "decoder_width 192 is not a multiple"),
        ({"model": {"decoder_depth": 0}}, "greater than or equal to 1"),
        ({"train": {"betas": (0.9, 1.0)}}, "less than 1"),
        ({"train": {"epochs": float("inf")}}, "finite"),
        ({"train": {"seed": 2**70}}, "at least 0 and below"),
        ({"motion": {"flow": "raft"}}, "raft needs weights"),
        ({"motion": {"weights": "w.pth"}}, "weights are for flow raft, and flow is dis"),
        ({"motion": {"flow": "exact"}}, "exact is for data moving-shapes, and data is 'x'"),
        ({"motion": {"flow": "codec", "visibility": "forward-backward"}}, "codec knows no way"),
        ({"motion": {"tracker": "a:b", "visibility": "forward-backward"}}, "use visibility frame"),
        ({"motion": {"tracker": "a:b", "camera": True}}, "a tracker gives none"),
        ({"motion": {"tracker": "a.b"}}, "match pattern"),
        ({"motion": {"length": 17}}, "at least 1 and at most 16"),
        (
            {"motion": {"upsample": 4, "seeds": 1}, "targets": {"trajectory": {"weight": 1}}},
            r"upsample 4 follows points 64 px apart, and size 224×224",
        ),
        ({"targets": {"mbh": {"weight": 1, "cell": 6}}}, r"targets\.mbh\.cell 6 does not divide"),
        ({"mask": {"decode": 0}}, "above 0 and at most 1"),
        ({"mask": {"high": 1.5}}, "at least 0 and at most 1"),
        ({"train": {"batch": 5, "accumulate": 2}}, "batch 5 is not a multiple of accumulate 2"),
        ({"augment": {"repeats": 0}}, "greater than or equal to 1"),
        (
            {"augment": {"repeats": 4}, "train": {"batch": 6}},
            r"train\.batch 6 is not a multiple of augment\.repeats 4",
        ),
        (
            {"augment": {"repeats": 2}, "data": "moving-shapes"},
            "augment.repeats 2: moving-shapes renders every clip",
        ),
    ],
)
def test_contradictions_are_named(settings: dict[str, object], words: str) -> None:
    base = {"data": "x", "out": "y", "targets": {"pixel": {"weight": 1}}}
    with pytest.raises(ValidationError) as caught:
        PretrainConfig.model_validate({**base, **settings})
    with pytest.raises(ConfigError, match=words):
        raise ConfigError(one_line(caught.value))


def test_only_motion_targets_need_trajectories() -> None:
    still = TargetsConfig.model_validate({"pixel": {"weight": 1}, "hog": {"weight": 0.5}})
    moving = TargetsConfig.model_validate({"pixel": {"weight": 1}, "trajectory_hog": {"weight": 1}})
    flowing = TargetsConfig.model_validate({"hof": {"weight": 1}})
    assert [t.needs_tracks for t in (still, moving, flowing)] == [False, True, False]
    assert [t.needs_flow for t in (still, moving, flowing)] == [False, False, True]
    assert list(moving.active) == ["pixel", "trajectory_hog"]


@pytest.mark.parametrize(
    ("field", "value"),
    [("lr", ()), ("lr", (0.0,)), ("weight_decay", ()), ("weight_decay", (-0.1,))],
)
def test_the_grid_of_the_probe_holds_what_can_be_tried(field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field):
        ProbeConfig.model_validate({"init": "x", "data": "y", field: value})
