"""How good the motion of each flow estimator is, and what motion costs: `benchmark motion`.

What is measured, and how, is told where it is done: `accuracy` for errors, `cost` for times.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from m3video.benchmark.accuracy import (
    VISIBILITY_LENGTH,
    Pairs,
    Shot,
    camera_errors,
    end_point_errors,
    hidden_share,
    judge_tracks,
    make_shots,
    read_pairs,
    true_motion,
)
from m3video.benchmark.cost import cpu_seconds, device_seconds, mme_config, one_thread, summarise
from m3video.benchmark.motion_tables import print_table
from m3video.config import FLOW_NAMES, FlowName
from m3video.errors import ConfigError
from m3video.motion.flow import FlowEstimator, make_flow
from m3video.targets import MAKERS
from m3video.video.moving_shapes import CLASSES

__all__ = ["ESTIMATORS", "benchmark_motion", "find_estimators", "print_table"]

ESTIMATORS: tuple[FlowName, ...] = tuple(name for name in FLOW_NAMES if name != "exact")
"""What can be judged; `exact` is the truth that they are judged by."""
GPU_BATCH = 64
_ONE_WAY = frozenset({"codec"})
"""Those that know no flow back."""


def benchmark_motion(
    flow: Path | None = None,
    repeats: int = 5,
    *,
    only: Sequence[FlowName] = (),
    weights: Path | None = None,
    sizes: tuple[str, str] = ("s", "b"),
    frame_size: tuple[int, int] = (224, 224),
    scenes: int = 2 * len(CLASSES),
) -> dict[str, Any]:
    """Measure the error of every flow estimator, and time the targets of the recipe `mme`.

    Args:
        flow: a folder of pairs NAME_frame1.png, NAME_frame2.png and NAME_flow.flo with known flow.
        repeats: timed turns, after one that is not.
        only: estimators to judge and time; all that can be used here unless given.
        weights: of RAFT.
        sizes: of the encoders of the two training steps.
        frame_size: height and width of the clips in pixels.
        scenes: moving-shapes scenes at each speed on which the tracks are judged.

    Returns:
        Costs of one clip on one CPU thread: `targets_share_of_step`, all targets of `mme` (flow,
        trajectories, HOG) over the step of the first size, `targets_share_of_step_b` of the second;
        `hog_share_of_step`; `step_seconds`, `step_seconds_b`; `targets` and `estimators`, name →
        `seconds` and shares, where targets come after the tracks that they share; `ms_per_clip` of
        each estimator. `gpu`: see `gpu_figures`; None where there is none.

        Errors, by estimator: `flow_epe`, `flow_epe_seeds` and `flow_outliers` (`end_point_errors`);
        `seed_error`, `within_px` and `visibility` (`judge_tracks`); and `seed_motion`
        (`true_motion`), `hidden_share`, `camera` (`camera_errors`).

        `missing`: estimator → why it could not be used.

    Raises:
        ConfigError: an estimator of `only`, or RAFT with its weights, cannot be used; the folder
            has no pairs, or files that do not belong together.
    """
    if repeats < 1 or scenes < 1:
        raise ConfigError(f"repeats {repeats} and scenes {scenes} must both be at least 1")
    estimators, missing = find_estimators(only, weights)
    pairs = {} if flow is None else read_pairs(flow)
    configs = {"step": mme_config(sizes[0], frame_size), "step_b": mme_config(sizes[1], frame_size)}
    with one_thread():
        _tell(f"timing steps, targets and estimators, {repeats + 1} turns")
        costs = _costs(cpu_seconds(configs, estimators, repeats), tuple(estimators))
        errors = _errors(estimators, pairs, make_shots(frame_size, scenes))
    return {
        **costs,
        **errors,
        "gpu": gpu_figures(sizes[1], frame_size, repeats) if torch.cuda.is_available() else None,
        "missing": missing,
        "size": sizes[0],
        "size_b": sizes[1],
        "frame_size": list(frame_size),
        "length": configs["step"].motion.length,
        "repeats": repeats,
        "scenes": scenes,
    }


def find_estimators(
    only: Sequence[FlowName] = (), weights: Path | None = None
) -> tuple[dict[FlowName, FlowEstimator], dict[str, str]]:
    """Make the estimators that can be used here, and say why others cannot.

    Args:
        only: those that are wanted; all unless given.
        weights: of RAFT.

    Raises:
        ConfigError: one of `only`, or RAFT with its weights, cannot be used.
    """
    for name in only:
        if name not in ESTIMATORS:
            raise ConfigError(
                f"only: {name!r} is no estimator that can be judged; use {', '.join(ESTIMATORS)}"
            )
    found: dict[FlowName, FlowEstimator] = {}
    missing: dict[str, str] = {}
    for name in ESTIMATORS:
        if only and name not in only:
            continue
        wanted = name in only or (name == "raft" and weights is not None)
        try:
            if name == "raft" and weights is None:
                raise ConfigError("flow raft needs torchvision, and its weights: --weights FILE")
            found[name] = make_flow(name, weights if name == "raft" else None)
        except (ConfigError, ImportError) as error:
            if wanted:
                raise ConfigError(f"{name} cannot be used: {error}") from error
            missing[name] = str(error)
    return found, missing


def gpu_figures(
    size: str,
    frame_size: tuple[int, int],
    repeats: int,
    device: torch.device | None = None,
    batch: int = GPU_BATCH,
) -> dict[str, Any]:
    """Times of `batched` on a GPU, and of all targets of `mme` made inside a step with it.

    Returns:
        `step_seconds`, of a batch in bf16; `targets_share_of_step`: what the targets add to it;
        `clips_per_second` and `ms_per_clip` of `batched`; `device`, `batch` and `size`.
    """
    device = torch.device("cuda") if device is None else device
    config = mme_config(size, frame_size, {"flow": "batched", "where": "step"})
    seconds = device_seconds(config, device, batch, repeats)
    figures = summarise(seconds)
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else str(device),
        "batch": batch,
        "size": size,
        "step_seconds": figures["step"]["seconds"],
        "targets_share_of_step": figures["mme"]["share_of_step"],
        "clips_per_second": batch / figures["flow"]["seconds"],
        "ms_per_clip": 1e3 * figures["flow"]["seconds"] / batch,
    }


def _costs(seconds: dict[str, list[float]], estimators: tuple[str, ...]) -> dict[str, Any]:
    """The figures of `cpu_seconds` as `benchmark_motion` gives them."""
    first, second = summarise(seconds), summarise(seconds, "step_b")
    rows = {
        name: {**row, "share_of_step_b": second[name]["share_of_step"]}
        for name, row in first.items()
    }
    return {
        "targets_share_of_step": rows["mme"]["share_of_step"],
        "targets_share_of_step_b": rows["mme"]["share_of_step_b"],
        "hog_share_of_step": rows["trajectory_hog"]["share_of_step"],
        "step_seconds": rows["step"]["seconds"],
        "step_seconds_b": rows["step_b"]["seconds"],
        "ms_per_clip": {name: 1e3 * rows[name]["seconds"] for name in estimators},
        "targets": {name: rows[name] for name in ("mme", "tracks", *MAKERS)},
        "estimators": {name: rows[name] for name in estimators},
    }


def _errors(
    estimators: Mapping[FlowName, FlowEstimator], pairs: Pairs, shots: list[Shot]
) -> dict[str, Any]:
    """The figures of `accuracy` as `benchmark_motion` gives them."""
    ends, judged = {}, {}
    for name, each in estimators.items():
        _tell(f"judging {name} by what is known of {len(shots)} scenes and {len(pairs)} pairs")
        if pairs:
            ends[name] = end_point_errors(each, pairs)
        judged[name] = judge_tracks(each, shots, back=name not in _ONE_WAY)
    _tell("judging what is found of the camera's motion")
    return {
        "flow_epe": {name: figures["all"] for name, figures in ends.items()},
        "flow_epe_seeds": {name: figures["seeds"] for name, figures in ends.items()},
        "flow_outliers": {name: figures["outliers"] for name, figures in ends.items()},
        "seed_error": {name: figures["seed_error"] for name, figures in judged.items()},
        "within_px": {name: figures["within_px"] for name, figures in judged.items()},
        "visibility": {name: figures["visibility"] for name, figures in judged.items()},
        "seed_motion": true_motion(shots),
        "visibility_length": VISIBILITY_LENGTH,
        "hidden_share": hidden_share(shots),
        "camera": camera_errors(
            shots, {"exact": None, "dis": make_flow("dis"), "dis-fast": make_flow("dis-fast")}
        ),
    }


def _tell(line: str) -> None:
    """What is being done, on the error stream: it takes minutes in all."""
    print(line, file=sys.stderr)
