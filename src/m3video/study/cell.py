"""One cell of a study with one seed: pre-train, probe, fine-tune, and write result.json last."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import cv2
import torch

from m3video.config import ClipConfig, ProbeConfig, ShortFinetuneConfig
from m3video.errors import ConfigError
from m3video.model.checkpoint import load_encoder, save_model
from m3video.model.vit import build_encoder
from m3video.study.grid import MOVING_SHAPES, Task
from m3video.train.environment import describe_environment
from m3video.train.finetune import finetune
from m3video.train.labelled import LabelledClips, rendered, shapes_test, shapes_train
from m3video.train.pretrain import pretrain
from m3video.train.probe import probe, probe_metadata, probe_shapes
from m3video.train.run import RunDirectory
from m3video.train.step import choose_device
from m3video.whole import write_json

_VERSIONS = ("started", "python", "packages", "git", "platform", "device_name", "torch_threads")


@dataclass(frozen=True)
class LabelledSets:
    """What moving-shapes cells of the same clips are probed and tuned on."""

    train: LabelledClips
    test: LabelledClips


def labelled_sets(
    clip: ClipConfig, config: ProbeConfig, cache: Path, *, workers: int = 0
) -> LabelledSets:
    """Read the sets from a folder, or render them into it."""
    height, width = clip.size
    shape = f"{clip.frames}x{height}x{width}-stride{clip.stride}-{config.texture}"
    train = [shapes_train(clip, config.train_clips, config.texture)]
    test = shapes_test(clip, config.test_clips, config.texture)
    return LabelledSets(
        rendered(train, cache / f"train-{config.train_clips}-{shape}.npy", workers=workers),
        rendered(test, cache / f"test-{config.test_clips}-{shape}.npy", workers=workers),
    )


def run_cell(task: Task, *, threads: int, workers: int | None) -> dict[str, Any]:
    """Run a cell, or go on with it, and write its result.json.

    Args:
        task: what to run.
        threads: of torch and OpenCV, in this process.
        workers: data worker processes; None leaves them to the cell's settings.

    Returns:
        What result.json holds: cell, seed, kind, settings, probe (accuracies, chance, by_texture,
        few_shot, as `probe` gives them), finetune {labels: accuracy}, finetune_by_texture, loss
        {target: at the end}, seconds (in all), parts {pretrain, probe, finetune: seconds} and
        versions.

    Raises:
        M3VideoError: as `pretrain`, `probe` and `finetune`.
    """
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    try:
        return _run(task, workers)
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


def _run(task: Task, workers: int | None) -> dict[str, Any]:
    parts = {}
    begin = time.perf_counter()
    if task.kind == "pretrained":
        _pretrain(task, workers)
    elif task.kind == "untrained":
        _fresh_weights(task)
    # A cell that was pre-trained before the study changed has metrics that are not its own now.
    trained = task.kind == "pretrained"
    metrics = _metrics(task.path / "metrics.jsonl") if trained else {}
    # A run that was interrupted took the time of all its steps, not that of this call.
    parts["pretrain"] = max(time.perf_counter() - begin, metrics.get("time", 0.0))
    begin = time.perf_counter()
    measured = _probe(task, workers)
    parts["probe"] = time.perf_counter() - begin
    begin = time.perf_counter()
    tuned = _finetune(task)
    parts["finetune"] = time.perf_counter() - begin
    environment = describe_environment("cpu")
    result = {
        "cell": task.cell,
        "seed": task.seed,
        "kind": task.kind,
        "probe": {
            name: measured[name]
            for name in ("linear", "attentive", "knn", "chance", "by_texture", "few_shot")
            if name in measured
        },
        "finetune": {name: found["accuracy"] for name, found in tuned.items()},
        "finetune_by_texture": {name: found["by_texture"] for name, found in tuned.items()},
        "loss": {name: value for name, value in metrics.items() if name.startswith("loss")},
        "seconds": round(sum(parts.values()), 1),
        "parts": {name: round(seconds, 1) for name, seconds in parts.items()},
        "versions": {name: environment[name] for name in _VERSIONS},
        "settings": task.settings(),
    }
    write_json(task.result, result)
    return result


def _pretrain(task: Task, workers: int | None) -> None:
    config = task.pretrain
    started = RunDirectory(config.out).config.exists()
    if workers is not None:
        train = config.train.model_copy(update={"workers": workers})
        config = config.model_copy(update={"train": train})
    pretrain(config.model_copy(update={"resume": started}))


def _fresh_weights(task: Task) -> None:
    torch.manual_seed(task.seed)
    config = task.pretrain
    encoder = build_encoder(config.clip, config.model.size)
    save_model(encoder, RunDirectory(task.path).model, config.clip)


def _probe(task: Task, workers: int | None) -> dict[str, Any]:
    config = task.probe
    if workers is not None:
        config = config.model_copy(update={"workers": workers})
    if task.kind == "metadata":
        return probe_metadata(config)
    if task.cache is None:
        return probe(config)
    encoder = load_encoder(task.path)
    sets = labelled_sets(encoder.clip, config, task.cache)
    # Clips that are mapped into memory are read faster than handed over by another process.
    here = config.model_copy(update={"workers": 0})
    measured = {
        "data": config.data,
        "init": task.name,
        **probe_shapes(
            encoder, sets.train, [sets.test], sets.test.textures, here, choose_device(here.device)
        ),
        "labels": list(sets.train.labels),
    }
    write_json(task.path / f"probe-{MOVING_SHAPES}.json", measured)
    return measured


def _finetune(task: Task) -> dict[str, dict[str, Any]]:
    """What fine-tuning gave, by number of labels."""
    if task.finetune is None or task.kind == "metadata":
        return {}
    if task.cache is None:
        raise ConfigError("finetune: is for probe data moving-shapes")
    settings = task.finetune.model_dump(exclude={"labels"})
    config = ShortFinetuneConfig.model_validate({**settings, "seed": task.seed})
    found = {}
    for labels in task.finetune.labels:
        encoder = load_encoder(task.path)
        sets = labelled_sets(encoder.clip, task.probe, task.cache)
        found[str(labels)] = finetune(encoder, sets.train.first(labels), sets.test, config)
    return found


def _metrics(path: Path) -> dict[str, float]:
    """Losses over the last twentieth of the lines of metrics.jsonl, and the time at the end."""
    if not path.exists():
        return {}
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    few = lines[-max(1, len(lines) // 20) :]
    names = [name for name in lines[-1] if name == "loss" or name.startswith("loss/")]
    values = {name: [line[name] for line in few if line[name] is not None] for name in names}
    means = {name: fmean(found) for name, found in values.items() if found}
    return {**means, "time": lines[-1]["time"]}
