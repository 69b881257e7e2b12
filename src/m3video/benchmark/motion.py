"""What the motion targets cost next to a training step, and how good the motion is.

- Cost: one clip, one CPU thread, in seconds of CPU time, which waiting for other programs does not
  add to. The step (forward, backward, AdamW; targets and normalised input given) and the targets
  take turns, so that what slows the machine meets both alike; a share is the median over turns of
  a turn's ratio.
- Error on moving shapes: distance of a seed from where it truly is after L steps, over the seeds
  that can be seen all the way.
- Error on pairs with known flow: the mean end-point error over all pixels, and at seeds 8 px apart.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from m3video.config import FLOW_NAMES, FlowName, HogConfig, PixelConfig, PretrainConfig
from m3video.errors import ConfigError
from m3video.masking import make_mask
from m3video.model import build_model
from m3video.motion.fields import Fields
from m3video.motion.flow import grey, make_flow, read_flo
from m3video.motion.trajectory import follow, seed_grid, track
from m3video.recipes import recipe_config
from m3video.targets import MAKERS, ClipView, Target, TargetMaker, build_targets
from m3video.train.optim import make_optimizer
from m3video.video.augment import normalise
from m3video.video.moving_shapes import CLASSES, Scenes, render, sample_scenes
from m3video.video.sampling import ClipPlan, plan_run, sample_generator

Timed = Callable[[], object]
_SPACING = 8


def benchmark_motion(
    flow: Path | None = None,
    repeats: int = 5,
    *,
    size: str = "s",
    frame_size: tuple[int, int] = (224, 224),
    scenes: int = 4 * len(CLASSES),
) -> dict[str, Any]:
    """Time the targets of the recipe `mme` and measure the error of every flow estimator.

    Args:
        flow: a folder of pairs NAME_frame1.png, NAME_frame2.png and NAME_flow.flo with known flow.
        repeats: timed turns, after one that is not.
        size: of the encoder of the training step.
        frame_size: height and width of the clips in pixels.
        scenes: moving-shapes scenes on which the tracks are judged.

    Returns:
        `targets_share_of_step`: all targets of `mme` (flow, trajectories, HOG) over the step;
        `hog_share_of_step`: its HOG alone; `flow_epe` and `flow_epe_seeds`: estimator → pair →
        pixels; `seed_error`: estimator → pixels after L steps; `seed_motion`: how far those seeds
        truly go; `step_seconds`; `targets` and `estimators`: name → `seconds` a clip and
        `share_of_step`, where targets come after the tracks that they share.

    Raises:
        ConfigError: the folder has no pairs, or files that do not belong together.
    """
    if repeats < 1 or scenes < 1:
        raise ConfigError(f"repeats {repeats} and scenes {scenes} must both be at least 1")
    pairs = {} if flow is None else _read_pairs(flow)
    changes = {"model": {"size": size}, "clip": {"size": frame_size}}
    config = recipe_config("mme", data="moving-shapes", out=Path("unused"), changes=changes)
    with _one_thread():
        seconds = _cost(config, repeats)
        epe = {name: _end_point_errors(name, pairs) for name in FLOW_NAMES}
        seed_error, seed_motion = _seed_errors(config, scenes)
    step = seconds["step"]
    shares = {
        name: statistics.median(part / whole for part, whole in zip(parts, step, strict=True))
        for name, parts in seconds.items()
    }
    rows = {
        name: {"seconds": statistics.median(parts), "share_of_step": shares[name]}
        for name, parts in seconds.items()
    }
    return {
        "targets_share_of_step": shares["mme"],
        "hog_share_of_step": shares["trajectory_hog"],
        "flow_epe": {name: errors["all"] for name, errors in epe.items()} if pairs else {},
        "flow_epe_seeds": {name: errors["seeds"] for name, errors in epe.items()} if pairs else {},
        "seed_error": seed_error,
        "seed_motion": seed_motion,
        "step_seconds": statistics.median(step),
        "targets": {name: rows[name] for name in ("mme", "tracks", *MAKERS)},
        "estimators": {name: rows[name] for name in FLOW_NAMES},
        "size": size,
        "frame_size": list(frame_size),
        "length": config.motion.length,
        "repeats": repeats,
        "scenes": scenes,
    }


def _cost(config: PretrainConfig, repeats: int) -> dict[str, list[float]]:
    """Seconds of the step, of all `mme` targets, of each target alone, and of each estimator."""
    plan = plan_run(config)
    frames = _scenes(config, 0, plan.span)[1][:, list(plan.offsets)]
    ready = _view(config, plan, frames)
    makers = build_targets(config)
    others = {"pixel": PixelConfig(weight=1), "hog": HogConfig(weight=1, colour="rgb")}
    targets = config.targets.model_copy(update=others)
    every = build_targets(config.model_copy(update={"targets": targets}))
    timed: dict[str, Timed] = {
        "step": _training_step(config, ready, makers),
        "mme": lambda: _make_all(makers, _view(config, plan, frames)),
        "tracks": lambda: _view(config, plan, frames).tracks,
        **{name: partial(maker, ready) for name, maker in every.items()},
    }
    rows = torch.tensor(plan.pairs)
    first, second = ready.grey[0, rows], ready.grey[0, rows + 1]
    timed.update({name: partial(make_flow(name), first, second) for name in FLOW_NAMES})
    return _take_turns(timed, repeats)


def _view(config: PretrainConfig, plan: ClipPlan, frames: Tensor) -> ClipView:
    real = torch.ones(frames.shape[:2], dtype=torch.bool)
    return ClipView(frames, real, plan, config.clip, config.motion)


def _make_all(makers: dict[str, TargetMaker], view: ClipView) -> dict[str, Target]:
    return {name: maker(view) for name, maker in makers.items()}


def _training_step(config: PretrainConfig, view: ClipView, makers: dict[str, TargetMaker]) -> Timed:
    """Forward, backward and AdamW on one clip whose input and targets are there."""
    generator = sample_generator(config.train.seed, 0, 0)
    clip = normalise(view.frames[:, list(view.plan.inputs)])
    mask = make_mask(config.mask, config.clip.tokens, generator)
    targets = _make_all(makers, view)
    model = build_model(config, {name: maker.dim for name, maker in makers.items()})
    optimiser = make_optimizer(model, config.train)

    def step() -> None:
        model(clip, mask, targets)["loss"].backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return step


def _take_turns(timed: dict[str, Timed], repeats: int) -> dict[str, list[float]]:
    """CPU seconds of each, turn by turn; one more turn warms up and compiles."""
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for turn in range(-1, repeats):
        for name, run in timed.items():
            start = time.process_time()
            run()
            if turn >= 0:
                seconds[name].append(time.process_time() - start)
    return seconds


def _scenes(config: PretrainConfig, number: int, frames: int) -> tuple[Scenes, Tensor]:
    """One scene, of class `number` modulo their count, and its frames uint8 [1, S, H, W, 3]."""
    scenes = sample_scenes(
        torch.tensor([number % len(CLASSES)]),
        frames=frames,
        size=config.clip.size,
        texture="both",
        generator=sample_generator(0, 0, number),
        duration=config.clip.frames * config.clip.stride,
    )
    return scenes, render(scenes)


def _seed_errors(config: PretrainConfig, count: int) -> tuple[dict[str, float], float]:
    """Mean distance of seeds from where they truly are after L steps, and from where they began."""
    length = config.motion.length
    spacing = config.spacing
    seeds = seed_grid(*config.clip.size, spacing)
    wrong: dict[str, list[Tensor]] = {name: [] for name in FLOW_NAMES}
    moved: list[Tensor] = []
    for number in range(count):
        scene, frames = _scenes(config, number, length + 1)
        exact = scene.tracks(seeds[None], 0, length)
        seen = exact.visible[0].all(dim=-1)
        end = exact.points[0, seen, -1]
        moved.append((end - seeds[seen]).norm(dim=-1))
        for name in FLOW_NAMES:
            tracks = track(frames[0], length=length, spacing=spacing, flow=name)
            wrong[name].append((tracks.points[0, seen, -1] - end).norm(dim=-1))
    errors = {name: float(torch.cat(parts).mean()) for name, parts in wrong.items()}
    return errors, float(torch.cat(moved).mean())


def _read_pairs(folder: Path) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Pairs of grey frames uint8 [1, H, W] and the true flow float32 [2, H, W], by name."""
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


