"""Workers that crash, hang or are killed, with the signals that do it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from m3video.errors import RunFailedError
from m3video.video.loader import Clips, make_eval_loader, make_loader
from m3video.video.watch import CRASHED, HUNG, lost, reading

PARENT = os.getpid()


class Harmful:
    """Numbers as clips of 2×3 pixels; to read some of them does harm to the worker."""

    labels: tuple[str, ...] = ()

    def __init__(self, count: int, harm: dict[int, str], marks: Path | None = None) -> None:
        self.count, self.harm, self.marks = count, harm, marks

    def __len__(self) -> int:
        return self.count

    def clip(self, index: int, epoch: int, generator: torch.Generator) -> Clips:
        reading(Path(f"clip-{index}.mp4"))
        harm = self.harm.get(index, "")
        if harm == "hang":
            time.sleep(1000)
        elif harm == "once":
            assert self.marks is not None
            mark = self.marks / f"{index}"
            if not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        elif harm:
            assert os.getpid() != PARENT
            os.kill(os.getpid(), signal.Signals[harm])
        return Clips(
            frames=torch.full((1, 2, 3, 3), index, dtype=torch.uint8),
            real=torch.tensor([True]),
            label=torch.tensor(index),
            index=torch.tensor(index),
        )


def train(source: Harmful, workers: int = 2, **settings: object) -> Iterator[Clips]:
    """Six batches of two of eight clips."""
    return iter(
        make_loader(
            source,
            batch=2,
            seed=0,
            first_step=0,
            last_step=6,
            workers=workers,
            **settings,  # type: ignore[arg-type]
        )
    )


def labels(batches: Iterator[Clips]) -> list[list[int]]:
    return [clips.label.tolist() for clips in batches]


def reasons(batches: list[Clips]) -> dict[str, str]:
    return dict(entry for clips in batches for entry in clips.unreadable)


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT"])
def test_a_crash_costs_the_file(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    """The next clip takes its place, as for any that cannot be read, in every epoch."""
    expected = [[4 if n == 3 else n for n in batch] for batch in labels(train(Harmful(8, {}), 0))]
    found = list(train(Harmful(8, {3: name})))
    assert labels(iter(found)) == expected
    reason = f"{CRASHED} (signal {signal.Signals[name].value}, {name})"
    assert reasons(found) == {"clip-3.mp4": reason}
    shown = capfd.readouterr().err
    assert f"rank 0: a data worker ended: clip-3.mp4: {reason}; the data workers start" in shown
    assert shown.count("start again") == 1


def test_a_loader_that_goes_on_refuses_the_file(capfd: pytest.CaptureFixture[str]) -> None:
    """At a later step, with what the first has found: the same batches, and no worker is lost."""
    whole = list(train(Harmful(8, {3: "SIGSEGV"}), 1))
    refused = lost({**reasons(whole), "other.mp4": "moov atom not found"})
    assert list(refused) == ["clip-3.mp4"]
    capfd.readouterr()
    rest = make_loader(
        Harmful(8, {3: "SIGSEGV"}),
        batch=2,
        seed=0,
        first_step=3,
        last_step=6,
        workers=0,
        refused=refused,
    )
    assert labels(iter(rest)) == labels(iter(whole[3:]))
    assert capfd.readouterr().err == ""


def test_a_file_is_refused_from_the_batch_on_that_it_crashed_in() -> None:
    """What came before is made again as it was, however far ahead the workers were."""

    class Later(Harmful):
        def clip(self, index: int, epoch: int, generator: torch.Generator) -> Clips:
            self.harm = {3: "SIGSEGV"} if epoch == 2 else {}
            return super().clip(index, epoch, generator)

    clean = labels(train(Harmful(8, {}), 0))
    settings = {"batch": 2, "seed": 0, "first_step": 0, "last_step": 12, "workers": 2}
    clean = labels(iter(make_loader(Harmful(8, {}), **{**settings, "workers": 0})))  # type: ignore[arg-type]
    found = labels(iter(make_loader(Later(8, {}), **settings)))  # type: ignore[arg-type]
    assert found[:8] == clean[:8]
    assert found[8:] == [[4 if n == 3 else n for n in batch] for batch in clean[8:]]
    assert found[8:] != clean[8:]


def test_a_worker_that_is_killed_condemns_no_file(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    found = list(train(Harmful(8, {3: "once"}, tmp_path)))
    assert labels(iter(found)) == labels(train(Harmful(8, {}), 0))
    assert reasons(found) == {}
    assert "a data worker ended (SIGKILL), for want of memory most likely; the" in (
        capfd.readouterr().err
    )
    with pytest.raises(RunFailedError, match=r"rank 0: .*\(SIGKILL\).* again: use fewer"):
        list(train(Harmful(8, {3: "SIGKILL"})))


def test_a_worker_that_hangs_is_replaced(capfd: pytest.CaptureFixture[str]) -> None:
    found = list(train(Harmful(8, {3: "hang"}), stall_seconds=0.5))
    assert reasons(found) == {"clip-3.mp4": f"{HUNG} after 0.5 s"}
    assert 3 not in [n for batch in labels(iter(found)) for n in batch]
    shown = capfd.readouterr().err
    assert "rank 0: no batch for 0.5 s: ending data workers; clip-3.mp4 is being read" in shown
    assert f"rank 0: a data worker ended: clip-3.mp4: {HUNG}" in shown


def test_when_all_workers_hang_the_storage_is_asked_about() -> None:
    everything = dict.fromkeys(range(8), "hang")
    with pytest.raises(RunFailedError, match=r"rank 0: no batch for 0.5 s: all .*clip-\d.mp4"):
        list(train(Harmful(8, everything), stall_seconds=0.5))


def test_without_workers_a_hanging_file_is_named(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "3")
    slept = time.sleep

    def until_named(seconds: float) -> None:
        for _ in range(200):
            slept(0.05)
            shown.append(capfd.readouterr().err)
            if "".join(shown):
                return

    shown: list[str] = []
    monkeypatch.setattr(time, "sleep", until_named)
    list(train(Harmful(8, {3: "hang"}), 0, stall_seconds=0.3))
    assert "".join(shown).startswith("rank 3: no batch for 0.3 s: clip-3.mp4 is being read")


def test_in_evaluation_a_crash_is_listed(capfd: pytest.CaptureFixture[str]) -> None:
    found = list(make_eval_loader(Harmful(7, {4: "SIGSEGV"}), batch=2, workers=2))
    assert [clips.index.tolist() for clips in found] == [[0, 1], [2, 3], [5], [6]]
    assert list(reasons(found)) == ["clip-4.mp4"]


def test_a_path_too_long_to_be_noted_costs_its_clip_alone() -> None:
    class Long(Harmful):
        def clip(self, index: int, epoch: int, generator: torch.Generator) -> Clips:
            if index == 3:
                reading(Path("x" * 5000))
            return super().clip(index, epoch, generator)

    found = reasons(list(train(Long(8, {}), 0)))
    assert found == {"x" * 5000: "the path is longer than 4095 bytes"}
