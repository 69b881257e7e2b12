"""Pre-training on files with the motion that their codec found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from m3video.errors import VideoError
from m3video.train.pretrain import pretrain
from m3video.train.step import Trainer
from m3video.train.update import StepResult
from m3video.video.loader import Clips
from tests.train.tiny import read_metrics, tiny_config
from tests.video.made_clips import write_clip
from tests.video.panned_clips import write_pan

CHANGES: dict[str, Any] = {
    "motion": {"flow": "codec"},
    "train": {"steps": 2, "batch": 2, "checkpoint_every": 2},
    "targets": {"trajectory": {"normalise": "none", "clamp": 50.0, "scale": 1.0}},
    "augment": {"scales": (1.0,)},
}


def test_targets_are_the_files_motion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """112 × 168 of 112 × 176 pixels become 32 × 48: (7, −3.5) pixels a frame become (2, −1)."""
    for number in range(2):
        moves = [(7, -3 - step % 2) for step in range(23)]
        write_pan(tmp_path / "videos" / f"{number}.mp4", moves=moves, options={"g": "99"})
    seen: list[Clips] = []
    step = Trainer.step

    def record(self: Trainer, clips: Clips, number: int, rate: float) -> StepResult:
        seen.append(clips)
        return step(self, clips, number, rate)

    monkeypatch.setattr(Trainer, "step", record)
    config = tiny_config(tmp_path / "run", data=str(tmp_path / "videos"), **CHANGES)
    pretrain(config)
    assert [line["step"] for line in read_metrics(tmp_path / "run")][-1] == 2
    values = torch.cat([clips.extras["trajectory/values"] for clips in seen])
    valid = torch.cat([clips.extras["trajectory/valid"] for clips in seen]).expand(values.shape)
    moved = values.reshape(-1, 2)[valid.reshape(-1, 2).all(dim=-1)]
    assert len(moved) > 500
    assert moved.median(dim=0).values.tolist() == pytest.approx([2, -1], abs=0.2)


def test_a_codec_without_vectors_is_named_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    write_clip(tmp_path / "videos" / "a.mp4", "libx265", options={"x265-params": "log-level=0"})
    config = tiny_config(tmp_path / "run", data=str(tmp_path / "videos"), **CHANGES)
    with pytest.raises(VideoError, match=r"a\.mp4: FFmpeg gives no motion vectors of hevc.*dis-"):
        pretrain(config)
