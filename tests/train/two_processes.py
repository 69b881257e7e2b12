"""What `test_world` has two processes do: torchrun runs this module with a folder.

The same jobs run in one process when `run_jobs` is called outside torchrun.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

from m3video.config import (
    DetectTrainConfig,
    EvaluateConfig,
    FinetuneConfig,
    ProbeConfig,
    load_pretrain_config,
)
from m3video.errors import M3VideoError, VideoError
from m3video.train import loop
from m3video.train.classify import finetune
from m3video.train.detect import train_detector
from m3video.train.multiview import evaluate
from m3video.train.prepare import Batch
from m3video.train.pretrain import pretrain
from m3video.train.probe import probe
from m3video.train.run import Metrics, MetricsLog
from m3video.train.sharded import ShardedWriter
from m3video.train.step import Trainer
from m3video.train.world import World, join, leave
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


def detecting(init: Path, boxes: Path, out: Path, **train: Any) -> None:
    """The processes have unequal numbers of boxes."""
    settings = {"batch": 4, "steps": 6, "lr": 0.06, "drop_path": 0.3, "workers": 0, **train}
    train_detector(
        DetectTrainConfig.model_validate(
            {"init": init, "data": boxes, "out": out, "train": settings}
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


def skipping(out: Path) -> bool:
    """A run whose last process alone has a loss that is not finite in its third step.

    Its gradient is finite, so nothing but the loss tells the others. Gives whether all have the
    same weights in the end.
    """
    here = join(torch.device("cpu"))
    losses, whole, steps, ends = Trainer._losses, loop.whole_weights, 0, list[str]()

    def third(self: Trainer, part: Batch) -> tuple[dict[str, Tensor], Tensor]:
        nonlocal steps
        steps += 1
        found, features = losses(self, part)
        if steps == 3 and here.rank == here.size - 1:
            found = {name: loss + float("nan") for name, loss in found.items()}
        return found, features

    def end(model: nn.Module, world: World) -> dict[str, Tensor]:
        data = b"".join(tensor.numpy().tobytes() for tensor in model.state_dict().values())
        ends.append(hashlib.sha256(data).hexdigest())
        return whole(model, world)

    with (
        mock.patch.object(Trainer, "_losses", third),
        mock.patch.object(loop, "whole_weights", end),
    ):
        pretraining(out, steps=8)
    return len(set(here.gather(ends[-1]))) == 1


def failing(out: Path, rank: int, fail: Callable[[], None], **train: Any) -> list[str]:
    """What every process says of a run in which one of them fails from its third batch on."""
    here = join(torch.device("cpu"))
    batches, count = loop.next_batch, 0

    def third(given: Iterator[Clips]) -> Clips:
        nonlocal count
        count += 1
        if count == 3 and here.rank == min(rank, here.size - 1):
            fail()
        return batches(given)

    said = ""
    with mock.patch.object(loop, "next_batch", third):
        try:
            pretraining(out, **train)
        except M3VideoError as error:
            shows = here.main if error.said is None else not error.said
            said = f"{type(error).__name__}: {error}" if shows else "silent"
    mock.patch.stopall()
    return here.gather(said)


def unreadable() -> None:
    raise VideoError("clip.mp4: broken")


def full_metrics() -> None:
    """The kernel itself says that there is no space."""
    write = MetricsLog.write

    def full(self: MetricsLog, metrics: Metrics) -> None:
        self._file = Path("/dev/full").open("a")  # noqa: SIM115
        write(self, metrics)

    mock.patch.object(MetricsLog, "write", full).start()


def full_part() -> None:
    """This process's part of a checkpoint cannot be written."""

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    mock.patch.object(HuggingFaceStorageWriter, "write_data", full).start()


def slow_part(*arguments: Any) -> Any:
    """A part of a checkpoint takes some seconds."""
    time.sleep(3)
    return write_data(*arguments)


write_data = HuggingFaceStorageWriter.write_data


def no_place() -> None:
    """A checkpoint that is written cannot take its place."""
    replace = Path.replace

    def fail(self: Path, target: Path) -> Path:
        if target.name == "step-4":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(target))
        return replace(self, target)

    mock.patch.object(Path, "replace", fail).start()


def written(here: World) -> list[list[bool]]:
    """What every process hears of a checkpoint that the first has written, and then all have."""
    writer, writing = ShardedWriter(here), Future[None]()
    writer._writing = writing
    if here.main:
        writing.set_result(None)
    early = here.gather(writer.done(wait=False))
    if not here.main:
        writing.set_result(None)
    return [early, here.gather(writer.done(wait=False))]


def run_jobs(out: Path) -> None:
    """Every kind of run, below `out`."""
    init = out.parent / "init"
    pretraining(out / "ddp")
    pretraining(out / "accumulated", accumulate=2, recompute=True)
    pretraining(out / "fsdp", strategy="fsdp")
    pretraining(
        out / "fsdp-accumulated", strategy="fsdp", accumulate=2, batch=12, steps=10, lr=1.1e-2
    )
    resharded(out)
    detecting(init, out.parent / "boxes.csv", out / "detected")
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
    result["full"] = failing(out / "full", 0, full_metrics, checkpoint_every=2)
    if here.size > 1:
        result["written"] = written(here)
        settings = {"strategy": "fsdp", "checkpoint_every": 4}
        result["part"] = failing(out / "part", 0, full_part, **settings)
        result["place"] = failing(out / "place", 0, no_place, **settings)
        settings = {"strategy": "fsdp", "checkpoint_every": 1}
        with mock.patch.object(HuggingFaceStorageWriter, "write_data", slow_part):
            result["meanwhile"] = failing(out / "meanwhile", 0, full_metrics, **settings)
    result["same"] = skipping(out / "skipped")
    settings = {"steps": 10, "max_unreadable": 0.5}
    pretrain(tiny_config(out / "unreadable", data=str(out.parent / "videos.csv"), train=settings))
    if here.main:
        (out / "world.json").write_text(json.dumps(result))


if __name__ == "__main__":
    torch.set_num_threads(1)
    run_jobs(Path(sys.argv[1]))
    leave()
