"""The moving pictures of one sample clip: input, mask, trajectories, HOG, reconstruction."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from m3video.report.film import data_url, encode_film
from m3video.report.overlays import (
    GREY,
    Bools,
    Floats,
    Frame,
    draw_hog,
    draw_tracks,
    enlarge,
    enlarged,
    muted,
    shade_patches,
)
from m3video.report.predictions import HogPictures, Sample
from m3video.video.sampling import ClipPlan

LEGEND = {
    "Input": "The frames that the clip consists of.",
    "What the encoder sees": "Grey patches are hidden.",
    "True trajectories": "Where points go, at the raw frame rate, by optical flow.",
    "Predicted trajectories": "What the model says of hidden patches; the visible ones are dimmed.",
    "True HOG on the grid": "Edges by orientation, in each tubelet's first frame.",
    "Predicted HOG on the grid": "The same, as the model says of hidden patches.",
    "True HOG along trajectories": "Edges around each moving point, drawn where it starts.",
    "Predicted HOG along trajectories": (
        "The same, as the model says of hidden patches; a dot is no orientation more than others."
    ),
    "Reconstruction": "Hidden patches as the model fills them in; the visible ones are given.",
}
"""Title of every kind of panel, and what it shows."""

WIDE = 256  # pixels that a film has at least, by a whole factor, so that lines are crisp
DARK = (24, 25, 29)


@dataclass(frozen=True)
class Panel:
    """One film of a clip."""

    title: str
    url: str
    alt: str
    width: int
    height: int


@dataclass(frozen=True)
class ClipFilms:
    """A clip's films and its numbers in words."""

    name: str
    numbers: str
    panels: list[Panel]

    @property
    def groups(self) -> list[list[Panel]]:
        """Truth and prediction side by side, or single films where there are only three."""
        size = 1 if len(self.panels) < 4 else 2
        return [self.panels[first : first + size] for first in range(0, len(self.panels), size)]


@dataclass(frozen=True)
class Moment:
    """One raw frame of the span."""

    row: int  # the newest row that has been read by then
    input: int  # the newest input frame
    tubelet: int  # the newest tubelet whose trajectories are drawn
    step: int  # steps of them that are over, at most L


Painter = Callable[[Moment], Frame]


def timeline(plan: ClipPlan, tubelet: int) -> list[Moment]:
    """What is shown at each raw frame of the span.

    Trajectories that would overlap are left out: after a tubelet that is drawn, the next one drawn
    is the first that starts after the other's trajectories have ended.
    """
    starts = np.array(plan.offsets)[list(plan.starts)]
    inputs = np.array(plan.offsets)[list(plan.inputs)]
    drawn = [0]
    for index in range(1, len(starts)):
        if starts[index] - starts[drawn[-1]] > plan.length:
            drawn.append(index)
    moments = []
    for time in range(plan.span):
        current = max(index for index in drawn if starts[index] <= time)
        moments.append(
            Moment(
                row=int(np.searchsorted(plan.offsets, time, side="right")) - 1,
                input=int(np.searchsorted(inputs, time, side="right")) - 1,
                tubelet=current,
                step=min(time - int(starts[current]), plan.length),
            )
        )
    return moments


def clip_films(sample: Sample) -> ClipFilms:
    """Draw and encode all films of a clip; all have the same frames in time."""
    height, width = sample.frames.shape[1:3]
    scale = max(1, -(-WIDE // max(height, width)))
    moments = timeline(sample.plan, sample.tubelet)
    fps = min(max(round(len(moments) / 3), 6), 15)
    panels = []
    for title, paint in _painters(sample, scale):
        stacked = np.stack([paint(now) for now in moments])
        url = data_url(encode_film(stacked, fps), "video/mp4")
        alt = f"{title} of {sample.name}: {LEGEND[title]}"
        panels.append(Panel(title, url, alt, stacked.shape[2], stacked.shape[1]))
    return ClipFilms(sample.name, numbers(sample), panels)


def numbers(sample: Sample) -> str:
    """End-point errors in words; empty where there are none."""
    if sample.error is None:
        return ""
    error = sample.error
    return (
        f"Predicted trajectories end {error.predicted:.2f} px from the true ones on average; "
        f"standing still would end {error.still:.2f} px away "
        f"({error.count:,} visible trajectories of hidden patches, {sample.plan.length} steps)."
    )


def _painters(sample: Sample, scale: int) -> Iterator[tuple[str, Painter]]:
    yield "Input", lambda now: enlarge(sample.frames[_input_row(sample, now)], scale)
    yield "What the encoder sees", partial(_masked, sample, scale)
    if sample.tracks is not None:
        points, visible = sample.tracks
        everywhere = np.ones_like(visible[..., 0])
        yield "True trajectories", partial(_tracked, sample, scale, points, visible, everywhere)
    if sample.predicted_tracks is not None:
        path, hidden = sample.predicted_tracks
        whole = np.ones(path.shape[:-1], dtype=np.bool_)
        yield "Predicted trajectories", partial(_tracked, sample, scale, path, whole, hidden)
    for title, hog in sample.hogs.items():
        yield f"True HOG {title}", partial(_starred, sample, scale, hog, False)
        yield f"Predicted HOG {title}", partial(_starred, sample, scale, hog, True)
    if sample.reconstruction is not None:
        filled = sample.reconstruction
        yield "Reconstruction", lambda now: enlarge(filled[now.input], scale)


def _input_row(sample: Sample, now: Moment) -> int:
    return sample.plan.inputs[now.input]


def _masked(sample: Sample, scale: int, now: Moment) -> Frame:
    frame = sample.frames[_input_row(sample, now)]
    hidden = sample.hidden[now.input // sample.tubelet]
    return enlarge(shade_patches(frame, hidden, 1.0), scale)


def _tracked(
    sample: Sample, scale: int, points: Floats, visible: Bools, shown: Bools, now: Moment
) -> Frame:
    """Trajectories up to this moment over the dimmed raw frame; where none are shown, dimmer."""
    frame = muted(sample.frames[now.row])
    rows, columns = sample.hidden.shape[1:]
    side = shown.shape[1] // rows, shown.shape[2] // columns
    without = ~shown[now.tubelet, :: side[0], :: side[1]]
    frame = shade_patches(frame, without, 0.55, DARK)
    chosen = shown[now.tubelet]
    return draw_tracks(
        enlarge(frame, scale),
        points[now.tubelet][chosen][:, : now.step + 1],
        visible[now.tubelet][chosen][:, : now.step + 1],
        scale=scale,
        thickness=max(1, round(scale * frame.shape[1] / 300)),
    )


def _starred(sample: Sample, scale: int, hog: HogPictures, predicted: bool, now: Moment) -> Frame:
    """HOG of the tubelet that is drawn, at the step that it has reached."""
    histograms = hog.predicted if predicted else hog.true
    step = min(now.step, histograms.shape[1] - 1)
    tubelet = now.tubelet
    height, width = sample.frames.shape[1:3]
    canvas: NDArray[np.uint8] = np.empty((height, width, 3), dtype=np.uint8)
    canvas[:] = DARK
    shown = hog.hidden[tubelet] if predicted else hog.valid[tubelet, step]
    if predicted:
        canvas = shade_patches(canvas, ~sample.hidden[tubelet], 0.22, GREY)
    return draw_hog(
        enlarge(canvas, scale),
        histograms[tubelet, step][shown],
        enlarged(hog.centres[shown], scale),
        cell=hog.spacing * scale,
        strongest=hog.strongest,
    )
