"""The benchmark of the whole step: what it counts, what it times, what it refuses."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch

from m3video.benchmark import step
from m3video.errors import ConfigError
from m3video.train.step import Trainer
from m3video.video.sampling import plan_run
from tests.train.test_prepare import first_batch
from tests.train.tiny import tiny_config

CPU = torch.device("cpu")


def expected_flops(heads: int, decoded: int) -> int:
    """By hand: 2 · m · n · k a product, twice that again backward, for one clip of `tiny`."""
    visible, width, depth, narrow, pixels = 16, 128, 4, 48, 3 * 2 * 8 * 8
    block = 12 * width**2 * visible + 2 * visible**2 * width
    encoder = depth * block
    both = visible + decoded
    decoder = width * narrow * visible  # to the decoder's width
    decoder += narrow**2 * (decoded + 2 * both)  # queries of decoded tokens; keys, values of all
    decoder += 2 * decoded * both * narrow + 9 * narrow**2 * decoded
    decoder += narrow * heads * decoded
    # Pixels need no gradient: the embedding has one product backward.
    return 2 * (3 * (encoder + decoder) + 2 * pixels * width * visible)


@pytest.mark.parametrize(("decode", "decoded"), [(1.0, 32), (0.5, 16)])
def test_flops_are_those_of_the_tokens_that_are_computed(
    tmp_path: Path, decode: float, decoded: int
) -> None:
    config = tiny_config(tmp_path, mask={"decode": decode})
    trainer = Trainer(config, plan_run(config), CPU)
    heads = sum(trainer.finish.dims.values())
    assert step.model_flops(trainer, first_batch(config)) == expected_flops(heads, decoded)
    assert all(parameter.grad is None for parameter in trainer.model.parameters())


def test_the_figures_and_their_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make = step.make_clips
    monkeypatch.setattr(step, "make_clips", lambda folder, count: make(folder, 1, 40))
    monkeypatch.setattr(step, "matmul_rate", lambda device, clock: 4e9)
    threads = torch.get_num_threads()
    result = step.benchmark_step("mme-tiny", batch=2, steps=1)
    assert json.loads(json.dumps(result)) == result
    assert torch.get_num_threads() == threads
    assert result["clips_per_second"] == pytest.approx(2 / result["seconds"])
    # One thread: the processor works no longer than the clock runs.
    assert 0 < result["processor_seconds"] <= 1.02 * result["seconds"]
    assert result["model_flops"] == pytest.approx(2 * result["flops"] / result["processor_seconds"])
    assert result["utilisation"] == pytest.approx(result["model_flops"] / 4e9)
    assert sum(result["shares"].values()) == pytest.approx(1)
    assert all(0 < share < 1 for share in result["shares"].values())
    assert result["prepared"] > 0
    assert (result["size"], result["device"], result["dtype"]) == ("nano", "cpu", "float32")
    assert (result["compile"], result["made"]) == (False, True)
    step.print_table(result)
    out = capsys.readouterr().out
    for value in (f"{result['utilisation']:.3f}", f"{result['shares']['targets']:.3f}"):
        assert value in out
    step.print_table({**result, "peak_memory": None})
    assert "not measured" in capsys.readouterr().out


def test_with_workers_their_time_is_no_part_of_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    make = step.make_clips
    monkeypatch.setattr(step, "make_clips", lambda folder, count: make(folder, 1, 40))
    monkeypatch.setattr(step, "matmul_rate", lambda device, clock: 4e9)
    result = step.benchmark_step("mme-tiny", batch=1, steps=1, workers=1)
    assert result["processor_seconds"] is None
    assert result["model_flops"] == pytest.approx(result["flops"] / result["seconds"], rel=0.1)
    assert result["prepared"] > 0
    assert result["shares"]["data"] >= 0
    assert sum(result["shares"].values()) == pytest.approx(1)


def test_parts_add_up() -> None:
    parts = step.Parts(CPU, time.perf_counter)
    parts.begin("a")
    parts.end("a")
    parts.clear()
    assert parts.seconds("a") == 0
    begin = time.perf_counter()
    for _ in range(2):
        with parts.timed("a"):
            time.sleep(0.01)
    assert 0.02 <= parts.seconds("a") <= time.perf_counter() - begin


def test_on_a_gpu_parts_are_timed_by_events(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    class Event:
        made = 0

        def __init__(self, enable_timing: bool = False) -> None:
            assert enable_timing

        def record(self) -> None:
            Event.made += 1
            self.at = 10.0 * Event.made**2  # milliseconds

        def elapsed_time(self, other: Event) -> float:
            assert calls == ["waited"]  # else the events have not happened yet
            return other.at - self.at

    monkeypatch.setattr(step.torch.cuda, "Event", Event)
    monkeypatch.setattr(step.torch.cuda, "synchronize", lambda device: calls.append("waited"))
    parts = step.Parts(torch.device("cuda", 0), time.perf_counter)
    for _ in range(2):
        with parts.timed("a"):
            pass
    assert parts.seconds("a") == pytest.approx(0.03 + 0.07)


def test_the_matrix_product_is_counted_and_timed() -> None:
    assert step.matmul_rate(CPU) > 1e8


@pytest.mark.parametrize("name", ["batch", "steps", "threads"])
def test_nothing_to_time_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} 0 must be at least 1"):
        step.benchmark_step("mme-tiny", **{name: 0})


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="workers -1 must be at least 0"):
        step.benchmark_step("mme-tiny", workers=-1)
    with pytest.raises(ConfigError, match="recipe 'nme' is not known: use one of"):
        step.benchmark_step("nme")
    with pytest.raises(ConfigError, match="'abacus' cannot be used"):
        step.benchmark_step("mme-tiny", device="abacus")
