"""The schedule against numbers worked out by hand, and which weights decay."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from m3video.config import TrainConfig
from m3video.train.optim import (
    Schedule,
    load_state_by_name,
    make_optimizer,
    parameter_groups,
    set_learning_rate,
    state_by_name,
    steps_per_epoch,
    total_steps,
)


class Small(nn.Module):
    """One of each kind of parameter; the mask token has the shape of a matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.norm = nn.LayerNorm(2)
        self.mask_token = nn.Parameter(torch.ones(1, 1, 2))
        self.frozen = nn.Parameter(torch.ones(2, 2), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.linear(x)) + self.mask_token[0]


def test_schedule_by_hand() -> None:
    schedule = Schedule(steps=14, warmup=4, peak=8.0, floor=2.0)
    assert [schedule(step) for step in (1, 2, 3, 4)] == [2.0, 4.0, 6.0, 8.0]
    # half way from step 4 to step 14 the cosine is 0, so the rate is half way too
    assert schedule(9) == pytest.approx(5.0)
    assert schedule(14) == pytest.approx(2.0)
    # a third of a half turn: cos 60° is 1/2
    third = Schedule(steps=3, warmup=0, peak=1.0, floor=0.0)
    assert [third(step) for step in (1, 2, 3)] == pytest.approx([0.75, 0.25, 0.0])


def test_schedule_matches_torch() -> None:
    schedule = Schedule(steps=50, warmup=0, peak=0.3, floor=0.01)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
    oracle = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=50, eta_min=0.01)
    for step in range(1, 51):
        optimizer.step()
        oracle.step()
        assert schedule(step) == pytest.approx(oracle.get_last_lr()[0], rel=1e-9)


def test_peak_is_scaled_by_batch_and_floor_is_not() -> None:
    config = TrainConfig(batch=64, lr=1.6e-3, min_lr=1e-5, warmup=0.1)
    schedule = Schedule.of(config, 100)
    assert schedule == Schedule(100, 10, 4e-4, 1e-5)
    low = Schedule.of(TrainConfig(batch=1, lr=1e-4, min_lr=1e-5), 10)
    assert low.floor == low.peak == 1e-4 / 256


def test_whole_run_is_warmup() -> None:
    schedule = Schedule.of(TrainConfig(batch=256, lr=1.0, warmup=1.0), 4)
    assert [schedule(step) for step in (1, 2, 3, 4)] == [0.25, 0.5, 0.75, 1.0]


def test_steps_of_a_run() -> None:
    assert steps_per_epoch(10, 4) == 2
    assert steps_per_epoch(3, 4) == 0.75
    assert total_steps(TrainConfig(batch=4, epochs=2.5), 10) == 5
    assert total_steps(TrainConfig(batch=4, epochs=2.5, steps=7), 10) == 7
    assert total_steps(TrainConfig(batch=4, epochs=8), 3) == 6
    assert total_steps(TrainConfig(batch=256, epochs=0.1), 10) == 1


def test_only_matrices_decay() -> None:
    model = Small()
    decayed, others = parameter_groups(model, 0.05)
    assert decayed["weight_decay"] == 0.05
    assert others["weight_decay"] == 0.0
    assert [id(p) for p in decayed["params"]] == [id(model.linear.weight)]
    expected = {id(p) for p in (model.linear.bias, *model.norm.parameters(), model.mask_token)}
    assert {id(p) for p in others["params"]} == expected


def test_optimizer_state_by_name_continues_bit_for_bit() -> None:
    torch.manual_seed(0)
    straight, broken = Small(), Small()
    broken.load_state_dict(straight.state_dict())
    inputs = torch.randn(6, 5, 3)

    def run(model: nn.Module, optimizer: torch.optim.Optimizer, batches: torch.Tensor) -> None:
        for number, batch in enumerate(batches):
            set_learning_rate(optimizer, 0.1 / (number + 1))
            optimizer.zero_grad()
            model(batch).square().sum().backward()
            optimizer.step()

    config = TrainConfig(weight_decay=0.1)
    first, second = make_optimizer(straight, config), make_optimizer(broken, config)
    run(straight, first, inputs[:3])
    run(broken, second, inputs[:3])
    saved = {name: tensor.clone() for name, tensor in state_by_name(broken, second).items()}
    third = make_optimizer(broken, config)
    load_state_by_name(broken, third, saved)
    run(straight, first, inputs[3:])
    run(broken, third, inputs[3:])
    for one, other in zip(straight.parameters(), broken.parameters(), strict=True):
        assert torch.equal(one, other)
    assert set(saved) >= {"linear.weight/exp_avg", "mask_token/exp_avg_sq", "norm.bias/step"}


def test_parameters_without_state_start_anew() -> None:
    model = Small()
    optimizer = make_optimizer(model, TrainConfig())
    load_state_by_name(model, optimizer, state_by_name(model, optimizer))
    assert not optimizer.state
    assert math.isfinite(optimizer.param_groups[0]["lr"])


def test_the_optimizer_is_as_configured() -> None:
    config = TrainConfig(betas=(0.7, 0.8), weight_decay=0.3)
    decayed, others = make_optimizer(nn.Linear(3, 2), config).param_groups
    assert decayed["betas"] == others["betas"] == (0.7, 0.8)
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.3, 0.0)
