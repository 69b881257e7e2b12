"""What each film of a clip shows at one moment: truth, prediction and difference of each target."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from m3video.report.flow_wheel import flow_picture
from m3video.report.glyphs import (
    PARTS,
    STROKE,
    cells_over,
    draw_discs,
    draw_rays,
    heat,
    line_colours,
)
from m3video.report.histograms import Histograms
from m3video.report.overlays import (
    GREY,
    Bools,
    Floats,
    Frame,
    draw_hog,
    draw_tails,
    enlarge,
    enlarged,
    motion_palette,
    muted,
    shade_patches,
)
from m3video.report.predictions import FlowCells, Paths, Sample
from m3video.report.scores import scores, token_errors

DARK = (24, 25, 29)
DIM = 0.22
"""How much of grey the visible patches of a prediction have."""
WORST = 2.0
"""Squared error, in units of the target's variance, at the end of its scale."""
PIXEL_TOP = 0.5
"""Difference of pixels, as a share of the brightest, at the end of its scale."""
FAST = 0.9
"""Share of the true motions that lie within the scales of motion: few are fast, and a scale that
held them all would show the others as still."""
LEAST = 0.1
"""Pixels that the scales of motion have at least."""


@dataclass(frozen=True)
class Moment:
    """One raw frame of the span."""

    row: int  # the newest row that has been read by then
    input: int  # the newest input frame
    newest: int  # the newest tubelet
    tubelet: int  # the newest tubelet whose trajectories are drawn
    step: int  # steps of them that are over, at most L


Painter = Callable[[Moment], Frame]
Film = tuple[str, Painter]


@dataclass(frozen=True)
class Scales:
    """What the brightest colour stands for; the same in all clips of a page."""

    variances: dict[str, float]
    """Of each target."""
    speed: float
    """Pixels a step, of flow and of trajectories."""
    path: float
    """Pixels between the ends of a trajectory."""


def scales(samples: Sequence[Sample]) -> Scales:
    """Scales that fit the clips of a page."""
    found = scores([sample.outcomes for sample in samples])
    steps = [sample.flow.true[sample.flow.valid] for sample in samples if sample.flow]
    ways = []
    for paths in (sample.paths for sample in samples):
        if paths is not None:
            steps.append(np.diff(paths.true, axis=-2)[paths.visible[..., 1:]])
            way = paths.true[..., -1, :] - paths.true[..., 0, :]
            ways.append(way[paths.visible[..., -1]])
    variances = {name: score.variance for name, score in found.items()}
    return Scales(variances, _fast(steps), _fast(ways))


def _fast(moved: Sequence[Floats]) -> float:
    """Two digits of a length that nearly all of some displacements [n, 2] stay below."""
    lengths = [length for each in moved for length in np.linalg.norm(each, axis=-1).tolist()]
    fast = float(np.quantile(lengths, FAST)) if lengths else 0.0
    return float(f"{max(fast, LEAST):.2g}")


def clip_painters(sample: Sample, scales: Scales, scale: int) -> Iterator[Film]:
    """The clip itself, whatever is predicted."""
    yield "Input", lambda now: enlarge(_input(sample, now), scale)
    yield "What the encoder sees", partial(_masked, sample, scale)
    if sample.paths is not None and sample.paths.predicted is None:
        yield "Where points go", partial(_paths, sample, scale, sample.paths, scales.speed, False)


