"""Batches sent ahead: the same ones, by calls in an order that lets copy and step overlap."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from m3video.errors import VideoError
from m3video.train import prefetch as module
from m3video.train.prefetch import Prefetcher, prefetch
from m3video.video.loader import Clips, make_loader
from tests.video.test_loader import Numbers

CUDA = torch.device("cuda", 0)


class Streams:
    """Stands in for torch.cuda, and writes down what is asked of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self._now = "step"
        for name in ("Stream", "current_stream", "stream"):
            monkeypatch.setattr(module.torch.cuda, name, getattr(self, name))

    def Stream(self, device: torch.device) -> Any:  # noqa: N802 - torch's name
        return "side"

    def current_stream(self, device: torch.device) -> Any:
        streams = self

        class Step:
            def wait_stream(self, other: str) -> None:
                streams.calls.append(f"step waits for {other}")

        return Step()

    @contextmanager
    def stream(self, stream: str) -> Iterator[None]:
        self._now = stream
        yield
        self._now = "step"

    def batches(self, count: int, fails: int | None = None) -> Iterator[Clips]:
        for number in range(count):
            if number == fails:
                raise VideoError(f"clip {number} is broken")
            yield self.batch(number)

    def batch(self, number: int) -> Clips:
        streams = self

        class Sent(Clips):
            def to(self, device: torch.device | str, non_blocking: bool = False) -> Clips:
                assert (device, non_blocking) == (CUDA, True)
                streams.calls.append(f"{number} is copied on {streams._now}")
                return self

            def record_stream(self, stream: Any) -> None:
                streams.calls.append(f"{number} is kept")

        return Sent(*[torch.tensor([number])] * 4)


def test_elsewhere_batches_are_as_they_are() -> None:
    batches = iter(make_loader(Numbers(6), batch=3, seed=0, first_step=0, last_step=2, workers=0))
    assert prefetch(batches, torch.device("cpu")) is batches


def test_the_next_batch_is_sent_on_its_own_stream_before_the_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    streams = Streams(monkeypatch)
    ahead = prefetch(streams.batches(3), CUDA)
    assert isinstance(ahead, Prefetcher)
    numbers = []
    for clips in ahead:
        numbers.append(int(clips.index))
        streams.calls.append(f"step {numbers[-1]}")
    assert numbers == [0, 1, 2]
    assert streams.calls == [
        "0 is copied on side",
        "step waits for side",
        "0 is kept",
        "1 is copied on side",
        "step 0",
        "step waits for side",
        "1 is kept",
        "2 is copied on side",
        "step 1",
        "step waits for side",
        "2 is kept",
        "step 2",
    ]
    with pytest.raises(StopIteration):
        next(ahead)


def test_an_error_waits_for_its_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = Streams(monkeypatch)
    ahead = prefetch(streams.batches(3, fails=1), CUDA)
    assert int(next(ahead).index) == 0
    for _ in range(2):
        with pytest.raises(VideoError, match="clip 1 is broken"):
            next(ahead)


def test_all_tensors_are_kept_for_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    (clips,) = make_loader(Numbers(3), batch=3, seed=0, first_step=0, last_step=1, workers=0)
    kept = []
    monkeypatch.setattr(
        torch.Tensor, "record_stream", lambda self, stream: kept.append((id(self), stream))
    )
    clips.record_stream("step")  # type: ignore[arg-type]
    tensors = [clips.frames, clips.real, clips.label, clips.index, *clips.extras.values()]
    assert kept == [(id(tensor), "step") for tensor in tensors]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_batches_arrive_whole() -> None:
    settings: dict[str, Any] = {"batch": 3, "seed": 0, "first_step": 0, "last_step": 5}
    here = list(make_loader(Numbers(9), workers=0, **settings))
    sent = prefetch(iter(make_loader(Numbers(9), workers=0, pin_memory=True, **settings)), CUDA)
    for clips, expected in zip(sent, here, strict=True):
        assert clips.frames.device == CUDA
        assert torch.equal(clips.frames.cpu(), expected.frames)
        assert torch.equal(clips.extras["drawn"].cpu(), expected.extras["drawn"])
