"""torch.compile takes the model whole, and no later step compiles again."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from m3video.train.step import Trainer
from m3video.video.sampling import plan_run
from tests.train.test_classify import clips_of, trainer_of
from tests.train.test_prepare import all_clips
from tests.train.tiny import tiny_config


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {
            "mask": {"kind": "motion-bins", "decode": 0.5},
            "motion": {"where": "step"},
            "model": {"decoders": "per-target"},
            "train": {"precision": "bf16", "accumulate": 2},
        },
    ],
)
def test_one_graph_for_all_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    """Masks differ from step to step, their counts do not."""
    compile = {"train": {**changes.get("train", {}), "compile": True}}
    config = tiny_config(tmp_path, **{**changes, **compile})
    torch.compiler.reset()
    counter = CompileCounterWithBackend("eager")
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counter, fullgraph=True))
    trainer = Trainer(config, plan_run(config), torch.device("cpu"))
    with torch._dynamo.config.patch(error_on_recompile=True):
        for number, clips in enumerate(all_clips(config, 3), start=1):
            assert trainer.step(clips, number, 1e-3).finite
    assert counter.frame_count == 1


def test_one_graph_for_all_micro_batches_of_fine_tuning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which branches are left out is drawn outside of what is compiled."""
    torch.compiler.reset()
    counter = CompileCounterWithBackend("eager")
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counter, fullgraph=True))
    trainer = trainer_of(train={"compile": True, "accumulate": 4, "drop_path": 0.3, "batch": 4})
    with torch._dynamo.config.patch(error_on_recompile=True):
        for number in (1, 2):
            assert trainer.step(clips_of(4, 2), number, 1e-3).finite
    assert counter.frame_count == 1
