"""Two small runs that really trained, on videos that the tests make themselves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import av
import numpy as np
import pytest

from m3video.recipes import recipe_config
from m3video.report.page import write_report
from m3video.train.pretrain import pretrain

SMALL = {
    "clip": {"size": (32, 48), "frames": 4},
    "train": {"steps": 2, "batch": 2, "workers": 0, "warmup": 0.0},
    "shapes": {"clips": 8},
}
NASTY = "<script>alert(1)<br>.mp4"


def write_video(path: Path, seed: int) -> None:
    """A texture that drifts, 30 frames of 64×96."""
    texture = np.random.default_rng(seed).integers(0, 255, (8, 12, 3), dtype=np.uint8)
    texture = texture.repeat(8, axis=0).repeat(8, axis=1)
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for index in range(30):
            picture = np.ascontiguousarray(np.roll(texture, (index, 2 * index), (0, 1)))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


@pytest.fixture(scope="session")
def trained_videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with all targets on five videos, one with a name like HTML and one unreadable."""
    folder = tmp_path_factory.mktemp("videos")
    for seed, name in enumerate((NASTY, "one.mp4", "two.mp4", "three.mp4", "four.mp4")):
        write_video(folder / name, seed)
    (folder / "broken <b>.mp4").write_bytes(b"not a video")
    every = dict.fromkeys(["hog", "flow", "hof", "mbh", "trajectory_hof", "trajectory_mbh"])
    targets = {"pixel": {"weight": 1.0}} | {name: {"weight": 1.0, "cell": 4} for name in every}
    changes = {**SMALL, "targets": targets}
    out = tmp_path_factory.mktemp("runs") / "videos <i>run</i>"
    return pretrain(recipe_config("mme-tiny", data=str(folder), out=out, changes=changes))


@pytest.fixture(scope="session")
def trained_pixels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with the pixel target alone, on moving shapes."""
    out = tmp_path_factory.mktemp("runs") / "pixels"
    return pretrain(recipe_config("videomae-tiny", data="moving-shapes", out=out, changes=SMALL))


@pytest.fixture
def videos_run(trained_videos: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(trained_videos, tmp_path / trained_videos.name, symlinks=True))


@pytest.fixture
def pixels_run(trained_pixels: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(trained_pixels, tmp_path / "pixels", symlinks=True))


@pytest.fixture
def unseen_run(videos_run: Path) -> Path:
    """A copy without a checkpoint: its report draws no clips and is quick."""
    (videos_run / "last").unlink()
    return videos_run


@pytest.fixture(scope="session")
def full_page(trained_videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run with everything that a report can show."""
    run = tmp_path_factory.mktemp("full") / trained_videos.name
    shutil.copytree(trained_videos, run, symlinks=True)
    probe = {
        "data": "shapes </td><script>alert(2)</script>",
        "classes": 2,
        "chance": 0.5,
        "linear": 0.75,
        "knn": 0.625,
        "clips": {"train": 20, "test": 16},
        "init": "x",
        "labels": ["left <u>", "right"],
        "confusion": [[6, 2], [2, 6]],
    }
    (run / "probe-shapes.json").write_text(json.dumps(probe))
    bars = {"chance": 0.083, "bars": {"motion <img src=x>": 0.58, "pixel": 0.12, "untrained": 0.08}}
    (run / "comparison.json").write_text(json.dumps(bars))
    return write_report(run)
