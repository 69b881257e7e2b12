"""Pre-training on several clips of each span: resumed, with workers, it is the same run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from m3video.train.pretrain import pretrain
from m3video.train.step import Trainer
from tests.train.test_pretrain import make_videos
from tests.train.tiny import read_metrics, tiny_config, without_times


def test_a_resumed_run_repeats_the_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_videos(tmp_path / "videos", 4)
    settings: dict[str, Any] = {
        "data": str(tmp_path / "videos"),
        "augment": {"flip": True, "repeats": 2},
    }
    train = {"steps": None, "epochs": 4, "checkpoint_every": 2}
    reference = pretrain(tiny_config(tmp_path / "reference", **settings, train=train))
    lines = read_metrics(reference)
    # An epoch is as many clips as there are videos: here one batch.
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4]

    step = Trainer.step

    def die(self: Trainer, clips: Any, number: int, rate: float) -> Any:
        assert clips.index.tolist()[::2] == clips.index.tolist()[1::2]
        if number == 4:
            raise MemoryError
        return step(self, clips, number, rate)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", die)
        with pytest.raises(MemoryError):
            pretrain(tiny_config(tmp_path / "run", **settings, train=train))
    resumed = tiny_config(tmp_path / "run", **settings, resume=True, train={**train, "workers": 1})
    pretrain(resumed)
    assert without_times(read_metrics(tmp_path / "run")) == without_times(lines)
    for name in ("last/model.safetensors", "model/model.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (reference / name).read_bytes()
