"""The verb `benchmark`: what is measured, and its options."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from m3video.cli.parse import overview, parse
from m3video.config import FlowName
from m3video.errors import ConfigError


def benchmark(arguments: list[str]) -> int:
    """Measure motion, loader, train, step or embed on this machine."""
    if not arguments or arguments[0] not in BENCHMARKS:
        if arguments[:1] in (["-h"], ["--help"]):
            print(overview("m3video benchmark", "|".join(BENCHMARKS), BENCHMARKS))
            return 0
        given = repr(arguments[0]) if arguments else "nothing"
        raise ConfigError(f"{given} cannot be measured: use one of {', '.join(BENCHMARKS)}")
    kind, *rest = arguments
    settings = parse(BENCHMARKS[kind], rest, verb=f"benchmark {kind}")
    path = settings.pop("json")
    from m3video.whole import write_json

    if path is not None and not path.parent.is_dir():
        raise ConfigError(f"--json {path}: there is no folder {path.parent}; make it first")
    if path is not None and path.is_dir():
        raise ConfigError(f"--json {path}: is a folder; give the name of a file to write")
    run, show = _benchmark_functions(kind)
    result = run(**settings)
    show(result)
    if path is not None:
        write_json(path, result)
    return 0


def _benchmark_motion(
    flow: Path | None = None,
    only: tuple[FlowName, ...] = (),
    weights: Path | None = None,
    repeats: int = 5,
    json: Path | None = None,
) -> dict[str, Any]:
    """Error of the flow estimators, and cost of the targets next to a training step.

    Args:
        flow: a folder of pairs NAME_frame1.png, NAME_frame2.png and NAME_flow.flo with known flow;
            without it ../shared/data/flow, if there is one.
        only: estimators to judge; without it, all that can be used here.
        weights: the file of RAFT's state dict.
        repeats: times that each thing is timed; the median counts.
        json: write the figures there.
    """
    beside = Path("../shared/data/flow")
    if flow is None and beside.is_dir():
        flow = beside
        print(f"pairs with known flow: {beside}", file=sys.stderr)
    return {"flow": flow, "only": only, "weights": weights, "repeats": repeats, "json": json}


def _benchmark_loader(
    videos: Path | None = None, clips: int = 40, json: Path | None = None
) -> dict[str, Any]:
    """Clips per second of the loader against plain decoding and decord, and of four clips a span.

    Args:
        videos: a folder of videos; without it, clips made on the spot.
        clips: spans that each side reads.
        json: write the figures there.
    """
    return {"videos": videos, "clips": clips, "json": json}


def _benchmark_train(
    task: Literal["pretrain", "finetune"] = "pretrain",
    size: Literal["nano", "ti", "s", "b", "l", "h"] = "s",
    batch: int = 2,
    repeats: int = 5,
    threads: int = 1,
    device: str = "cpu",
    json: Path | None = None,
) -> dict[str, Any]:
    """Our training step against that of transformers' VideoMAE of the same size.

    Args:
        task: pretrain, against VideoMAEForPreTraining; finetune, against
            VideoMAEForVideoClassification.
        size: of the encoder.
        batch: clips a step.
        repeats: steps of each that are timed; the median counts.
        threads: CPU threads.
        device: cpu, cuda, or any torch device.
        json: write the figures there.
    """
    return {
        "task": task,
        "size": size,
        "batch": batch,
        "repeats": repeats,
        "threads": threads,
        "device": device,
        "json": json,
    }


def _benchmark_step(
    recipe: str = "mme",
    size: Literal["nano", "ti", "s", "b", "l", "h", "g"] | None = None,
    batch: int = 2,
    steps: int = 5,
    workers: int = 0,
    threads: int = 1,
    device: str = "cpu",
    compile: bool = False,
    videos: Path | None = None,
    json: Path | None = None,
) -> dict[str, Any]:
    """Our whole training step, from files to the update: clips/s, utilisation, memory, its parts.

    Args:
        recipe: what is trained.
        size: of the encoder; without it, that of the recipe.
        batch: clips a step.
        steps: steps that are timed, after two for warming up; the median counts.
        workers: data worker processes; 0 loads in the step's time.
        threads: CPU threads.
        device: cpu, cuda, or any torch device.
        compile: run the model through torch.compile.
        videos: a folder or list of videos; without it, clips made on the spot.
        json: write the figures there.
    """
    return {
        "recipe": recipe,
        "size": size,
        "batch": batch,
        "steps": steps,
        "workers": workers,
        "threads": threads,
        "device": device,
        "compile": compile,
        "videos": videos,
        "json": json,
    }


def _benchmark_embed(
    videos: Path | None = None, count: int = 8, json: Path | None = None
) -> dict[str, Any]:
    """Videos per second of embed against decoding the same frames.

    Args:
        videos: a folder or list of videos; without it, clips made on the spot.
        count: videos that each side reads.
        json: write the figures there.
    """
    return {"videos": videos, "count": count, "json": json}


def _benchmark_functions(
    kind: str,
) -> tuple[Callable[..., dict[str, Any]], Callable[[dict[str, Any]], Any]]:
    module = import_module(f"m3video.benchmark.{kind}")
    return getattr(module, f"benchmark_{kind}"), module.print_table


BENCHMARKS: dict[str, Callable[..., dict[str, Any]]] = {
    "motion": _benchmark_motion,
    "loader": _benchmark_loader,
    "train": _benchmark_train,
    "step": _benchmark_step,
    "embed": _benchmark_embed,
}
