"""How good the motion of a flow estimator is: against pairs with known flow, and moving shapes.

- Pairs: end-point error |estimated − true flow|, over all pixels and at seeds 8 px apart; outliers
  are the pixels whose error is larger than so many pixels.
- Tracks: seeds that follow the flow are as far from where they truly are, after L steps. δ (as in
  TAP-Vid, arXiv 2211.03726, section 4): the share of them less than so many pixels away. Judged are
  the seeds that can truly be seen all the way, sorted by how far they truly go a step.
- Visibility: a seed is visible at step L if it is in the frame and nothing covers it, at L and at
  all steps before. Precision is the share of what is said that is so, recall the share of what is
  so that is said. Nearly all seeds are visible; the figures of the hidden ones tell rules apart.
- Camera: what is left of the motion of the background that stands still, after the camera's is
  removed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import torch
from torch import Tensor

from m3video.errors import ConfigError
from m3video.motion.camera import camera_motion, remove_camera
from m3video.motion.fields import Fields, agree
from m3video.motion.flow import FlowEstimator, grey, read_flo
from m3video.motion.trajectory import follow, seed_grid
from m3video.video.moving_shapes import CLASSES, Scenes, render, sample_scenes
from m3video.video.sampling import sample_generator

SPACING = 8
"""Pixels from seed to seed."""
LENGTHS = (1, 6, 15)
"""Steps after which seeds are judged: one, the default of `motion.length`, and nearly its most."""
VISIBILITY_LENGTH = 6
THRESHOLDS = (1, 2, 4)
"""Pixels of δ."""
OUTLIERS = (1, 3)
"""Pixels of an end-point error above which a pixel is an outlier."""
RANGES: dict[str, tuple[float, float]] = {
    "sub-pixel": (0.0, 1.0),
    "moderate": (1.0, 5.0),
    "large": (5.0, 20.0),
}
"""Pixels a step that a seed truly goes, on average: from, and to below."""
DURATIONS = (64, 24, 14)
"""Frames in which the motions of the scenes run their course: as in training, and faster."""
_STILL = 1e-3  # pixels a step of rounding

Pairs = dict[str, tuple[Tensor, Tensor, Tensor]]
"""Name → grey frames uint8 [1, H, W] twice, and the true flow float32 [2, H, W]."""


@dataclass(frozen=True)
class Shot:
    """A rendered scene, and the truth about its seeds."""

    grey: Tensor
    """uint8 [S, H, W], S = the longest of `LENGTHS` + 1."""
    points: Tensor
    """float32 [h, w, S, 2]: where the seeds truly are."""
    visible: Tensor
    """bool [h, w, S]: truly seen in this frame and all before."""
    flow: Tensor
    """float32 [2, H, W]: exact flow from the first frame to the second."""
    pan: Tensor
    """float32 [2]: (x, y) pixels that the camera shifts the second frame against the first."""

    def speed(self, length: int) -> Tensor:
        """Mean pixels a step that the seeds truly go in the first steps: [h, w]."""
        steps = self.points[..., : length + 1, :].diff(dim=-2)
        speed: Tensor = steps.norm(dim=-1).mean(dim=-1)
        return speed

    def judged(self, kind: str, length: int) -> Tensor:
        """Seeds seen all the way that move within a range: bool [h, w]."""
        low, high = RANGES[kind]
        speed = self.speed(length)
        return self.visible[..., length] & (speed >= low) & (speed < high)


def make_shots(size: tuple[int, int], scenes: int) -> list[Shot]:
    """Render so many scenes at each speed; the same ones in every run."""
    return [
        _make_shot(size, number, duration) for duration in DURATIONS for number in range(scenes)
    ]


def draw_scene(
    size: tuple[int, int], number: int, frames: int, duration: int
) -> tuple[Scenes, Tensor]:
    """One scene, of class `number` modulo their count, and its frames uint8 [1, S, H, W, 3]."""
    scenes = sample_scenes(
        torch.tensor([number % len(CLASSES)]),
        frames=frames,
        size=size,
        texture="both",
        generator=sample_generator(0, 0, number),
        duration=duration,
    )
    return scenes, render(scenes)


def _make_shot(size: tuple[int, int], number: int, duration: int) -> Shot:
    length = max(LENGTHS)
    scene, frames = draw_scene(size, number, length + 1, duration)
    exact = scene.tracks(seed_grid(*size, SPACING)[None], 0, length)
    return Shot(
        grey=grey(frames[0]),
        points=exact.points[0],
        visible=exact.visible[0].cummin(dim=-1).values,
        flow=scene.flow(0)[0],
        pan=scene.pan[0, 1] - scene.pan[0, 0],
    )


def true_motion(shots: Sequence[Shot]) -> dict[str, dict[str, dict[str, float | int | None]]]:
    """Range → L → how far the judged `seeds` truly go a step: `mean` and `max` in pixels."""
    found: dict[str, dict[str, dict[str, float | int | None]]] = {}
    for kind in RANGES:
        found[kind] = {}
        for length in LENGTHS:
            chosen = [shot.points[shot.judged(kind, length), : length + 1] for shot in shots]
            steps = torch.cat(chosen).diff(dim=-2).norm(dim=-1)
            found[kind][str(length)] = {
                "seeds": len(steps),
                "mean": _mean(steps),
                "max": float(steps.max()) if len(steps) else None,
            }
    return found


def judge_tracks(estimate: FlowEstimator, shots: Sequence[Shot], *, back: bool) -> dict[str, Any]:
    """Follow the seeds of all shots by an estimator's flow, and compare with the truth.

    Args:
        estimate: the estimator.
        shots: rendered scenes.
        back: estimate the flow back too, for forward-backward visibility.

    Returns:
        `seed_error`: range → L → mean pixels from the truth; `within_px`: range → L → δ by pixels;
        `visibility`: the figures of `visibility_scores` of the forward-backward rule (None without
        `back`) and, under `frame`, those of being in the frame.
    """
    paths, in_frame, returning, truth = [], [], [], []
    for shot in shots:
        first, second = shot.grey[:-1], shot.grey[1:]
        flow = estimate(first, second)
        order = torch.arange(len(flow))[None]
        seeds = shot.points[..., 0, :]
        tracks = follow(Fields(flow[None]), order, seeds)
        paths.append(tracks.points[0, 0])
        in_frame.append(tracks.visible[0, 0, ..., VISIBILITY_LENGTH])
        truth.append(shot.visible[..., VISIBILITY_LENGTH])
        if back:
            consistent = agree(flow, estimate(second, first))[None]
            checked = follow(Fields(flow[None], consistent=consistent), order, seeds)
            returning.append(checked.visible[0, 0, ..., VISIBILITY_LENGTH])
    error, within = seed_errors(paths, shots)
    both = visibility_scores(returning, truth if back else [])
    return {
        "seed_error": error,
        "within_px": within,
        "visibility": {**both, "frame": visibility_scores(in_frame, truth)},
    }


def seed_errors(paths: Sequence[Tensor], shots: Sequence[Shot]) -> tuple[Any, Any]:
    """Mean distance of estimated points [h, w, S, 2] from the truth, and δ; None without seeds."""
    error: dict[str, dict[str, float | None]] = {}
    within: dict[str, dict[str, dict[str, float | None]]] = {}
    for kind in RANGES:
        error[kind], within[kind] = {}, {}
        for length in LENGTHS:
            missed = torch.cat(
                [
                    (path - shot.points)[..., length, :].norm(dim=-1)[shot.judged(kind, length)]
                    for path, shot in zip(paths, shots, strict=True)
                ]
            )
            error[kind][str(length)] = _mean(missed)
            within[kind][str(length)] = {
                str(pixels): _mean((missed < pixels).float()) for pixels in THRESHOLDS
            }
    return error, within


def visibility_scores(said: Sequence[Tensor], true: Sequence[Tensor]) -> dict[str, float | None]:
    """Precision and recall of "visible", and of "hidden"; None where nothing is said, or is so.

    Args:
        said: bool tensors, what a rule says is visible.
        true: what is, in the same shapes.
    """
    if not said:
        return dict.fromkeys(("precision", "recall", "hidden_precision", "hidden_recall"))
    says, so = (torch.cat([part.flatten() for part in parts]) for parts in (said, true))
    return {
        "precision": _mean(so[says].float()),
        "recall": _mean(says[so].float()),
        "hidden_precision": _mean((~so)[~says].float()),
        "hidden_recall": _mean((~says)[~so].float()),
    }


def hidden_share(shots: Sequence[Shot]) -> float:
    """Share of the seeds that are truly hidden by `VISIBILITY_LENGTH`."""
    return float(
        torch.stack([~shot.visible[..., VISIBILITY_LENGTH] for shot in shots]).float().mean()
    )


def camera_errors(
    shots: Sequence[Shot], flows: dict[str, FlowEstimator | None]
) -> dict[str, dict[str, float | None]]:
    """What is left of the still background's motion when the camera's is removed from a flow.

    The background that stands still is where the exact flow is the camera's pan, in the first pair
    of each shot.

    Args:
        shots: rendered scenes.
        flows: name → estimator, or None for the exact flow.

    Returns:
        Name → mean pixels there: `before`, the length of the true flow; `after`, of the relative
        flow; `flow_error`, what the flow itself misses the pan by.
    """
    found = {}
    for name, estimate in flows.items():
        before, after, error = [], [], []
        for shot in shots:
            pan = shot.pan[:, None, None]
            still = (shot.flow - pan).norm(dim=0) < _STILL
            flow = shot.flow[None]
            if estimate is not None:
                flow = estimate(shot.grey[:1], shot.grey[1:2])
            relative = remove_camera(flow, camera_motion(flow))
            before.append(shot.flow.norm(dim=0)[still])
            after.append(relative[0].norm(dim=0)[still])
            error.append((flow[0] - pan).norm(dim=0)[still])
        values = {"before": before, "after": after, "flow_error": error}
        found[name] = {key: _mean(torch.cat(parts)) for key, parts in values.items()}
    return found


def read_pairs(folder: Path) -> Pairs:
    """Read pairs NAME_frame1.png, NAME_frame2.png and NAME_flow.flo.

    Raises:
        ConfigError: none in the folder, a file that is missing, or sizes that differ.
    """
    pairs = {}
    for path in sorted(folder.glob("*_frame1.png")):
        name = path.name.removesuffix("_frame1.png")
        first = _read_grey(path)
        second = _read_grey(folder / f"{name}_frame2.png")
        truth = read_flo(folder / f"{name}_flow.flo")
        if not first.shape[1:] == second.shape[1:] == truth.shape[1:]:
            shapes = " and ".join(
                f"{image.shape[-2]}×{image.shape[-1]}" for image in (first, second, truth)
            )
            raise ConfigError(f"{path}: frames and flow must have one size, and have {shapes}")
        pairs[name] = first, second, truth
    if not pairs:
        raise ConfigError(
            f"{folder}: no NAME_frame1.png with NAME_frame2.png and NAME_flow.flo in this folder"
        )
    return pairs


def _read_grey(path: Path) -> Tensor:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise ConfigError(f"{path}: is missing or cannot be read as a picture")
    return grey(torch.from_numpy(image))[None]


def end_point_errors(estimate: FlowEstimator, pairs: Pairs) -> dict[str, dict[str, Any]]:
    """Of each pair: mean error in pixels over `all` pixels and at `seeds`, and `outliers`."""
    errors: dict[str, dict[str, Any]] = {"all": {}, "seeds": {}, "outliers": {}}
    for name, (first, second, truth) in pairs.items():
        flow = estimate(first, second)
        missed = (flow[0] - truth).norm(dim=0)
        errors["all"][name] = _mean(missed)
        errors["outliers"][name] = {
            str(pixels): _mean((missed > pixels).float()) for pixels in OUTLIERS
        }
        both = torch.stack([flow, truth[None]])
        seeds = seed_grid(truth.shape[1], truth.shape[2], SPACING)
        moved = follow(Fields(both), torch.zeros(1, 1, dtype=torch.long), seeds).displacements
        errors["seeds"][name] = _mean((moved[0] - moved[1]).norm(dim=-1))
    return errors


def _mean(values: Tensor) -> float | None:
    return float(values.mean()) if values.numel() else None
