"""What `test_world` has two processes do: torchrun runs this module with a folder.

The same jobs run in one process when `run_jobs` is called outside torchrun.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from m3video.config import (
    EvaluateConfig,
    FinetuneConfig,
    ProbeConfig,
)
from m3video.train.classify import finetune
from m3video.train.multiview import evaluate
from m3video.train.pretrain import pretrain
from m3video.train.probe import probe
from m3video.train.world import join
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


def run_jobs(out: Path) -> None:
    """Every kind of run, below `out`."""
    init = out.parent / "init"
    pretraining(out / "ddp")
    pretraining(out / "accumulated", accumulate=2, recompute=True)
    pretraining(out / "fsdp", strategy="fsdp")
    tuning(init, out / "tuned")
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
    if here.main:
        (out / "world.json").write_text(json.dumps(result))


if __name__ == "__main__":
    torch.set_num_threads(1)
    run_jobs(Path(sys.argv[1]))
