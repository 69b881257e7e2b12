"""The smallest study that is still the real thing: 4 frames of 32×48, two steps, a few clips."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from m3video.config import StudyConfig
from m3video.recipes import merge

SETTINGS: dict[str, Any] = {
    "name": "Nano",
    "data": "moving-shapes",
    "base": {
        "clip": {"frames": 4, "size": [32, 48]},
        "model": {"decoder_width": 24},
        "train": {"steps": 2, "batch": 4, "workers": 0, "checkpoint_every": 1},
        "shapes": {"clips": 8, "texture": "noise"},
    },
    "probe": {"train_clips": 13, "test_clips": 26, "epochs": 2, "lr": [0.1], "weight_decay": [0]},
    "cells": {"plain": {"recipe": "videomae-tiny"}, "fresh": {"pretrain": False}},
}


def nano(**changes: Any) -> StudyConfig:
    """The study, with nested changes laid over it; `cells` are replaced as a whole."""
    return StudyConfig.model_validate(nano_settings(**changes))


def nano_settings(**changes: Any) -> dict[str, Any]:
    """The same as a mapping."""
    settings = merge(SETTINGS, changes)
    return {**settings, "cells": changes.get("cells", SETTINGS["cells"])}


def write_nano(path: Path, **changes: Any) -> Path:
    """The same as a YAML file."""
    path.write_text(yaml.safe_dump(nano_settings(**changes), sort_keys=False))
    return path
