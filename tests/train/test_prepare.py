"""Targets and masks made in a worker and in the step are the same; all that is drawn comes from the
sample alone."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from m3video.config import PretrainConfig
from m3video.masking import CELL_STARTS, decode_mask, decoded_count, hidden_count, make_mask
from m3video.motion import descriptor, flow_descriptor
from m3video.train.prepare import Batch, Finish, Prepare, alone
from m3video.video.augment import normalise
from m3video.video.loader import Clips, make_loader
from m3video.video.moving_shapes import MovingShapes
from m3video.video.sampling import plan_run, sample_generator
from tests.test_masking import KINDS, MOTION
from tests.train.tiny import tiny_config

ALL_TARGETS = {
    "pixel": {"weight": 1.0},
    "hog": {"weight": 1.0, "cell": 4},
    "trajectory": {"weight": 1.0},
    "trajectory_hog": {"weight": 1.0, "cell": 4},
}


def all_clips(config: PretrainConfig, steps: int) -> list[Clips]:
    """The first batches of the run."""
    plan = plan_run(config)
    source = MovingShapes(clips=8, clip=config.clip, plan=plan, texture="noise")
    loader = make_loader(
        source,
        batch=config.train.batch,
        seed=config.train.seed,
        first_step=0,
        last_step=steps,
        workers=0,
        prepare=Prepare(config, plan),
    )
    return list(loader)


def first_clips(config: PretrainConfig) -> Clips:
    """The first batch of the run."""
    return all_clips(config, 1)[0]


def first_batch(config: PretrainConfig) -> Batch:
    """What the model reads of it."""
    plan = plan_run(config)
    return Finish(config, plan)(first_clips(config))


def test_worker_and_step_give_the_same(tmp_path: Path) -> None:
    step = first_batch(tiny_config(tmp_path, targets=ALL_TARGETS, motion={"where": "step"}))
    worker = first_batch(tiny_config(tmp_path, targets=ALL_TARGETS, motion={"where": "worker"}))
    assert torch.equal(step.clip, worker.clip)
    assert torch.equal(step.mask, worker.mask)
    assert list(step.targets) == list(worker.targets) == list(ALL_TARGETS)
    for name, target in step.targets.items():
        assert torch.equal(target.values, worker.targets[name].values), name
        assert torch.equal(target.valid, worker.targets[name].valid), name
        assert target.values.std() > 0, name


def test_worker_sends_only_what_the_encoder_reads(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, motion={"where": "worker"})
    clips = first_clips(config)
    assert clips.frames.shape == (4, 4, 32, 48, 3)
    assert clips.real.shape == (4, 4)
    rows = len(plan_run(config).offsets)
    in_step = first_clips(tiny_config(tmp_path, motion={"where": "step"}))
    assert in_step.frames.shape == (4, rows, 32, 48, 3)
    assert set(in_step.extras) == {"mask"}


@pytest.mark.parametrize("kind", KINDS)
def test_worker_and_step_make_the_same_mask(tmp_path: Path, kind: str) -> None:
    off = {"weight": 0.0}
    targets = {"pixel": {"weight": 1.0}, "trajectory": off, "trajectory_hog": off}
    mask = {"kind": kind, "ratio": 0.6, "decode": 0.5}
    step = tiny_config(tmp_path, mask=mask, targets=targets, motion={"where": "step"})
    worker = tiny_config(tmp_path, mask=mask, targets=targets, motion={"where": "worker"})
    first, second = first_batch(step), first_batch(worker)
    assert torch.equal(first.mask, second.mask)
    assert first.decode is not None
    assert second.decode is not None
    assert torch.equal(first.decode, second.decode)
    assert torch.equal(first.clip, second.clip)
    assert (first.mask.sum(dim=1) == hidden_count(step.mask, step.clip.tokens)).all()
    assert (first.decode.sum(dim=1) == decoded_count(step.mask, step.clip.tokens)).all()
    assert not (first.decode & ~first.mask).any()
    assert not torch.equal(first.decode[:1].expand_as(first.decode), first.decode)


@pytest.mark.parametrize("kind", MOTION)
def test_masks_follow_the_motion_of_their_clip(tmp_path: Path, kind: str) -> None:
    """Of clips that move in one half alone, the other half is what is shown and hidden last."""
    config = tiny_config(
        tmp_path, mask={"kind": kind, "ratio": 0.5, "high": 0.0}, motion={"where": "step"}
    )
    plan = plan_run(config)
    prepare, finish = Prepare(config, plan), Finish(config, plan)
    source = MovingShapes(clips=8, clip=config.clip, plan=plan, texture="noise")
    for number in range(4):
        clip = source.clip(number, 0, sample_generator(0, 0, number))
        frames = clip.frames.clone()
        frames[:, :, 24:] = frames[:1, :, 24:]  # the right half stands still
        prepared = prepare(replace(clip, frames=frames), sample_generator(0, 0, number))
        hidden = finish(alone(prepared)).mask.view(2, 4, 6)
        assert hidden[:, :, :2].float().mean() > hidden[:, :, 4:].float().mean() + 0.3


def test_where_the_cell_starts_is_drawn_after_the_mask(tmp_path: Path) -> None:
    """So that decoding less hides nothing else."""
    some = tiny_config(tmp_path, mask={"decode": 0.5})
    clips, batch = first_clips(some), first_batch(some)
    start = clips.extras["cell"]
    assert ((start >= 0) & (start < CELL_STARTS)).all()
    assert len(set(start.tolist())) == 4
    whole = first_batch(tiny_config(tmp_path))
    assert whole.decode is None
    assert torch.equal(batch.mask, whole.mask)
    expected = decode_mask(some.mask, batch.mask, some.clip.tokens, start)
    assert batch.decode is not None
    assert torch.equal(batch.decode, expected)


def test_the_encoder_reads_the_rows_of_the_plan(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, motion={"where": "step"})
    plan, clips = plan_run(config), first_clips(config)
    assert plan.inputs != tuple(range(len(plan.offsets)))
    finish = Finish(config, plan)
    expected = normalise(clips.frames[:, list(plan.inputs)])
    for _ in range(2):
        assert torch.equal(finish(clips).clip, expected)


def test_mask_is_drawn_from_the_generator_of_the_sample(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, motion={"where": "step"})
    prepare = Prepare(config, plan_run(config))
    clip = Clips(
        frames=torch.zeros(7, 32, 48, 3, dtype=torch.uint8),
        real=torch.ones(7, dtype=torch.bool),
        label=torch.tensor(-1),
        index=torch.tensor(5),
        extras={},
        unreadable=[],
    )
    drawn = [prepare(clip, sample_generator(0, 1, index)).extras["mask"] for index in (5, 5, 6)]
    expected = make_mask(config.mask, config.clip.tokens, sample_generator(0, 1, 5))[0]
    assert torch.equal(drawn[0], expected)
    assert torch.equal(drawn[1], expected)
    assert not torch.equal(drawn[2], expected)


def test_pixels_alone_need_no_more_than_the_input(tmp_path: Path) -> None:
    off = {"weight": 0.0}
    targets = {"pixel": {"weight": 1.0}, "trajectory": off, "trajectory_hog": off}
    for where in ("worker", "step"):
        batch = first_batch(tiny_config(tmp_path, targets=targets, motion={"where": where}))
        assert batch.clip.shape == (4, 3, 4, 32, 48)
        assert list(batch.targets) == ["pixel"]


@pytest.mark.parametrize("where", ["worker", "step"])
def test_survives_the_way_to_a_spawned_worker(tmp_path: Path, where: str) -> None:
    config = tiny_config(tmp_path, motion={"where": where})
    prepare = Prepare(config, plan_run(config))
    assert pickle.loads(pickle.dumps(prepare)) == prepare


@pytest.mark.parametrize("decode", [1.0, 0.4])
def test_counts_are_of_valid_numbers_of_decoded_tokens(tmp_path: Path, decode: float) -> None:
    batch = first_batch(tiny_config(tmp_path, targets=ALL_TARGETS, mask={"decode": decode}))
    counts = batch.counts()
    decoded = batch.mask if batch.decode is None else batch.decode
    assert (batch.decode is None) == (decode == 1)
    for name, target in batch.targets.items():
        expected = (target.valid.expand_as(target.values) & decoded[..., None]).sum()
        assert counts[name] == expected, name


class _FromPython(TorchDispatchMode):
    """Names the tensors that are made of Python numbers, which on a GPU are copied there.

    Grey frames, uint8, come from OpenCV; on a GPU they are made there.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func.name() == "aten::lift_fresh" and args[0].dtype != torch.uint8:
            self.seen.append(f"{args[0].dtype} {list(args[0].shape)}")
        return func(*args, **(kwargs or {}))


def test_later_steps_copy_no_index_to_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU such a copy is waited for; every step would stand still for it."""
    for module in (descriptor, flow_descriptor):  # the way that is taken there
        monkeypatch.setattr(module, "is_compiled", lambda planes, dtype: False)
    cells = ("hog", "flow", "hof", "mbh", "trajectory_hog", "trajectory_hof", "trajectory_mbh")
    targets: dict[str, Any] = {name: {"weight": 1.0, "cell": 4} for name in cells}
    targets |= {"pixel": {"weight": 1.0}, "trajectory": {"weight": 1.0}}
    config = tiny_config(
        tmp_path, targets=targets, motion={"where": "step", "flow": "batched", "upsample": 2}
    )
    plan, clips = plan_run(config), first_clips(config)
    finish = Finish(config, plan)
    finish(clips)
    with _FromPython() as watched:
        finish(clips)
    assert watched.seen == []
