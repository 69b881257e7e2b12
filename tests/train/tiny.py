"""The smallest run that is still the real thing: the nano encoder on 4 frames of 32×48."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from m3video.config import PretrainConfig
from m3video.recipes import merge

TIMES = {"time", "clips_per_second", "data_wait"}

SETTINGS: dict[str, Any] = {
    "data": "moving-shapes",
    "clip": {"frames": 4, "stride": 2, "size": (32, 48), "patch": 8},
    "mask": {"ratio": 0.7},
    "motion": {"flow": "dis-ultrafast", "length": 3},
    "targets": {
        "trajectory": {"weight": 1.0, "clamp": 6.0, "scale": 1.5},
        "trajectory_hog": {"weight": 0.5, "cell": 4},
    },
    "model": {"size": "nano", "decoder_width": 48},
    "train": {
        "batch": 4,
        "steps": 6,
        "lr": 6.4e-2,  # 1e-3 at batch 4
        "workers": 0,
        "checkpoint_every": 4,
        "device": "cpu",
    },
    "shapes": {"clips": 16, "texture": "noise"},
}


def tiny_config(out: Path, **changes: Any) -> PretrainConfig:
    """The config, with nested changes laid over it."""
    return PretrainConfig.model_validate({**merge(SETTINGS, changes), "out": out})


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """All lines of metrics.jsonl."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def without_times(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines, less what is a time and differs between two runs of the same thing."""
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]
