"""What a reader needs to read the films of a page: keys of colours, and scores in numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from m3video.report.painters import PIXEL_TOP, WORST, Scales
from m3video.report.panels import TITLES
from m3video.report.predictions import Sample
from m3video.report.scores import EndPointError, pooled, scores

ALONG = " Around each moving point, step by step, drawn where the point starts."
HOG = "Edges: strokes lie along them, as long as they are strong."
HOF = (
    "How much moves into each direction, in the colours of the wheel; the dot is what stands still."
)
MBH = "Where motion changes: rays point to where motion grows."
READ = {
    "pixel": "The input frames; visible patches are given.",
    "hog": HOG + " Of each tubelet's first frame.",
    "flow": "Where each cell goes in the next step, in the colours of the wheel.",
    "hof": HOF,
    "mbh": MBH,
    "trajectory": "Where points go, in the colours of the wheel.",
    "trajectory_hog": HOG + ALONG,
    "trajectory_hof": HOF + ALONG,
    "trajectory_mbh": MBH + ALONG,
}
"""How the films of each target are read."""


@dataclass(frozen=True)
class Entry:
    """One entry of the legend; with a key if it has colours."""

    title: str
    text: str
    key: Literal["", "heat", "wheel", "parts"] = ""
    low: str = ""
    high: str = ""


@dataclass(frozen=True)
class ScoreRow:
    """One target's numbers as text."""

    title: str
    explained: str
    share: float
    """Of a bar, 0 to 1."""
    tokens: str
    distance: str
    still: str


def legend(samples: Sequence[Sample], scales: Scales) -> list[Entry]:
    """How to read the films of these clips."""
    return list(_entries(samples, scales)) if samples else []


def _entries(samples: Sequence[Sample], scales: Scales) -> Iterator[Entry]:
    names = list(samples[0].outcomes)
    yield Entry("What the encoder sees", "Grey patches are hidden.")
    yield Entry("Prediction", "What the model says of hidden patches; visible ones are greyed.")
    if any(sample.paths is not None and sample.paths.predicted is None for sample in samples):
        yield Entry("Where points go", READ["trajectory"])
    for name in names:
        yield Entry(TITLES[name], READ[name])
    if "flow" in names or "hof" in " ".join(names) or any(sample.paths for sample in samples):
        text = "Direction and speed; what does not move is white, or a grey dot."
        yield Entry("Colour wheel", text, "wheel", high=f"rim: {scales.speed:g} px a step")
    if "mbh" in " ".join(names):
        yield Entry("Two colours of MBH", "motion in x and motion in y", "parts")
    if "pixel" in names:
        high = f"{round(255 * PIXEL_TOP)} of 255"
        yield Entry(
            "Difference of pixels", "Of brightness, mean of the colours.", "heat", "0", high
        )
    if "flow" in names:
        text = "Distance of predicted from true flow."
        yield Entry("Difference of flow", text, "heat", "0", f"{scales.speed:g} px")
    if "trajectory" in names:
        text = "Distance of predicted from true points by now, drawn where they start."
        yield Entry("Difference of trajectories", text, "heat", "0", f"{scales.path:g} px")
    text = (
        "Squared error of a token; at 1, half way, it is as large as that of predicting the mean."
    )
    yield Entry("Error", text, "heat", "0", f"{WORST:g} × variance")


def score_rows(samples: Sequence[Sample]) -> list[ScoreRow]:
    """How much of each target is explained over the hidden tokens of these clips."""
    found = scores([sample.outcomes for sample in samples])
    distances = {
        "trajectory": pooled([sample.paths.error for sample in samples if sample.paths]),
        "flow": pooled([sample.flow.error for sample in samples if sample.flow]),
    }
    rows = []
    for name, value in found.items():
        explained = value.explained
        apart = distances.get(name)
        rows.append(
            ScoreRow(
                title=TITLES[name],
                explained="does not vary" if explained is None else _percent(explained),
                share=min(max(explained or 0.0, 0.0), 1.0),
                tokens=f"{value.tokens:,}",
                distance=_pixels(apart, "predicted"),
                still=_pixels(apart, "still"),
            )
        )
    return rows


def _percent(share: float) -> str:
    """A share of 1 in per cent; far below 0 how far does not matter."""
    return "< −1,000 %" if share < -10 else f"{100 * share:.1f} %".replace("-", "−")


def _pixels(error: EndPointError | None, what: Literal["predicted", "still"]) -> str:
    return "" if error is None else f"{getattr(error, what):.2f} px"
