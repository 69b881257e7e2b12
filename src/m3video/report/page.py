"""The report of a run of any kind: one HTML page that needs nothing but itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from m3video.config import FinetuneConfig, PretrainConfig
from m3video.patience import outage
from m3video.report.answers import Cards, answer_cards
from m3video.report.curves import (
    LOSSES,
    Figure,
    key_figures,
    metric_charts,
    target_titles,
    words,
)
from m3video.report.detections import KeyFrameCards, key_frame_cards
from m3video.report.evaluation import (
    Classified,
    Detected,
    Evaluations,
    Section,
    read_evaluations,
    section,
)
from m3video.report.facts import (
    Metrics,
    config_text,
    flat_pairs,
    planned_steps,
    read_any_config,
    read_json_or_none,
    read_metrics,
    read_unreadable,
    steps_by_metrics,
    summary,
)
from m3video.report.film import data_url
from m3video.report.glyphs import PARTS, heat_gradient, wheel_png
from m3video.report.legend import Entry, Reading, ScoreRow, legend, readings, score_rows
from m3video.report.painters import scales
from m3video.report.panels import ClipFilms, clip_films, film_limit
from m3video.report.plots import line_chart
from m3video.report.probes import Bars, ProbeSection, comparison, probe_sections
from m3video.report.samples import Samples, sample_clips
from m3video.report.tuned import (
    Changed,
    Tuned,
    accuracy_figures,
    changed,
    defaults,
    facts,
    how_to_test,
    lead,
)
from m3video.train.run import RunConfig, RunDirectory
from m3video.whole import write_whole

LISTED = 50
"""Unreadable videos that are listed by name."""
CLIPS = 4
"""Clips that are shown."""


@dataclass(frozen=True)
class Predictions:
    """Clips with what a pre-trained model predicts in them, and how to read them."""

    samples: Samples
    clips: list[ClipFilms]
    legend: list[Entry]
    readings: dict[str, Reading]
    """How the films of each target are read."""
    scores: list[ScoreRow]
    heat: str
    wheel: str
    parts: tuple[str, ...]


@dataclass(frozen=True)
class Tested:
    """What was tested of a classifier or a detector."""

    notes: list[str]
    sections: list[Section]
    cards: Cards
    key_frames: KeyFrameCards


@dataclass(frozen=True)
class Curves:
    """The charts of a run."""

    charts: list[dict[str, Any]]
    window: int
    bad_marks: bool


@dataclass(frozen=True)
class Page:
    """All that the template reads; what a kind of run does not have is empty."""

    kind: str
    name: str
    summary: str
    warnings: list[str]
    figures: list[Figure]
    curves: Curves
    comparison: Bars | None
    probes: list[ProbeSection]
    config: str
    environment: list[tuple[str, str]]
    unreadable: list[tuple[str, str]]
    unreadable_count: int
    facts: list[tuple[str, str]] = field(default_factory=list)
    changed: list[Changed] = field(default_factory=list)
    predictions: Predictions | None = None
    tested: Tested | None = None


_OUTAGE = 5.0  # seconds that a server of videos may be away: the page can do without them


def write_report(run: Path) -> Path:
    """Write `report.html` into a run directory, whole or not at all.

    The page shows the key figures, loss curves, probe results (`probe*.json`, `comparison.json`),
    the config, the environment and the unreadable videos; of a pre-training a few clips with what
    the model predicts for them; of a classifier or a detector what its evaluations in the run
    directory say. It reads no network, and of other files only the videos that it shows and their
    boxes. What a run lacks is said or left out, so it can be one that is still going.

    Raises:
        CheckpointError: `run` is not a run directory, or its checkpoint does not fit its config.
        ConfigError: its config.yaml is broken.
    """
    config = read_any_config(run)
    with outage(_OUTAGE):
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


def collect(run: Path, config: RunConfig) -> Page:
    """Read all files of a run, and make the films that its kind of page shows."""
    metrics = read_metrics(RunDirectory(run).metrics)
    if isinstance(config, PretrainConfig):
        return _pretrained(run, config, metrics)
    return _tuned(run, config, metrics)


def _pretrained(run: Path, config: PretrainConfig, metrics: Metrics) -> Page:
    steps = planned_steps(run, config)
    names = list(config.targets.active)
    unreadable = read_unreadable(RunDirectory(run).unreadable)
    titles = {name: f"Loss, {words(name)}" for name in names}
    return Page(
        kind="pre-training",
        summary=summary(config),
        warnings=warnings(run, metrics, steps, "pretrain"),
        figures=key_figures(metrics, titles, steps, len(unreadable)),
        curves=curves(metrics, target_titles(names)),
        predictions=predictions(run, config),
        **_shared(run, config, unreadable),
    )


def _tuned(run: Path, config: Tuned, metrics: Metrics) -> Page:
    steps = steps_by_metrics(config, metrics)
    classifier = isinstance(config, FinetuneConfig)
    name = "cross_entropy" if classifier else "binary_cross_entropy"
    losses = {name: LOSSES[name]}
    unreadable = read_unreadable(RunDirectory(run).unreadable)
    found = read_evaluations(run, Classified if classifier else Detected)
    figures = key_figures(metrics, losses, steps, len(unreadable))
    return Page(
        kind="fine-tuning" if classifier else "detection",
        summary=lead(run, config),
        warnings=warnings(run, metrics, steps, "finetune" if classifier else "detect train"),
        figures=accuracy_figures(found.own) + figures,
        curves=curves(metrics, losses),
        facts=facts(run, config),
        changed=changed(config, defaults(config)),
        tested=tested(run, config, found, done=steps is None or steps in metrics.steps[-1:]),
        **_shared(run, config, unreadable),
    )


def _shared(run: Path, config: RunConfig, unreadable: list[tuple[str, str]]) -> dict[str, Any]:
    """The parts that every kind of run has alike."""
    environment = read_json_or_none(RunDirectory(run).environment) or {}
    return {
        "name": run.resolve().name,
        "comparison": comparison(run),
        "probes": probe_sections(run),
        "config": config_text(config),
        "environment": flat_pairs(environment),
        "unreadable": unreadable[:LISTED],
        "unreadable_count": len(unreadable),
    }


def curves(metrics: Metrics, losses: dict[str, str]) -> Curves:
    """The charts that have a value."""
    charts = metric_charts(metrics, losses)
    drawn = [(chart, svg) for chart in charts if (svg := line_chart(chart)) is not None]
    return Curves(
        charts=[{"title": chart.title, "unit": chart.unit, "svg": svg} for chart, svg in drawn],
        window=max((chart.window for chart, _ in drawn), default=1),
        bad_marks=any(value is None for chart, _ in drawn for value in chart.values),
    )


def predictions(run: Path, config: PretrainConfig) -> Predictions:
    """The films of a pre-training's sample clips."""
    samples = sample_clips(run, config, count=CLIPS)
    shown = scales(samples.clips)
    limit = film_limit(samples.clips, shown)
    return Predictions(
        samples=samples,
        clips=[clip_films(sample, shown, limit) for sample in samples.clips],
        legend=legend(samples.clips, shown),
        readings=readings(samples.clips, shown),
        scores=score_rows(samples.clips),
        heat=heat_gradient(),
        wheel=data_url(wheel_png(), "image/png"),
        parts=tuple(f"rgb({red} {green} {blue})" for red, green, blue in PARTS),
    )


