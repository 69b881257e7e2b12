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
    "flow": "Where each cell goes in the next step, in the colours of the wheel; white is at rest.",
    "hof": HOF,
    "mbh": MBH,
    "trajectory": "Where points go, in the colours of the wheel; a grey dot stands still.",
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


@dataclass(frozen=True)
class Reading:
    """How the films of one target are read: in words, and by the keys of their colours."""

    text: str
    keys: list[Entry]


def legend(samples: Sequence[Sample], scales: Scales) -> list[Entry]:
    """How to read what the films of all targets have in common."""
    if not samples:
        return []
    entries = [
        Entry("What the encoder sees", "Grey patches are hidden."),
        Entry("Prediction", "What the model says of hidden patches; visible ones are greyed."),
        Entry(
            "Error",
            "Squared error of a token; at 1, half way, it is as large as that of predicting the "
            "mean.",
        ),
    ]
    if any(sample.paths is not None and sample.paths.predicted is None for sample in samples):
        high = f"rim: {scales.speed:g} px a step"
        entries.insert(1, Entry("Where points go", READ["trajectory"], "wheel", high=high))
    return entries


def readings(samples: Sequence[Sample], scales: Scales) -> dict[str, Reading]:
    """How to read the films of each target; the keys are shown beside them."""
    names = list(samples[0].outcomes) if samples else []
    return {name: Reading(READ[name], list(_keys(name, scales))) for name in names}


def _keys(name: str, scales: Scales) -> Iterator[Entry]:
    if name in {"flow", "trajectory"} or "hof" in name:
        yield Entry(
            "Colour wheel", "Direction and speed.", "wheel", high=f"rim: {scales.speed:g} px a step"
        )
    if "mbh" in name:
        yield Entry("Two colours", "Motion in x and motion in y.", "parts")
    if name == "pixel":
        text = "Of brightness, mean of the colours."
        yield Entry("Difference", text, "heat", "0", f"{round(255 * PIXEL_TOP)} of 255")
    if name == "flow":
        text = "Distance of predicted from true flow."
        yield Entry("Difference", text, "heat", "0", f"{scales.speed:g} px")
    if name == "trajectory":
        text = "Distance of predicted from true points by now, drawn where they start."
        yield Entry("Difference", text, "heat", "0", f"{scales.path:g} px")
    yield Entry("Error", "Of a token.", "heat", "0", f"{WORST:g} × variance")


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
