"""What the files of a run directory say; a half-written run is read as far as it goes."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from m3video.config import (
    DetectTrainConfig,
    FinetuneConfig,
    PretrainConfig,
    load_config,
    load_pretrain_config,
)
from m3video.errors import CheckpointError
from m3video.train.optim import total_steps
from m3video.train.run import RunConfig, RunDirectory


@dataclass(frozen=True)
class Metrics:
    """metrics.jsonl by column; None where a step has no finite value."""

    steps: list[int]
    columns: dict[str, list[float | None]]

    def column(self, name: str) -> list[float | None]:
        """Values of one key, one a step; all None if no line has it."""
        return self.columns.get(name, [None] * len(self.steps))

    def present(self, name: str) -> list[float]:
        """The finite values of one key."""
        return [value for value in self.column(name) if value is not None]


def read_run_config(run: Path) -> PretrainConfig:
    """The config of a pre-training run.

    Raises:
        CheckpointError: not a run directory.
        ConfigError: config.yaml is broken, or that of another kind of run.
    """
    return load_pretrain_config(_config_path(run))


def read_any_config(run: Path) -> RunConfig:
    """The config of a run of any kind, which is known by a setting that no other kind has.

    Raises:
        CheckpointError: not a run directory.
        ConfigError: config.yaml is broken.
    """
    path = _config_path(run)
    try:
        names = yaml.safe_load(path.read_text(encoding="utf-8", errors="replace"))
    except (ValueError, OverflowError, RecursionError, yaml.YAMLError):
        names = None  # `load_config` tells what is wrong
    if isinstance(names, dict) and "views" in names:
        return load_config(FinetuneConfig, path)
    if isinstance(names, dict) and "split" in names:
        return load_config(DetectTrainConfig, path)
    return load_pretrain_config(path)


def _config_path(run: Path) -> Path:
    path = RunDirectory(run).config
    if not path.is_file():
        raise CheckpointError(
            f"{run}: not a run directory (no config.yaml); give one that pretrain, finetune or "
            "detect train made"
        )
    return path


def read_metrics(path: Path) -> Metrics:
    """Read metrics.jsonl in the order of steps: cut-off lines count for nothing."""
    by_step: dict[int, Mapping[str, Any]] = {}
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    for line in text.splitlines():
        try:
            row = json.loads(line)
            by_step[int(row["step"])] = row
        except (ValueError, KeyError, TypeError):
            continue
    steps = sorted(by_step)
    names = {name for row in by_step.values() for name in row} - {"step"}
    columns = {name: [_finite(by_step[step].get(name)) for step in steps] for name in sorted(names)}
    return Metrics(steps, columns)


def _finite(value: Any) -> float | None:
    usable = isinstance(value, int | float) and math.isfinite(value)
    return float(value) if usable else None


def read_json_or_none(path: Path) -> dict[str, Any] | None:
    """A JSON object, or None if the file is missing or holds anything else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def read_unreadable(path: Path) -> list[tuple[str, str]]:
    """(path, reason) of every line of unreadable.csv."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        return [(row.get("path") or "", row.get("reason") or "") for row in csv.DictReader(file)]


def planned_steps(run: Path, config: PretrainConfig) -> int | None:
    """Steps of a pre-training in all; None if that hangs on a list of videos that is not there."""
    if config.train.steps is not None or config.data == "moving-shapes":
        return total_steps(config.train, config.shapes.clips)
    try:
        with RunDirectory(run).manifest.open(newline="", encoding="utf-8") as file:
            return total_steps(config.train, sum(1 for _ in csv.DictReader(file)))
    except (OSError, UnicodeDecodeError, csv.Error):
        return None


def steps_by_metrics(config: RunConfig, metrics: Metrics) -> int | None:
    """Steps of any run in all, by how many make an epoch; None before the first is logged."""
    if config.train.steps is not None:
        return config.train.steps
    epochs = metrics.column("epoch")
    if not metrics.steps or not epochs[-1]:
        return None
    return max(round(config.train.epochs * metrics.steps[-1] / epochs[-1]), 1)


def config_text(config: RunConfig) -> str:
    """The config as YAML, as config.yaml has it."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def flat_pairs(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested JSON as (dotted name, text) pairs; numbered where there is a list of objects."""
    pairs: list[tuple[str, str]] = []
    for name, item in value.items():
        if isinstance(item, Mapping):
            pairs += flat_pairs(item, f"{prefix}{name}.")
        elif isinstance(item, list) and any(isinstance(entry, Mapping) for entry in item):
            pairs += flat_pairs({str(i): entry for i, entry in enumerate(item)}, f"{prefix}{name}.")
        elif item is not None and item != []:
            pairs.append((prefix + name, str(item)))
    return pairs


def summary(config: PretrainConfig) -> str:
    """What was trained, in one or two sentences."""
    clip, model = config.clip, config.model
    height, width = clip.size
    named = [
        name.replace("_", " ") + ("" if target.weight == 1 else f" × {target.weight:g}")
        for name, target in config.targets.active.items()
    ]
    targets = " and ".join([", ".join(named[:-1]), named[-1]] if named[:-1] else named)
    encoder = "A nano encoder" if model.size == "nano" else f"A ViT-{model.size.capitalize()}"
    return (
        f"{encoder}, trained on {config.data} to predict {targets} of hidden tokens. "
        f"Clips of {clip.frames} frames at stride {clip.stride}, {height}×{width} pixels, "
        f"tokens of {clip.tubelet}×{clip.patch}×{clip.patch}; "
        f"{_mask_words(config)}{_motion_words(config)}. "
        f"Decoder {model.decoder_depth} deep and {model.decoder_width} wide; "
        f"batch {config.train.batch}."
    )


def _mask_words(config: PretrainConfig) -> str:
    mask = config.mask
    part = f", {mask.decode:g} of what is hidden decoded" if mask.decode < 1 else ""
    return f"{mask.kind} mask {mask.ratio:g}{part}"


def _motion_words(config: PretrainConfig) -> str:
    """How motion is found, if it is; nothing for a run that needs none."""
    motion = config.motion
    source = f"{motion.flow} flow" if motion.tracker is None else f"the tracker {motion.tracker}"
    without = ", the camera's motion removed" if motion.camera else ""
    frames = "" if config.plan_step == 1 else f" of {config.plan_step} raw frames each"
    if config.needs_tracks:
        return f"; trajectories of {motion.length} steps{frames} by {source}{without}"
    return f"; motion by {source}{without}" if config.plan_length else ""


def duration(seconds: float) -> str:
    """45 s, 6 min 10 s, 3 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
