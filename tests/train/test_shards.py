"""Training and embedding from shards: the numbers of the folder, also when resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from m3video.cli import main
from m3video.config import save_config
from m3video.find.embed import embed
from m3video.find.features import open_features
from m3video.train.pretrain import pretrain
from m3video.train.step import Trainer
from m3video.video import shards
from m3video.video.pack import pack
from tests.conftest import write_video
from tests.find.conftest import config as embed_config
from tests.find.conftest import write_model
from tests.train.tiny import read_metrics, tiny_config, without_times
from tests.video.served import serve


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(6):
        label = ("left", "right")[number % 2]
        write_video(tmp_path / "videos" / label / f"{number}.mp4", frames=14 + number, height=48)
    return tmp_path / "videos"


def test_a_run_from_shards_is_the_run_from_the_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack(folder, tmp_path / "shards", shard_videos=4, workers=0)
    train = {"batch": 2, "steps": 5, "checkpoint_every": 2, "workers": 0}
    wanted = pretrain(tiny_config(tmp_path / "one", data=str(folder), train=train))
    config = tiny_config(tmp_path / "two", data=str(tmp_path / "shards"), train=train)
    take = Trainer.step

    def until_the_last(self: Trainer, clips: Any, number: int, rate: float) -> Any:
        if number == 5:  # in the middle of the second epoch, after the checkpoint of step 4
            raise KeyboardInterrupt
        return take(self, clips, number, rate)

    monkeypatch.setattr(Trainer, "step", until_the_last)
    with pytest.raises(KeyboardInterrupt):
        pretrain(config)
    monkeypatch.undo()
    found = pretrain(config.model_copy(update={"resume": True}))
    weights = Path("model") / "model.safetensors"
    assert (found / weights).read_bytes() == (wanted / weights).read_bytes()
    assert without_times(read_metrics(found)) == without_times(read_metrics(wanted))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_whose_server_goes_away_is_saved_and_resumed(
    workers: int,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("aiohttp")
    monkeypatch.setattr(shards, "_WAITS", (0.1, 0.2))
    pack(folder, tmp_path / "shards", shard_videos=4, workers=0)
    train = {"batch": 2, "steps": 5, "checkpoint_every": 9, "workers": workers}
    train |= {"stall_seconds": 4}
    take, away = Trainer.step, list[int]()

    def leave(self: Trainer, clips: Any, number: int, rate: float) -> Any:
        if number == 2:
            away.append(10**6)
        return take(self, clips, number, rate)

    with serve(tmp_path / "shards", away=away) as (address, _):
        wanted = pretrain(tiny_config(tmp_path / "one", data=address, train=train))
        config = tiny_config(tmp_path / "two", data=address, train=train)
        monkeypatch.setattr(Trainer, "step", leave)
        save_config(config, tmp_path / "asked.yaml")
        capsys.readouterr()
        assert main(["pretrain", "--config", str(tmp_path / "asked.yaml")]) == 1
        said = capsys.readouterr().err
        assert "saved; go on with: m3video pretrain --resume" in said
        assert said.splitlines()[-1].startswith(f"m3video pretrain: {address}/00000")
        assert "Traceback" not in said
        assert len((tmp_path / "two" / "unreadable.csv").read_text().splitlines()) <= 1
        away.clear()
        monkeypatch.setattr(Trainer, "step", take)
        found = pretrain(config.model_copy(update={"resume": True}))
    weights = Path("model") / "model.safetensors"
    assert (found / weights).read_bytes() == (wanted / weights).read_bytes()
    assert without_times(read_metrics(found)) == without_times(read_metrics(wanted))
    assert {row["unreadable"] for row in read_metrics(found)} == {0}


def test_features_of_shards_are_those_of_the_folder(folder: Path, tmp_path: Path) -> None:
    pack(folder, tmp_path / "shards", shard_videos=4, labels_from_folders=True, workers=0)
    model = write_model(tmp_path / "model")
    one = embed(embed_config(folder, model, tmp_path / "one.npz", labels_from_folders=True)).out
    two = embed(embed_config(tmp_path / "shards", model, tmp_path / "two.npz")).out
    np.testing.assert_array_equal(open_features(one).vectors(), open_features(two).vectors())
    assert open_features(one).labels == open_features(two).labels
