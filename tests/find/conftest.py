"""A small model, videos, and a features file of them."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from m3video.config import ClipConfig, EmbedConfig
from m3video.find.embed import embed
from m3video.model.checkpoint import save_model
from m3video.model.vit import build_encoder
from tests.conftest import write_video

CLIP = ClipConfig(frames=4, stride=3, size=(32, 48), patch=8)


def write_model(folder: Path, seed: int = 0) -> Path:
    """A nano encoder with weights of its own."""
    torch.manual_seed(seed)
    save_model(build_encoder(CLIP, "nano"), folder, CLIP)
    return folder


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory."""
    return write_model(tmp_path_factory.mktemp("find") / "model")


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list of 7 videos of two labels, 25 frames a second, one of which is no video."""
    folder = tmp_path_factory.mktemp("videos")
    rows = [["path", "label"]]
    for number in range(6):
        name = f"{number}-<b>&.mp4"
        write_video(folder / name, frames=20 + 9 * number, height=72 - 8 * (number % 2))
        rows.append([name, ("left", "right")[number % 2]])
    (folder / "broken.mp4").write_bytes(b"this is not a video")
    with (folder / "videos.csv").open("w", newline="") as file:
        csv.writer(file).writerows([*rows, ["broken.mp4", "left"]])
    return folder / "videos.csv"


def config(videos: Path, model: Path, out: Path, **changes: object) -> EmbedConfig:
    """Settings of a small run in this process."""
    given = {"videos": str(videos), "model": model, "out": out, "workers": 0, "batch": 4}
    return EmbedConfig.model_validate({**given, "device": "cpu", **changes})


@pytest.fixture(scope="session")
def clips_file(videos: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features of all clips, which overlap."""
    out = tmp_path_factory.mktemp("features") / "clips.parquet"
    return embed(config(videos, model, out, per="clip", hop=0.2)).out