def target_painters(sample: Sample, name: str, scales: Scales, scale: int) -> Iterator[Film]:
    """Truth, prediction and difference of one target."""
    if name == "pixel":
        yield "Truth", lambda now: enlarge(_input(sample, now), scale)
        yield "Prediction", partial(_reconstructed, sample, scale)
        yield "Difference", partial(_pixel_difference, sample, scale)
    elif name == "flow" and sample.flow is not None:
        yield "Truth", partial(_flow, sample, scale, sample.flow, scales.speed, False)
        yield "Prediction", partial(_flow, sample, scale, sample.flow, scales.speed, True)
        yield "Difference", partial(_flow_difference, sample, scale, sample.flow, scales.speed)
    elif name == "trajectory" and sample.paths is not None:
        yield "Truth", partial(_paths, sample, scale, sample.paths, scales.speed, False)
        yield "Prediction", partial(_paths, sample, scale, sample.paths, scales.speed, True)
        yield "Difference", partial(_path_difference, sample, scale, sample.paths, scales.path)
    elif name in sample.histograms:
        found = sample.histograms[name]
        yield "Truth", partial(_histograms, sample, scale, found, False)
        yield "Prediction", partial(_histograms, sample, scale, found, True)
    if name in scales.variances:
        errors = token_errors(sample.outcomes[name], scales.variances[name])
        grid = errors.reshape(sample.hidden.shape)
        yield "Error", partial(_errors, sample, scale, grid, name.startswith("trajectory"))


def _input(sample: Sample, now: Moment) -> Frame:
    frame: Frame = sample.frames[sample.plan.inputs[now.input]]
    return frame


def _masked(sample: Sample, scale: int, now: Moment) -> Frame:
    return enlarge(shade_patches(_input(sample, now), sample.hidden[now.newest], 1.0), scale)


def _blank(sample: Sample, scale: int, grey: Bools | None = None) -> Frame:
    """A dark picture; the patches [rows, columns] of `grey` are not as dark."""
    height, width = sample.frames.shape[1:3]
    canvas = np.full((height, width, 3), DARK, dtype=np.uint8)
    if grey is not None:
        canvas = shade_patches(canvas, grey, DIM, GREY)
    return enlarge(canvas, scale)


def _reconstructed(sample: Sample, scale: int, now: Moment) -> Frame:
    assert sample.reconstruction is not None
    return enlarge(sample.reconstruction[now.input], scale)


def _pixel_difference(sample: Sample, scale: int, now: Moment) -> Frame:
    """Mean difference of the channels."""
    assert sample.reconstruction is not None
    shown, true = sample.reconstruction[now.input].astype(float), _input(sample, now)
    difference = heat(np.abs(shown - true).mean(axis=-1) / 255, PIXEL_TOP)
    blank = _blank(sample, 1, ~sample.hidden[now.newest])
    side = difference.shape[0] // sample.hidden.shape[1]
    shown_at = sample.hidden[now.newest].repeat(side, axis=0).repeat(side, axis=1)
    return enlarge(cells_over(blank, difference, shown_at), scale)


def _flow(
    sample: Sample, scale: int, flow: FlowCells, fastest: float, predicted: bool, now: Moment
) -> Frame:
    values = flow.predicted if predicted else flow.true
    cells = flow_picture(values[now.newest].astype(np.float32), fastest)
    if not predicted:
        return cells_over(_blank(sample, scale), cells, flow.valid[now.newest])
    blank = _blank(sample, scale, ~sample.hidden[now.newest])
    return cells_over(blank, cells, flow.hidden[now.newest])


def _flow_difference(
    sample: Sample, scale: int, flow: FlowCells, fastest: float, now: Moment
) -> Frame:
    missed = np.linalg.norm(flow.predicted[now.newest] - flow.true[now.newest], axis=-1)
    shown = flow.hidden[now.newest] & flow.valid[now.newest]
    blank = _blank(sample, scale, ~sample.hidden[now.newest])
    return cells_over(blank, heat(missed, fastest), shown)


def _backdrop(sample: Sample, paths: Paths, now: Moment) -> Frame:
    """The raw frame; motion relative to the camera is drawn over the frame where it starts."""
    row = sample.plan.starts[now.tubelet] if paths.relative else now.row
    return muted(sample.frames[row])


