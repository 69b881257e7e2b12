"""The benchmark of the training step: it compares equals, and says so in figures."""

from __future__ import annotations

import json
from typing import Literal

import pytest
import torch

from m3video.benchmark import train
from m3video.errors import ConfigError

pytest.importorskip("transformers")


@pytest.mark.parametrize("task", ["pretrain", "finetune"])
def test_both_sides_train_the_same_model(task: Literal["pretrain", "finetune"]) -> None:
    threads = torch.get_num_threads()
    result = train.benchmark_train("nano", task=task, repeats=2, batch=2, frame_size=(32, 48))
    assert result["task"] == task
    assert result["ratio_to_transformers"] > 0
    ours, theirs = result["ours"], result["transformers"]
    assert ours["parameters"] == theirs["parameters"]
    assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
    assert ours["clips_per_second"] == pytest.approx(2 / ours["seconds"])
    assert torch.get_num_threads() == threads
    assert json.loads(json.dumps(result)) == result


def test_who_goes_first_alternates_and_the_first_turn_is_not_counted() -> None:
    order: list[str] = []

    def step(name: str) -> train.Step:
        return lambda: torch.tensor(float(order.append(name) or 0))

    steps = {name: step(name) for name in ("ours", "transformers")}
    seconds = train._take_turns(steps, 2, torch.device("cpu"))
    assert [len(taken) for taken in seconds.values()] == [2, 2]
    assert order[2:4] == order[4:6][::-1]
    assert sorted(order) == ["ours"] * 3 + ["transformers"] * 3


def test_the_ratio_is_our_time_over_theirs_turn_by_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"ours": [1.0, 1.5, 4.0], "transformers": [2.0, 2.0, 5.0]}
    monkeypatch.setattr(train, "_take_turns", lambda steps, repeats, device: seconds)
    result = train.benchmark_train("nano", batch=3, frame_size=(32, 48))
    assert result["ratio_to_transformers"] == 0.75
    assert result["ours"]["seconds"] == 1.5
    assert result["transformers"]["clips_per_second"] == 1.5


def test_models_that_differ_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    convert = train.convert.transformers_autoencoder

    def wrong(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        converted = convert(state)
        return {
            name: tensor + 0.2 if name == "heads.pixel.0.bias" else tensor
            for name, tensor in converted.items()
        }

    monkeypatch.setattr(train.convert, "transformers_autoencoder", wrong)
    with pytest.raises(RuntimeError, match="not the same"):
        train.benchmark_train("nano", repeats=1, frame_size=(32, 48))


def test_an_unknown_size_is_refused() -> None:
    with pytest.raises(ConfigError, match="'xl' is not an encoder; choose one of nano, ti"):
        train.benchmark_train("xl")


@pytest.mark.parametrize("name", ["repeats", "batch", "threads"])
def test_nothing_to_time_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} 0 must be at least 1"):
        train.benchmark_train("nano", **{name: 0})


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="'abacus' cannot be used"):
        train.benchmark_train("nano", device="abacus")


def test_the_table_shows_the_ratio(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"seconds": 0.5, "clips_per_second": 2.0, "parameters": 1234567, "loss": 1.0}
    result = {
        "ratio_to_transformers": 0.8765,
        "task": "pretrain",
        "size": "s",
        "batch": 1,
        "device": "cpu",
        "threads": 1,
        "ours": row,
        "transformers": row,
    }
    train.print_table(result)
    out = capsys.readouterr().out
    assert "0.877" in out or "0.876" in out
    assert "1,234,567" in out
