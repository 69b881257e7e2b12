"""A fine-tuned run or a detector in words and numbers: from what, on what, how, how well."""

from __future__ import annotations

import csv
import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m3video.config import ClipConfig, DetectTrainConfig, FinetuneConfig
from m3video.finetune_recipes import FINETUNE_RECIPES, finetune_config
from m3video.model.checkpoint import CONFIG, DETECTION, LABELS
from m3video.report.curves import Figure
from m3video.report.evaluation import Classified, Detected
from m3video.report.facts import read_json_or_none
from m3video.train.multiview import MOVING_SHAPES
from m3video.train.run import RunDirectory, flatten
from m3video.video.moving_shapes import CLASSES

Tuned = FinetuneConfig | DetectTrainConfig


@dataclass(frozen=True)
class Changed:
    """A setting that is not what it would be without being given."""

    name: str
    value: str
    default: str


def lead(run: Path, config: Tuned) -> str:
    """What was trained, in one or two sentences."""
    model = read_json_or_none(RunDirectory(run).model / CONFIG) or {}
    what, one, many = ("A classifier", "class", "classes")
    if isinstance(config, DetectTrainConfig):
        what, one, many = ("A detector", "action", "actions")
    names = model.get(LABELS) or model.get(DETECTION)
    of = f" of {len(names)} {many if len(names) != 1 else one}" if isinstance(names, list) else ""
    weights = f"from the encoder of {config.init}"
    if isinstance(config, FinetuneConfig) and config.scratch:
        weights = f"from fresh weights, with the architecture of {config.init}"
    return f"{what}{of}, trained {weights} on {config.data}, all weights.{_clip(model)}"


def _clip(model: Mapping[str, Any]) -> str:
    try:
        clip = ClipConfig.model_validate(model["clip"])
    except (KeyError, ValueError):
        return ""
    height, width = clip.size
    return (
        f" Clips of {clip.frames} frames at stride {clip.stride}, {height}×{width} pixels, "
        f"tokens of {clip.tubelet}×{clip.patch}×{clip.patch}."
    )


def facts(run: Path, config: Tuned) -> list[tuple[str, str]]:
    """What a reader asks first: weights, data, counts, recipe, machine."""
    rows = [("Weights from", str(config.init)), ("Data", str(config.data))]
    if isinstance(config, FinetuneConfig):
        rows += _finetune_facts(run, config)
    else:
        rows.append(("Key frames", f"those of split {config.split}"))
    train = config.train
    rows.append(("Batch", f"{train.batch:,}, peak learning rate {train.lr:g} × batch / 256"))
    found = read_json_or_none(RunDirectory(run).environment) or {}
    machine = [found.get("device_name"), found.get("platform"), _cores(found)]
    rows.append(("Machine", ", ".join(str(part) for part in machine if part)))
    rows.append(("Started", str(found.get("started") or "")))
    rows.append(("Versions", _versions(found)))
    return [(name, value) for name, value in rows if value]


def _cores(environment: Mapping[str, Any]) -> str:
    cores, threads = environment.get("cpu_cores"), environment.get("torch_threads")
    return f"{cores} cores, {threads} threads" if cores and threads else ""


def _versions(environment: Mapping[str, Any]) -> str:
    packages = environment.get("packages")
    known = packages if isinstance(packages, dict) else {}
    return ", ".join(f"{name} {known[name]}" for name in ("m3video", "torch") if known.get(name))


def _finetune_facts(run: Path, config: FinetuneConfig) -> list[tuple[str, str]]:
    name, changes = nearest_recipe(config)
    but = f", but for {', '.join(changes)}" if changes else ""
    views = f"{config.views.segments} × {config.views.crops} a video"
    return [
        ("Videos", _counts(run, config)),
        ("Sampling", f"{config.sampling}; tested on {views}"),
        ("Recipe", f"{name}{but}"),
    ]


def _counts(run: Path, config: FinetuneConfig) -> str:
    """Videos to train on and to test; empty where the list of videos cannot be read."""
    if config.data == MOVING_SHAPES:
        count, each = config.shapes.train_clips, config.labels
        count = count if each is None else min(count, each * len(CLASSES))
        return f"{count:,} rendered clips to train on, {config.shapes.test_clips:,} to test"
    try:
        with RunDirectory(run).manifest.open(
            encoding="utf-8", errors="replace", newline=""
        ) as file:
            rows = [
                (row.get("split") or "", row.get("label") or "") for row in csv.DictReader(file)
            ]
    except (OSError, csv.Error):
        return ""
    splits = {split for split, _ in rows}
    trained = Counter(label for split, label in rows if split == ("train" if any(splits) else ""))
    most = config.labels or len(rows)
    used = sum(min(count, most) for count in trained.values())
    held = next((split for split in ("test", "val") if split in splits), "")
    tested = sum(bool(label) for split, label in rows if split == held)
    return f"{used:,} of {len(trained):,} classes to train on, " + (
        f"{tested:,} held out ({held})" if held else "none held out"
    )


def nearest_recipe(config: FinetuneConfig) -> tuple[str, list[str]]:
    """The named settings that a run is nearest to, and the names of those that differ."""
    differing = {
        name: [
            change.name
            for change in changed(
                config, finetune_config(name, init=config.init, data=config.data, out=config.out)
            )
        ]
        for name in FINETUNE_RECIPES
    }
    name = min(differing, key=lambda name: len(differing[name]))
    return name, differing[name]


def defaults(config: Tuned) -> Tuned:
    """The config of the same run with nothing else given."""
    if isinstance(config, FinetuneConfig):
        return FinetuneConfig(init=config.init, data=config.data, out=config.out)
    return DetectTrainConfig(init=config.init, data=config.data, out=config.out)


def changed(config: Tuned, others: Tuned) -> list[Changed]:
    """Settings of a run that differ from those of another config with the same init, data, out."""
    before = flatten(others.model_dump(mode="json"))
    return [
        Changed(name, _text(value), _text(before[name]))
        for name, value in flatten(config.model_dump(mode="json")).items()
        if value != before[name]
    ]


def _text(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def accuracy_figures(found: Classified | Detected | None) -> list[Figure]:
    """What comes first of the figures at the top: how well it does."""
    if found is None:
        return []
    if isinstance(found, Detected):
        return [Figure("Frame mAP", f"{100 * found.map:.1f}", "%")]
    chance = f"chance {100 * found.chance:.1f} %"
    return [
        Figure("Top-1", f"{100 * found.top1:.1f}", "%", chance),
        Figure("Top-5", f"{100 * found.top5:.1f}", "%", f"of {found.classes:,} classes"),
        Figure("Mean over classes", f"{100 * found.mean_class:.1f}", "%"),
    ]


def how_to_test(run: Path, config: Tuned) -> str:
    """What to do where nothing was tested yet."""
    place = shlex.quote(str(run))
    verb, data = "evaluate", "DATA"
    if isinstance(config, DetectTrainConfig):
        verb, data = "detect evaluate", shlex.quote(str(config.data))
    return (
        f"Nothing was tested yet. Do so with: m3video {verb} --model {place} --data {data} "
        f"--out {place}/evaluation, and write this page again."
    )