def _end_point_errors(
    name: FlowName, pairs: dict[str, tuple[Tensor, Tensor, Tensor]]
) -> dict[str, dict[str, float]]:
    """Mean end-point error of each pair in pixels, over `all` pixels and at `seeds`."""
    errors: dict[str, dict[str, float]] = {"all": {}, "seeds": {}}
    for pair, (first, second, truth) in pairs.items():
        flow = make_flow(name)(first, second)
        errors["all"][pair] = float((flow[0] - truth).norm(dim=0).mean())
        both = torch.stack([flow, truth[None]])
        seeds = seed_grid(truth.shape[1], truth.shape[2], _SPACING)
        moved = follow(Fields(both, both), torch.zeros(1, 1, dtype=torch.long), seeds).displacements
        errors["seeds"][pair] = float((moved[0] - moved[1]).norm(dim=-1).mean())
    return errors


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


_LABELS = {
    "mme": "all of recipe mme",
    "tracks": "flow and tracks, once",
    "pixel": "pixel",
    "hog": "hog (grid, rgb)",
    "trajectory": "trajectory (after tracks)",
    "trajectory_hog": "trajectory_hog (after tracks)",
}


def print_table(result: dict[str, Any]) -> None:
    """Show what `benchmark_motion` found."""
    height, width = result["frame_size"]
    console = Console()
    cost = Table(
        title=f"One clip of {height}×{width}, one CPU thread\n"
        f"Training step of ViT-{result['size'].upper()}: {result['step_seconds']:.2f} s"
    )
    for column in ("", "ms / clip", "share of the step"):
        cost.add_column(column, justify="right" if column else "left")
    for group in ("targets", "estimators"):
        for name, row in result[group].items():
            milliseconds, share = 1e3 * row["seconds"], row["share_of_step"]
            cost.add_row(_LABELS.get(name, name), f"{milliseconds:.1f}", f"{share:.1%}")
        cost.add_section()
    console.print(cost)

    pairs = sorted({pair for errors in result["flow_epe"].values() for pair in errors})
    error = Table(
        title=f"Error in pixels\n{result['scenes']} moving shapes: seeds after "
        f"{result['length']} steps, in which they go {result['seed_motion']:.2f}"
        + ("\npairs: end point, over all pixels / at seeds" if pairs else "")
    )
    for column in ("", "moving shapes", *pairs):
        error.add_column(column, justify="right" if column else "left")
    for name, pixels in result["seed_error"].items():
        ends = [
            f"{result['flow_epe'][name][pair]:.2f} / {result['flow_epe_seeds'][name][pair]:.2f}"
            for pair in pairs
        ]
        error.add_row(name, f"{pixels:.2f}", *ends)
    console.print(error)
    if not pairs:
        console.print("No pairs with known flow were given: --flow FOLDER")
