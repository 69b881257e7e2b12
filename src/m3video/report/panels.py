"""The films of one sample clip: the input and the mask, then each target."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from m3video.report.film import data_url, encode_film
from m3video.report.painters import (
    Film,
    Moment,
    Scales,
    clip_painters,
    target_painters,
)
from m3video.report.predictions import Sample
from m3video.report.scores import EndPointError
from m3video.video.sampling import ClipPlan

TITLES = {
    "pixel": "Pixels",
    "hog": "HOG on the grid",
    "flow": "Flow",
    "hof": "HOF on the grid",
    "mbh": "MBH on the grid",
    "trajectory": "Trajectories",
    "trajectory_hog": "HOG along trajectories",
    "trajectory_hof": "HOF along trajectories",
    "trajectory_mbh": "MBH along trajectories",
}
"""What a page calls each target."""

WIDE = 256  # pixels that a film has at least, by a whole factor, so that lines are crisp
FILM = 150_000
"""Bytes of a film at most."""
ALL_FILMS = 4_000_000
"""Bytes of all films of a page at most; base64 makes a third more of them."""


@dataclass(frozen=True)
class Panel:
    """One film of a clip."""

    title: str
    url: str
    alt: str
    width: int
    height: int


@dataclass(frozen=True)
class TargetFilms:
    """One target of one clip."""

    name: str
    """As in the config."""
    title: str
    numbers: str
    """End-point errors in words; empty where there are none."""
    panels: list[Panel]


@dataclass(frozen=True)
class ClipFilms:
    """A clip's films."""

    name: str
    panels: list[Panel]
    """Of the clip itself."""
    targets: list[TargetFilms]


def timeline(plan: ClipPlan, tubelet: int, hidden: NDArray[np.bool_] | None = None) -> list[Moment]:
    """What is shown at each raw frame of the span.

    Trajectories that would overlap are left out: after a tubelet that is drawn, the next one drawn
    is the first that starts after the other's trajectories have ended.

    Args:
        plan: of the clip.
        tubelet: input frames of one.
        hidden: bool [t, places]. Tubelets of which nothing is hidden give way to the others: they
            have nothing predicted.
    """
    starts = np.array(plan.offsets)[list(plan.starts)]
    inputs = np.array(plan.offsets)[list(plan.inputs)]
    wanted = [index for index in range(len(starts)) if hidden is None or hidden[index].any()]
    drawn: list[int] = []
    for index in wanted:
        if not drawn or starts[index] - starts[drawn[-1]] > plan.length * plan.step:
            drawn.append(index)
    if drawn[0] != 0:
        drawn.insert(0, 0)
    moments = []
    for time in range(plan.span):
        current = max(index for index in drawn if starts[index] <= time)
        newest = int(np.searchsorted(inputs, time, side="right")) - 1
        moments.append(
            Moment(
                row=int(np.searchsorted(plan.offsets, time, side="right")) - 1,
                input=newest,
                newest=newest // tubelet,
                tubelet=current,
                step=min((time - int(starts[current])) // plan.step, plan.length),
            )
        )
    return moments


def clip_films(sample: Sample, scales: Scales, limit: int = FILM) -> ClipFilms:
    """Draw and encode all films of a clip; all have the same frames in time.

    Args:
        sample: the clip and its predictions.
        scales: what colours stand for.
        limit: bytes of a film at most.
    """
    height, width = sample.frames.shape[1:3]
    scale = max(1, -(-WIDE // max(height, width)))
    moments = timeline(sample.plan, sample.tubelet, sample.hidden.reshape(len(sample.hidden), -1))
    own = _panels(clip_painters(sample, scales, scale), moments, sample.name, limit)
    targets = []
    for name in sample.outcomes:
        painters = target_painters(sample, name, scales, scale)
        panels = _panels(painters, moments, f"{TITLES[name]}, {sample.name}", limit)
        targets.append(TargetFilms(name, TITLES[name], numbers(sample, name), panels))
    return ClipFilms(sample.name, own, targets)


def film_limit(samples: list[Sample], scales: Scales) -> int:
    """Bytes that each film may have, so that a page of all of them stays small."""
    count = sum(
        len(list(films))
        for sample in samples
        for films in (
            clip_painters(sample, scales, 1),
            *(target_painters(sample, name, scales, 1) for name in sample.outcomes),
        )
    )
    return min(FILM, ALL_FILMS // max(count, 1))


def _panels(films: Iterable[Film], moments: list[Moment], of: str, limit: int) -> list[Panel]:
    fps = min(max(round(len(moments) / 3), 6), 15)
    panels = []
    for title, paint in films:
        pictures = np.stack([paint(now) for now in moments])
        url = data_url(encode_film(pictures, fps, limit=limit), "video/mp4")
        panels.append(Panel(title, url, f"{title}: {of}", pictures.shape[2], pictures.shape[1]))
    return panels


def numbers(sample: Sample, name: str) -> str:
    """End-point errors of one target in words; empty where there are none."""
    if name == "trajectory" and sample.paths is not None and sample.paths.error is not None:
        return (
            f"Ends {_apart(sample.paths.error)} "
            f"({sample.paths.error.count:,} visible trajectories of hidden patches, "
            f"{sample.plan.length} steps)."
        )
    if name == "flow" and sample.flow is not None and sample.flow.error is not None:
        error = sample.flow.error
        return f"Is {_apart(error)} ({error.count:,} cells of hidden patches, one step)."
    return ""


def _apart(error: EndPointError) -> str:
    return (
        f"{error.predicted:.2f} px from the truth on average; "
        f"saying that nothing moves would be {error.still:.2f} px off"
    )
