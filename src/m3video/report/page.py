"""The report of a run: one HTML page that needs nothing but itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from m3video.config import PretrainConfig
from m3video.model.checkpoint import write_whole
from m3video.report.facts import (
    Metrics,
    config_text,
    duration,
    flat_pairs,
    planned_steps,
    read_json_or_none,
    read_metrics,
    read_run_config,
    read_unreadable,
    summary,
)
from m3video.report.film import data_url
from m3video.report.glyphs import PARTS, heat_gradient, wheel_png
from m3video.report.legend import Entry, ScoreRow, legend, score_rows
from m3video.report.painters import scales
from m3video.report.panels import ClipFilms, clip_films, film_limit
from m3video.report.plots import Chart, line_chart, number
from m3video.report.probes import Bars, ProbeSection, comparison, probe_sections
from m3video.report.samples import Samples, sample_clips
from m3video.train.run import RunDirectory

LISTED = 50
"""Unreadable videos that are listed by name."""
CLIPS = 4
"""Clips that are shown."""


@dataclass(frozen=True)
class Figure:
    """A key figure."""

    name: str
    value: str
    unit: str = ""
    note: str = ""


@dataclass(frozen=True)
class Page:
    """All that the template reads."""

    name: str
    summary: str
    warnings: list[str]
    figures: list[Figure]
    charts: list[dict[str, Any]]
    window: int
    bad_marks: bool
    samples: Samples
    clips: list[ClipFilms]
    comparison: Bars | None
    probes: list[ProbeSection]
    config: str
    environment: list[tuple[str, str]]
    unreadable: list[tuple[str, str]]
    unreadable_count: int
    legend: list[Entry] = field(default_factory=list)
    scores: list[ScoreRow] = field(default_factory=list)
    heat: str = ""
    wheel: str = ""
    parts: tuple[str, ...] = ()


def write_report(run: Path) -> Path:
    """Write `report.html` into a run directory, whole or not at all.

    The page shows the key figures, loss curves, a few clips with what the model predicts for them,
    probe results (`probe*.json`, `comparison.json`), the config, the environment and the unreadable
    videos. It reads no other file and no network. What a run lacks is said or left out.

    Raises:
        CheckpointError: `run` is not a run directory, or its checkpoint does not fit its config.
        ConfigError: its config.yaml is broken.
    """
    config = read_run_config(run)
    page = collect(run, config)
    path = run / "report.html"
    write_whole(path, render(page).encode("utf-8", "replace"))
    return path


def render(page: Page) -> str:
    """The page as HTML; every string that came from outside is escaped."""
    environment = Environment(
        loader=PackageLoader("m3video.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template("page.html.j2").render(page=page)


def collect(run: Path, config: PretrainConfig) -> Page:
    """Read all files of a run and compute its sample clips."""
    metrics = read_metrics(RunDirectory(run).metrics)
    unreadable = read_unreadable(RunDirectory(run).unreadable)
    steps = planned_steps(run, config)
    charts = metric_charts(metrics, list(config.targets.active))
    drawn = [(chart, svg) for chart in charts if (svg := line_chart(chart)) is not None]
    samples = sample_clips(run, config, count=CLIPS)
    shown = scales(samples.clips)
    limit = film_limit(samples.clips, shown)
    return Page(
        name=run.resolve().name,
        summary=summary(config),
        warnings=warnings(run, metrics, steps),
        figures=key_figures(config, metrics, steps, len(unreadable)),
        charts=[{"title": chart.title, "unit": chart.unit, "svg": svg} for chart, svg in drawn],
        window=max((chart.window for chart, _ in drawn), default=1),
        bad_marks=any(value is None for chart, _ in drawn for value in chart.values),
        samples=samples,
        clips=[clip_films(sample, shown, limit) for sample in samples.clips],
        comparison=comparison(run),
        probes=probe_sections(run),
        config=config_text(config),
        environment=flat_pairs(read_json_or_none(RunDirectory(run).environment) or {}),
        unreadable=unreadable[:LISTED],
        unreadable_count=len(unreadable),
        legend=legend(samples.clips, shown),
        scores=score_rows(samples.clips),
        heat=heat_gradient(),
        wheel=data_url(wheel_png(), "image/png"),
        parts=tuple(f"rgb({red} {green} {blue})" for red, green, blue in PARTS),
    )


def metric_charts(metrics: Metrics, targets: Sequence[str]) -> list[Chart]:
    """Total loss, each target's, then how the optimiser and the machine fared."""
    wanted = [("loss", "Loss", "weighted sum", True)]
    if len(targets) > 1:
        wanted += [(f"loss/{name}", f"Loss of {_words(name)}", "", True) for name in targets]
    else:
        wanted = [(f"loss/{targets[0]}", f"Loss of {_words(targets[0])}", "", True)]
        if not metrics.present(wanted[0][0]):
            wanted = [("loss", "Loss", "", True)]
    wanted += [
        ("lr", "Learning rate", "", False),
        ("grad_norm", "Gradient norm", "", True),
        ("clips_per_second", "Speed", "clips/s", True),
    ]
    return [
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


def _words(name: str) -> str:
    return name.replace("_", " ")


def ends(values: Sequence[float]) -> tuple[float, float]:
    """Means of the first and of the last twentieth of some values (at least one of them)."""
    few = max(1, len(values) // 20)
    return fmean(values[:few]), fmean(values[-few:])


def key_figures(
    config: PretrainConfig, metrics: Metrics, steps: int | None, unreadable: int
) -> list[Figure]:
    """The figures at the top of the page; those that the metrics lack are left out."""
    figures = []
    if metrics.steps:
        planned = f"of {steps:,}" if steps else ""
        figures.append(Figure("Steps", f"{metrics.steps[-1]:,}", planned))
    for name in config.targets.active:
        if values := metrics.present(f"loss/{name}"):
            first, last = (number(float(f"{value:.3g}")) for value in ends(values))
            figures.append(Figure(f"Loss, {_words(name)}", last, note=f"from {first}"))
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


def warnings(run: Path, metrics: Metrics, steps: int | None) -> list[str]:
    """What a reader must know before the numbers."""
    last = metrics.steps[-1] if metrics.steps else 0
    if steps is not None and last < steps:
        return [
            f"Interrupted at step {last:,} of {steps:,}. Go on with: "
            f"m3video pretrain {RunDirectory(run).resume_options}"
        ]
    if metrics.steps and not metrics.present("loss"):
        return ["No step had a finite loss."]
    return []
