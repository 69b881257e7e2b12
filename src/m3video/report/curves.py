"""Curves and key figures of a run from what it logged, whatever kind of run it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from m3video.report.facts import Metrics, duration
from m3video.report.plots import Chart, number
from m3video.train.health import EXPLAINED, RANK

LOSSES = {"cross_entropy": "Cross-entropy", "binary_cross_entropy": "Binary cross-entropy"}
"""What the losses of classifiers and detectors are called."""


@dataclass(frozen=True)
class Figure:
    """A key figure."""

    name: str
    value: str
    unit: str = ""
    note: str = ""


def target_titles(targets: Sequence[str]) -> dict[str, str]:
    """What the losses of a pre-training are called."""
    return {name: f"Loss of {words(name)}" for name in targets}


def metric_charts(metrics: Metrics, losses: Mapping[str, str]) -> list[Chart]:
    """Total loss, its parts, then how the optimiser and the machine fared.

    Args:
        metrics: of the run.
        losses: the parts of the loss and their titles; of one alone no total is drawn.
    """
    parts = [(f"loss/{name}", title, "", True) for name, title in losses.items()]
    if len(parts) > 1:
        parts.insert(0, ("loss", "Loss", "weighted sum", True))
    elif not metrics.present(parts[0][0]):
        parts = [("loss", "Loss", "", True)]
    wanted = [
        *parts,
        ("lr", "Learning rate", "", False),
        ("grad_norm", "Gradient norm", "", True),
        ("clips_per_second", "Speed", "clips/s", True),
    ]
    charts = [
        Chart(
            title,
            unit,
            metrics.steps,
            metrics.column(key),
            smooth,
            log=False if key == "lr" else None,
        )
        for key, title, unit, smooth in wanted
    ]
    return [*charts, *_health_charts(metrics)]


def _health_charts(metrics: Metrics) -> list[Chart]:
    """What `m3video.train.health` measures, on the steps that were measured."""
    titles = {
        key: (f"Explained of {words(key.removeprefix(EXPLAINED))}", "share of its variance")
        for key in metrics.columns
        if key.startswith(EXPLAINED)
    }
    titles[RANK] = "Effective rank of the features", "directions"
    charts = []
    for key, (title, unit) in titles.items():
        pairs = zip(metrics.steps, metrics.column(key), strict=True)
        points = [(step, value) for step, value in pairs if value is not None]
        if points:
            steps, values = zip(*points, strict=True)
            charts.append(Chart(title, unit, steps, values, smooth=False, log=False))
    return charts


def words(name: str) -> str:
    """A setting's name as a reader's."""
    return name.replace("_", " ")


def ends(values: Sequence[float]) -> tuple[float, float]:
    """Means of the first and of the last twentieth of some values (at least one of them)."""
    few = max(1, len(values) // 20)
    return fmean(values[:few]), fmean(values[-few:])


def key_figures(
    metrics: Metrics, losses: Mapping[str, str], steps: int | None, unreadable: int
) -> list[Figure]:
    """The figures at the top of the page; those that the metrics lack are left out.

    Args:
        metrics: of the run.
        losses: the parts of the loss, and what they are called among the figures.
        steps: of the whole run, where that is known.
        unreadable: videos.
    """
    figures = []
    if metrics.steps:
        planned = f"of {steps:,}" if steps else ""
        figures.append(Figure("Steps", f"{metrics.steps[-1]:,}", planned))
    for name, title in losses.items():
        if values := metrics.present(f"loss/{name}"):
            first, last = (number(float(f"{value:.3g}")) for value in ends(values))
            figures.append(Figure(title, last, note=f"from {first}"))
    if rates := metrics.present("clips_per_second"):
        figures.append(Figure("Speed", number(float(f"{median(rates):.3g}")), "clips/s"))
    if times := metrics.present("time"):
        figures.append(Figure("Time", duration(times[-1])))
    if waits := metrics.present("data_wait"):
        figures.append(Figure("Waiting for data", f"{100 * fmean(waits):.1f} %"))
    bad = metrics.present("bad_steps")
    figures.append(Figure("Bad steps", f"{int(bad[-1]) if bad else 0:,}"))
    figures.append(Figure("Unreadable videos", f"{unreadable:,}"))
    return figures
