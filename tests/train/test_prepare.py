"""Targets made in a worker and in the step are the same; the mask comes from the sample alone."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from m3video.config import PretrainConfig
from m3video.masking import make_mask
from m3video.train.prepare import Batch, Finish, Prepare
from m3video.video.loader import Clips, make_loader
from m3video.video.moving_shapes import MovingShapes
from m3video.video.sampling import plan_run, sample_generator
from tests.train.tiny import tiny_config

ALL_TARGETS = {
    "pixel": {"weight": 1.0},
    "hog": {"weight": 1.0, "cell": 4},
    "trajectory": {"weight": 1.0},
    "trajectory_hog": {"weight": 1.0, "cell": 4},
}


def first_clips(config: PretrainConfig) -> Clips:
    """The first batch of the run."""
    plan = plan_run(config)
    source = MovingShapes(clips=8, clip=config.clip, plan=plan, texture="noise")
    loader = make_loader(
        source,
        batch=config.train.batch,
        seed=config.train.seed,
        first_step=0,
        last_step=1,
        workers=0,
        prepare=Prepare(config, plan),
    )
    return next(iter(loader))


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


def test_counts_are_of_valid_numbers_of_hidden_tokens(tmp_path: Path) -> None:
    batch = first_batch(tiny_config(tmp_path, targets=ALL_TARGETS))
    counts = batch.counts()
    for name, target in batch.targets.items():
        expected = (target.valid.expand_as(target.values) & batch.mask[..., None]).sum()
        assert counts[name] == expected, name