def tested(run: Path, config: Tuned, evaluations: Evaluations, *, done: bool) -> Tested:
    """The evaluations of a classifier or a detector; films or key frames for the first."""
    notes = list(evaluations.problems)
    cards, key_frames = Cards([], []), KeyFrameCards([], [])
    if not evaluations.found:
        notes.append(
            how_to_test(run, config)
            if done or not isinstance(config, FinetuneConfig)
            else "What is held out is tested at the end of the run."
        )
    elif isinstance(config, FinetuneConfig):
        cards = answer_cards(run, evaluations.found[0][0], config)
    else:
        folder, found = evaluations.found[0]
        if isinstance(found, Detected):
            key_frames = key_frame_cards(folder, found)
    sections = [section(run, *evaluation) for evaluation in evaluations.found]
    return Tested(notes, sections, cards, key_frames)


def warnings(run: Path, metrics: Metrics, steps: int | None, verb: str) -> list[str]:
    """What a reader must know before the numbers."""
    last = metrics.steps[-1] if metrics.steps else 0
    if steps is not None and last < steps:
        return [
            f"At step {last:,} of {steps:,}: still going, or interrupted. An interrupted run goes "
            f"on with: m3video {verb} {RunDirectory(run).resume_options}"
        ]
    if metrics.steps and not metrics.present("loss"):
        return ["No step had a finite loss."]
    return []
