"""What motion costs next to a training step, on one CPU thread and on a GPU.

The steps (forward, backward, AdamW; targets and normalised input given) and all else take turns,
so that what slows the machine meets all alike; a share is the median over turns of a turn's ratio.
On the CPU it is one clip and CPU time, which waiting for other programs does not add to; on a GPU a
batch, by the clock, in bf16.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import torch
from torch import Tensor

from m3video.benchmark.accuracy import draw_scene
from m3video.config import FlowName, PretrainConfig, TargetsConfig
from m3video.masking import hidden_count, make_mask
from m3video.model import build_model
from m3video.motion.flow import FlowEstimator
from m3video.recipes import recipe_config
from m3video.targets import ClipView, Target, TargetMaker, build_targets
from m3video.train.optim import make_optimizer
from m3video.video.augment import normalise
from m3video.video.sampling import ClipPlan, plan_run, sample_generator

Timed = Callable[[], object]
_PATIENCE = 5.0
"""CPU seconds above which a thing is timed in one turn only."""


def mme_config(
    size: str, frame_size: tuple[int, int], motion: dict[str, str] | None = None
) -> PretrainConfig:
    """The recipe `mme` with another encoder and frame size, and other settings of motion."""
    changes = {"model": {"size": size}, "clip": {"size": frame_size}, "motion": motion or {}}
    return recipe_config("mme", data="moving-shapes", out=Path("unused"), changes=changes)


def cpu_seconds(
    configs: dict[str, PretrainConfig], estimators: Mapping[FlowName, FlowEstimator], repeats: int
) -> dict[str, list[float]]:
    """CPU seconds, turn by turn, of one clip and thread.

    Args:
        configs: name of a step → recipe `mme` with the size of its encoder.
        estimators: timed on the pairs that a clip's trajectories need.
        repeats: turns.

    Returns:
        Seconds of each step, of `mme` (all of its targets from frames), of `tracks` (flow and
        trajectories), of each target after those, and of each estimator.
    """
    config = next(iter(configs.values()))
    plan = plan_run(config)
    frames = _clip(config, plan, 0)
    ready = _view(config, plan, frames)
    makers = build_targets(config)
    every = build_targets(config.model_copy(update={"targets": _all_targets(config.targets)}))
    timed: dict[str, Timed] = {
        **{name: training_step(each, ready, makers) for name, each in configs.items()},
        "mme": lambda: _make_all(makers, _view(config, plan, frames)),
        "tracks": lambda: _view(config, plan, frames).tracks,
        **{name: partial(maker, ready) for name, maker in every.items()},
    }
    rows = torch.tensor(plan.pairs)
    first, second = ready.grey[0, rows], ready.grey[0, rows + 1]
    timed.update({name: partial(flow, first, second) for name, flow in estimators.items()})
    return _take_turns(timed, repeats, time.process_time)


def device_seconds(
    config: PretrainConfig, device: torch.device, batch: int, repeats: int
) -> dict[str, list[float]]:
    """Seconds by the clock, turn by turn, of a batch of clips on a device.

    Returns:
        Seconds of `step`, of `flow` (the config's estimator on the pairs of all clips) and of `mme`
        (all targets from frames, as with `motion.where: step`).
    """
    plan = plan_run(config)
    drawn = torch.cat([_clip(config, plan, number) for number in range(min(batch, 8))])
    frames = drawn.repeat(-(-batch // len(drawn)), 1, 1, 1, 1)[:batch].to(device)
    makers = build_targets(config)
    ready = _view(config, plan, frames)
    timed: dict[str, Timed] = {
        "step": training_step(config, ready, makers),
        "flow": lambda: _view(config, plan, frames).fields,
        "mme": lambda: _make_all(makers, _view(config, plan, frames)),
    }

    def clock() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    return _take_turns(timed, repeats, clock)


def summarise(seconds: dict[str, list[float]], step: str = "step") -> dict[str, dict[str, float]]:
    """Name → median `seconds` and `share_of_step`; what has fewer turns was in the first ones."""
    return {
        name: {
            "seconds": statistics.median(parts),
            "share_of_step": statistics.median(
                part / whole for part, whole in zip(parts, seconds[step], strict=False)
            ),
        }
        for name, parts in seconds.items()
    }


def training_step(config: PretrainConfig, view: ClipView, makers: dict[str, TargetMaker]) -> Timed:
    """Forward, backward and AdamW on clips whose input and targets are there."""
    device = view.frames.device
    generator = sample_generator(config.train.seed, 0, 0)
    clip = normalise(view.frames[:, list(view.plan.inputs)])
    mask = make_mask(config.mask, config.clip.tokens, generator, len(view.frames)).to(device)
    hidden = hidden_count(config.mask, config.clip.tokens)
    targets = _make_all(makers, view)
    model = build_model(config, {name: maker.dim for name, maker in makers.items()}).to(device)
    optimiser = make_optimizer(model.train(), config.train)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type != "cpu"):
            loss = model(clip, mask, targets, hidden=hidden)["loss"]
        loss.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return step


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for torch and OpenCV."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


def _all_targets(targets: TargetsConfig) -> TargetsConfig:
    """Every target with a weight; HOG of three channels, as `mme-released` has it."""
    weighted: dict[str, Any] = {
        name: getattr(targets, name).model_copy(update={"weight": 1.0})
        for name in type(targets).model_fields
    }
    weighted["hog"] = weighted["hog"].model_copy(update={"colour": "rgb"})
    return targets.model_copy(update=weighted)


def _clip(config: PretrainConfig, plan: ClipPlan, number: int) -> Tensor:
    """The plan's rows of a scene: uint8 [1, R, H, W, 3]."""
    duration = config.clip.frames * config.clip.stride
    frames = draw_scene(config.clip.size, number, plan.span, duration)[1]
    return frames[:, list(plan.offsets)]


def _view(config: PretrainConfig, plan: ClipPlan, frames: Tensor) -> ClipView:
    real = torch.ones(frames.shape[:2], dtype=torch.bool, device=frames.device)
    return ClipView(frames, real, plan, config.clip, config.motion)


def _make_all(makers: dict[str, TargetMaker], view: ClipView) -> dict[str, Target]:
    return {name: maker(view) for name, maker in makers.items()}


def _take_turns(
    timed: dict[str, Timed], repeats: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Seconds of each, turn by turn; one more turn warms up and compiles."""
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for turn in range(-1, repeats):
        for name, run in timed.items():
            if turn > 0 and seconds[name][0] > _PATIENCE:
                continue
            start = clock()
            run()
            if turn >= 0:
                seconds[name].append(clock() - start)
    return seconds
