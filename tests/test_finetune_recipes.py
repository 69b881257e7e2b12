"""The named settings of fine-tuning are those of the papers, and each is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from m3video.config import FinetuneConfig
from m3video.errors import ConfigError
from m3video.finetune_recipes import FINETUNE_RECIPES, finetune_config


def config(name: str, **changes: object) -> FinetuneConfig:
    return finetune_config(name, init=Path("i"), data="d", out=Path("o"), changes=changes)


@pytest.mark.parametrize(
    ("name", "lr", "epochs", "sampling", "views"),
    [
        ("kinetics", 1e-3, 75, "dense", (7, 3)),
        ("ssv2", 5e-4, 30, "segment", (2, 3)),
        ("ucf101", 1e-3, 100, "dense", (10, 3)),
        ("hmdb51", 1e-3, 100, "dense", (10, 3)),
    ],
)
def test_the_papers_settings(
    name: str, lr: float, epochs: int, sampling: str, views: tuple[int, int]
) -> None:
    found = config(name)
    assert (found.train.lr, found.train.epochs, found.sampling) == (lr, epochs, sampling)
    assert (found.views.segments, found.views.crops) == views
    assert found.train.warmup * found.train.epochs == pytest.approx(5)
    assert found.train.betas == (0.9, 0.999)
    assert found.train.weight_decay == 0.05
    assert found.train.layer_decay == 0.75
    assert found.train.drop_path == found.train.label_smoothing == 0.1
    augment = found.augment
    assert (augment.repeats, augment.erasing, augment.mixup, augment.cutmix) == (2, 0.25, 0.8, 1.0)
    assert (augment.operations, augment.magnitude, augment.magnitude_std) == (4, 7.0, 0.5)


def test_tiny_is_plain() -> None:
    """At 1.5e-3 a step of 16, as was chosen for it, and without what needs long training."""
    found = config("tiny", train={"steps": 9})
    assert found.train.steps == 9
    assert found.train.lr * found.train.batch / 256 == pytest.approx(1.5e-3)
    assert found.augment.operations == found.augment.mixup == found.train.drop_path == 0


def test_bad_names_and_values_are_one_line() -> None:
    with pytest.raises(ConfigError, match=f"use one of {', '.join(FINETUNE_RECIPES)}"):
        config("k400")
    with pytest.raises(
        ConfigError, match=r"train\.drop_path: Input should be at least 0 and below 1"
    ):
        config("ssv2", train={"drop_path": 1})
    with pytest.raises(ConfigError, match="must be one or more numbers"):
        config("ssv2", augment={"scales": (1.5,)})