def _paths(
    sample: Sample, scale: int, paths: Paths, speed: float, predicted: bool, now: Moment
) -> Frame:
    """Trajectories up to this moment; visible patches have no prediction and are darker."""
    frame, tubelet = _backdrop(sample, paths, now), now.tubelet
    points, visible = paths.true[tubelet], paths.visible[tubelet]
    if predicted and paths.predicted is not None:
        points = paths.predicted[tubelet]
        visible = np.repeat(paths.hidden[tubelet][..., None], points.shape[2], axis=-1)
        frame = shade_patches(frame, ~sample.hidden[tubelet], 0.55, DARK)
    steps = now.step + 1
    return draw_tails(
        enlarge(frame, scale),
        enlarged(points.reshape(-1, *points.shape[2:])[:, :steps], scale),
        visible.reshape(-1, visible.shape[-1])[:, :steps],
        np.linspace(0.4, 1.0, max(now.step, 1))[: now.step],
        motion_palette(line_colours().astype(np.float32), speed * scale),
        thickness=max(1, round(scale * frame.shape[1] / 300)),
    )


def _path_difference(sample: Sample, scale: int, paths: Paths, far: float, now: Moment) -> Frame:
    """How far a predicted point is from the true one by this moment, as a disc where it started."""
    assert paths.predicted is not None
    tubelet, step = now.tubelet, now.step
    missed = np.linalg.norm(
        paths.predicted[tubelet, ..., step, :] - paths.true[tubelet, ..., step, :], axis=-1
    )
    shown = paths.hidden[tubelet] & paths.visible[tubelet, ..., step]
    centres = enlarged(paths.true[tubelet, ..., 0, :][shown], scale)
    spacing = scale * sample.frames.shape[2] / shown.shape[1]
    radii = np.full(len(centres), max(2.0, 0.36 * spacing))
    blank = _blank(sample, scale, ~sample.hidden[tubelet])
    return draw_discs(blank, centres, radii, heat(missed[shown], far))


def _histograms(
    sample: Sample, scale: int, found: Histograms, predicted: bool, now: Moment
) -> Frame:
    """Those of the newest tubelet, or, along trajectories, of the points that are drawn."""
    values = found.predicted if predicted else found.true
    along = values.shape[1] > 1
    tubelet = now.tubelet if along else now.newest
    step = min(now.step, values.shape[1] - 1) if along else 0
    shown = found.hidden[tubelet] if predicted else found.valid[tubelet, step]
    drawn = draw_histograms(
        _blank(sample, scale),
        found.kind,
        values[tubelet, step][shown] / max(found.strongest, 1e-12),
        enlarged(found.centres[shown], scale),
        found.spacing * scale,
    )
    return shade_patches(drawn, ~sample.hidden[tubelet], DIM, GREY) if predicted else drawn


def draw_histograms(
    canvas: Frame, kind: str, values: Floats, centres: Floats, spacing: float
) -> Frame:
    """Draw histograms of one kind.

    Args:
        canvas: uint8 [H, W, 3].
        kind: hog, hof or mbh.
        values: [n, P, bins]; 1 is drawn at full length.
        centres: [n, 2] (x, y) in the canvas' pixels.
        spacing: pixels from one place to the next.
    """
    if kind == "hog":
        return draw_hog(canvas, values[:, 0], centres, cell=spacing, strongest=1.0)
    longest = 0.56 * spacing
    if kind == "hof":
        radii = np.clip(values[:, 0, -1], 0, 1) * 0.26 * spacing
        discs = np.broadcast_to(STROKE, (len(centres), 3))
        dots = draw_discs(canvas, centres, radii, discs)
        directions = values[:, 0, :-1]
        colours = line_colours(directions.shape[1])
        return draw_rays(dots, directions, centres, colours=colours, longest=longest)
    drawn = canvas
    for part, side in ((0, -0.08), (1, 0.08)):
        drawn = draw_rays(
            drawn,
            values[:, part],
            centres,
            colours=np.tile(PARTS[part], (values.shape[2], 1)),
            longest=longest,
            aside=side * spacing,
        )
    return drawn


def _errors(sample: Sample, scale: int, errors: Floats, along: bool, now: Moment) -> Frame:
    """Squared error of each token, [t, rows, columns], NaN where there is none."""
    tubelet = now.tubelet if along else now.newest
    blank = _blank(sample, scale, ~sample.hidden[tubelet])
    return cells_over(blank, heat(errors[tubelet], WORST), np.isfinite(errors[tubelet]))
