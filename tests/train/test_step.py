"""One optimiser step: micro-batches, skips, precision, and that it learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from m3video.config import PretrainConfig
from m3video.targets.base import Target
from m3video.train.optim import state_by_name
from m3video.train.prepare import Batch
from m3video.train.step import Trainer, step_seed
from m3video.video.loader import Clips
from m3video.video.sampling import plan_run
from tests.test_masking import KINDS
from tests.train.test_prepare import all_clips, first_clips
from tests.train.tiny import tiny_config

CPU = torch.device("cpu")


def make_trainer(config: PretrainConfig) -> Trainer:
    return Trainer(config, plan_run(config), CPU)


def poison(clips: Clips) -> Clips:
    """Make one number of one target NaN, where it is valid and hidden."""
    values, valid = clips.extras["trajectory/values"], clips.extras["trajectory/valid"]
    counted = valid.expand_as(values) & clips.extras["mask"][..., None]
    where = tuple(counted.nonzero()[0])
    values = values.clone()
    values[where] = float("nan")
    return replace(clips, extras={**clips.extras, "trajectory/values": values})


@pytest.mark.parametrize(
    "mask", [{"kind": "tube"}, {"kind": "motion-top", "decode": 0.4}, {"kind": "block"}]
)
def test_micro_batches_equal_one_batch(tmp_path: Path, mask: dict[str, Any]) -> None:
    whole = tiny_config(tmp_path, mask=mask, train={"batch": 4, "accumulate": 1})
    parts = tiny_config(tmp_path, mask=mask, train={"batch": 4, "accumulate": 4})
    clips = first_clips(whole)
    # unequal counts: nearly nothing is known of the first clip, nothing of the second's motion
    valid = clips.extras["trajectory/valid"].clone()
    valid[0, 3:] = False
    valid[1] = False
    clips = replace(clips, extras={**clips.extras, "trajectory/valid": valid})
    one, many = make_trainer(whole), make_trainer(parts)
    first, second = one.step(clips, 1, 1e-3), many.step(clips, 1, 1e-3)
    assert second.loss == pytest.approx(first.loss, rel=1e-5)
    assert second.losses == pytest.approx(first.losses, rel=1e-5)
    assert second.grad_norm == pytest.approx(first.grad_norm, rel=1e-4)
    moments = state_by_name(many.model, many.optimizer)
    for name, moment in state_by_name(one.model, one.optimizer).items():
        torch.testing.assert_close(moments[name], moment, rtol=1e-3, atol=1e-7, msg=name)


def test_loss_is_the_weighted_sum(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    result = make_trainer(config).step(first_clips(config), 1, 1e-3)
    expected = result.losses["trajectory"] + 0.5 * result.losses["trajectory_hog"]
    assert result.loss == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("decode", [1.0, 0.5])
def test_loss_is_that_of_the_model(tmp_path: Path, decode: float) -> None:
    config = tiny_config(tmp_path, mask={"decode": decode})
    trainer, clips = make_trainer(config), first_clips(config)
    batch = trainer.finish(clips)
    output = trainer.model(batch.clip, batch.mask, batch.targets, decode=batch.decode)
    assert output["predictions"]["trajectory"].shape[1] == (16 if decode == 0.5 else 32)
    expected = output["loss"].item()
    assert trainer.step(clips, 1, 1e-3).loss == pytest.approx(expected, rel=1e-6)


def test_step_that_is_not_finite_changes_nothing(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    trainer, clips = make_trainer(config), first_clips(config)
    assert trainer.step(clips, 1, 1e-3).finite
    weights = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    moments = {n: t.clone() for n, t in state_by_name(trainer.model, trainer.optimizer).items()}
    result = trainer.step(poison(clips), 2, 1e-3)
    assert not result.finite
    assert result.losses["trajectory_hog"] > 0  # the other target is still reported
    for name, tensor in trainer.model.state_dict().items():
        assert torch.equal(tensor, weights[name]), name
    for name, tensor in state_by_name(trainer.model, trainer.optimizer).items():
        assert torch.equal(tensor, moments[name]), name
    assert trainer.step(clips, 3, 1e-3).finite
    assert not torch.equal(trainer.model.mask_token, weights["mask_token"])


def test_finite_loss_with_infinite_gradient_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(tmp_path)
    trainer, clips = make_trainer(config), first_clips(config)
    trainer.model.mask_token.register_hook(lambda grad: grad * float("inf"))
    before = trainer.model.mask_token.detach().clone()
    assert not trainer.step(clips, 1, 1e-3).finite
    assert torch.equal(trainer.model.mask_token, before)


def test_gradient_is_clipped_and_its_norm_told_from_before(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, train={"clip_grad": 1e-3})
    free, clipped = make_trainer(tiny_config(tmp_path)), make_trainer(config)
    clips = first_clips(config)
    assert clipped.step(clips, 1, 1e-3).grad_norm == free.step(clips, 1, 1e-3).grad_norm > 1e-3
    moments = state_by_name(clipped.model, clipped.optimizer)
    squares = [m.square().sum() for name, m in moments.items() if name.endswith("exp_avg")]
    # after one step exp_avg is (1 − β₁) of the gradient
    assert torch.stack(squares).sum().sqrt() / 0.1 == pytest.approx(1e-3, rel=1e-3)


def test_overfits_one_batch(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    trainer, clips = make_trainer(config), first_clips(config)
    losses = [trainer.step(clips, number, 1e-3).loss for number in range(1, 41)]
    assert losses[-1] < 0.6 * losses[0]


def test_bf16_is_near_fp32(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    clips = first_clips(config)
    full = make_trainer(config).step(clips, 1, 1e-3)
    half = make_trainer(tiny_config(tmp_path, train={"precision": "bf16"})).step(clips, 1, 1e-3)
    assert half.loss == pytest.approx(full.loss, rel=0.02)
    assert half.loss != full.loss


@pytest.mark.parametrize("kind", KINDS)
def test_worker_and_step_train_alike(tmp_path: Path, kind: str) -> None:
    """Three steps of each kind of mask, with half of the hidden tokens decoded."""
    mask = {"kind": kind, "decode": 0.5}
    worker = tiny_config(tmp_path, mask=mask, motion={"where": "worker"})
    step = tiny_config(tmp_path, mask=mask, motion={"where": "step"})
    first, second = make_trainer(worker), make_trainer(step)
    batches = zip(all_clips(worker, 3), all_clips(step, 3), strict=True)
    for number, (ready, raw) in enumerate(batches, start=1):
        result = first.step(ready, number, 1e-3)
        assert result.finite
        assert result.loss > 0
        again = second.step(raw, number, 1e-3)
        assert (again.losses, again.grad_norm) == (result.losses, result.grad_norm)


def test_decoding_less_is_another_loss(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, mask={"decode": 0.25})
    some, whole = make_trainer(config), make_trainer(tiny_config(tmp_path))
    clips = first_clips(config)
    first, second = some.step(clips, 1, 1e-3), whole.step(clips, 1, 1e-3)
    assert first.loss != second.loss


def test_compiled_weights_keep_their_names(tmp_path: Path) -> None:
    plain = make_trainer(tiny_config(tmp_path))
    compiled = make_trainer(tiny_config(tmp_path, train={"compile": True}))
    assert list(compiled.model.state_dict()) == list(plain.model.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("decode", [1.0, 0.5])
def test_compiled_step_equals_plain(tmp_path: Path, decode: float) -> None:
    mask = {"kind": "motion-bins", "decode": decode}
    config = tiny_config(tmp_path, mask=mask, train={"compile": True})
    clips = first_clips(config)
    plain = make_trainer(tiny_config(tmp_path, mask=mask)).step(clips, 1, 1e-3)
    compiled = make_trainer(config)
    assert compiled.step(clips, 1, 1e-3).loss == pytest.approx(plain.loss, rel=1e-5)
    assert compiled.step(clips, 2, 1e-3).loss < plain.loss


def test_step_seeds_differ(tmp_path: Path) -> None:
    seeds = {step_seed(seed, step) for seed in range(10) for step in range(10)}
    assert len(seeds) == 100


def test_batch_without_anything_valid_is_no_loss(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, train={"accumulate": 2})
    clips = first_clips(config)
    nothing = {
        name: torch.zeros_like(value) if name.endswith("/valid") else value
        for name, value in clips.extras.items()
    }
    result = make_trainer(config).step(replace(clips, extras=nothing), 1, 1e-3)
    assert result.finite
    assert result.loss == 0.0


def test_target_counts_ask_for_whole_tokens() -> None:
    values = torch.zeros(1, 3, 5)
    mask = torch.tensor([[True, True, False]])
    valid = torch.tensor([[[True], [False], [True]]])
    batch = Batch(torch.zeros(0), mask, {"pixel": Target(values, valid)})
    assert batch.counts()["pixel"] == 5
