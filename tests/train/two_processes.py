"""What `test_world` has two processes do: torchrun runs this module with a folder.

The same jobs run in one process when `run_jobs` is called outside torchrun.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from m3video.config import (
    EvaluateConfig,
    FinetuneConfig,
    ProbeConfig,
    load_pretrain_config,
)
from m3video.errors import M3VideoError, VideoError
from m3video.train import loop
from m3video.train.classify import finetune
from m3video.train.multiview import evaluate
from m3video.train.pretrain import pretrain
from m3video.train.probe import probe
from m3video.train.world import join, leave
from m3video.video.loader import Clips
from tests.train.tiny import tiny_config

STEPS = 20


def pretraining(out: Path, **train: Any) -> None:
    """20 steps at a rate that does not blow rounding up."""
    settings = {"steps": STEPS, "batch": 4, "lr": 3.2e-2, "checkpoint_every": 8, **train}
    pretrain(tiny_config(out, train=settings))


def tuning(init: Path, out: Path, **train: Any) -> None:
    """Everything that is drawn in a step: mixing, erasing, skipped branches, and the average."""
    finetune(
        FinetuneConfig.model_validate(
            {
                "init": init,
                "data": "moving-shapes",
                "out": out,
                "augment": {"repeats": 2, "erasing": 0.5},
                "train": {
                    "batch": 4,
                    "steps": 10,
                    "lr": 0.03,
                    "drop_path": 0.3,
                    "clip_grad": 1.0,
                    "workers": 0,
                    "checkpoint_every": 10,
                    **train,
                },
                "shapes": {"train_clips": 16, "test_clips": 15},
            }
        )
    )


def resharded(out: Path) -> None:
    """A run whose checkpoints are whole goes on in parts, from the one before the last."""
    here, again = join(torch.device("cpu")), out / "resharded"
    if here.main:
        shutil.copytree(out / "ddp", again, symlinks=True)
        (again / "last").unlink()
        shutil.rmtree(again / f"checkpoints/step-{STEPS}")
    here.wait()
    config = load_pretrain_config(again / "config.yaml")
    train = config.train.model_copy(update={"strategy": "fsdp"})
    pretrain(config.model_copy(update={"out": again, "resume": True, "train": train}))


def failing(out: Path, rank: int, fail: Callable[[int], None]) -> list[str]:
    """What every process says of a run in which one of them fails at its third batch."""
    here = join(torch.device("cpu"))
    batches, count = loop.next_batch, 0

    def third(given: Iterator[Clips]) -> Clips:
        nonlocal count
        count += 1
        if count == 3 and here.rank == min(rank, here.size - 1):
            fail(count)
        return batches(given)

    loop.next_batch = third
    said = ""
    try:
        pretraining(out)
    except M3VideoError as error:
        shows = here.main if error.said is None else not error.said
        said = f"{type(error).__name__}: {error}" if shows else "silent"
    loop.next_batch = batches
    return here.gather(said)


def unreadable(number: int) -> None:
    raise VideoError("clip.mp4: broken")


def run_jobs(out: Path) -> None:
    """Every kind of run, below `out`."""
    init = out.parent / "init"
    pretraining(out / "ddp")
    pretraining(out / "accumulated", accumulate=2, recompute=True)
    pretraining(out / "fsdp", strategy="fsdp")
    resharded(out)
    tuning(init, out / "tuned")
    tuning(init, out / "tuned-accumulated", accumulate=2, ema=0.9)
    tuning(init, out / "averaged", ema=0.9)
    tuning(init, out / "tuned-fsdp", ema=0.9, strategy="fsdp")
    shapes = {"train_clips": 15, "test_clips": 15}
    evaluate(
        EvaluateConfig.model_validate(
            {
                "model": out.parent / "classifier",
                "data": "moving-shapes",
                "out": out / "evaluation",
                "batch": 2,
                "workers": 0,
                "shapes": shapes,
            }
        )
    )
    probe(
        ProbeConfig.model_validate(
            {
                "init": init,
                "data": "moving-shapes",
                "out": out / "probe.json",
                "kinds": ["linear", "knn", "attentive"],
                "train_clips": 27,
                "test_clips": 14,
                "batch": 4,
                "workers": 0,
            }
        )
    )
    here = join(torch.device("cpu"))
    values = torch.arange(3.0) + here.rank
    result = {
        "next": here.next_part(values).tolist(),
        "agree": here.agree(here.rank == 1, False),
        "sum": here.sum(torch.ones(2)).tolist(),
        "dealt": [list(part) for part in here.gather(here.deal(range(5)))],
    }
    result["broken"] = failing(out / "broken", 1, unreadable)
    if here.main:
        (out / "world.json").write_text(json.dumps(result))


if __name__ == "__main__":
    torch.set_num_threads(1)
    run_jobs(Path(sys.argv[1]))
    leave()
