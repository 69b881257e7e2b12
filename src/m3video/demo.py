"""The demo: does predicting motion teach motion, and predicting pixels not?

- pre-trains the same small video transformer twice on rendered moving shapes, for the same number
  of steps on the same clips: once with the motion targets of `mme`, once with VideoMAE's pixels;
- probes both, and an untrained one, on the motion classes of clips that neither saw;
- writes demo.json and the report with pictures. Run it with `make demo` or `m3video demo`.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from m3video.config import ProbeConfig
from m3video.errors import ConfigError
from m3video.recipes import recipe_config
from m3video.report.page import write_report
from m3video.train.pretrain import pretrain
from m3video.train.probe import probe
from m3video.whole import write_json

RUNS = {"motion": "mme-tiny", "pixel": "videomae-tiny"}


def demo(*, out: Path, steps: int, workers: int) -> dict[str, Any]:
    """Pre-train with motion and with pixel targets, probe, and report.

    A demo that was interrupted goes on where it was; one that is complete is refused.

    Args:
        out: folder for `motion/` and `pixel/` (run directories), demo.json and the report.
        steps: optimiser steps of each run.
        workers: data worker processes of each run.

    Returns:
        What demo.json holds: chance, untrained, pixel, motion (linear-probe accuracies, 0 to 1),
        the same by nearest neighbours under `knn`, steps, and seconds (of this call: less where an
        interrupted demo went on).

    Raises:
        ConfigError: `out` holds a finished demo.
    """
    console = Console(stderr=True)
    if (out / "demo.json").exists():
        raise ConfigError(f"{out} holds a finished demo: see its report, or remove it to run again")
    begin = time.monotonic()
    for number, (name, recipe) in enumerate(RUNS.items(), start=1):
        console.print(f"[bold]{number}/3[/] pre-training with {name} targets (recipe {recipe})")
        changes = {
            "train": {"steps": steps, "workers": workers},
            "resume": (out / name / "config.yaml").exists(),
        }
        pretrain(recipe_config(recipe, data="moving-shapes", out=out / name, changes=changes))
    console.print("[bold]3/3[/] probing frozen features on motion classes, and writing the report")
    motion = _probe(out / "motion", workers=workers)
    pixel = _probe(out / "pixel", workers=workers)
    untrained = _probe(out / "motion", workers=workers, untrained=True)
    result = {
        "chance": motion["chance"],
        "untrained": untrained["linear"],
        "pixel": pixel["linear"],
        "motion": motion["linear"],
        "knn": {"untrained": untrained["knn"], "pixel": pixel["knn"], "motion": motion["knn"]},
        "steps": steps,
    }
    bars = {name: result[name] for name in ("untrained", "pixel", "motion")}
    write_json(out / "motion" / "comparison.json", {"chance": result["chance"], "bars": bars})
    page = write_report(out / "motion")
    result["seconds"] = time.monotonic() - begin
    write_json(out / "demo.json", result)
    Console().print(_table(result))
    print(f"report: {page}")
    return result


def _probe(run: Path, *, workers: int, untrained: bool = False) -> dict[str, Any]:
    return probe(ProbeConfig(init=run, data="moving-shapes", workers=workers, untrained=untrained))


def _table(result: dict[str, Any]) -> Table:
    table = Table(
        title="Motion classes from frozen features",
        title_justify="left",
        caption="Equal steps: how soon motion is learned, not how far pixels would get.",
        caption_justify="left",
    )
    table.add_column("pre-trained to predict")
    table.add_column("linear probe", justify="right")
    table.add_column("nearest neighbours", justify="right")
    for name, words in (("untrained", "nothing"), ("pixel", "pixels"), ("motion", "motion")):
        table.add_row(words, f"{result[name]:.1%}", f"{result['knn'][name]:.1%}")
    table.add_row("chance", f"{result['chance']:.1%}", f"{result['chance']:.1%}", style="dim")
    return table
