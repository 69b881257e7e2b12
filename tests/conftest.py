"""What several rooms' tests need: a small video made on the spot."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest


def write_video(path: Path, *, frames: int = 40, height: int = 72, width: int = 96) -> Path:
    """A textured background with a brighter square that moves right, h264, 25 frames a second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    background = rng.integers(0, 120, (height // 4, width // 4, 3)).repeat(4, 0).repeat(4, 1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("h264", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(frames):
            image = background.astype(np.uint8).copy()
            left = 4 + number % (width - 32)
            image[20:44, left : left + 24] += 100
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture
def made_clip(tmp_path: Path) -> Path:
    """One readable video of 40 frames, 72×96."""
    return write_video(tmp_path / "made.mp4")


@pytest.fixture
def made_folder(tmp_path: Path) -> Path:
    """Class folders `left` and `right` of three videos each, and one file that is no video."""
    folder = tmp_path / "videos"
    for label in ("left", "right"):
        for number in range(3):
            write_video(folder / label / f"{number}.mp4", frames=36 + number)
    (folder / "right" / "broken.mp4").write_bytes(b"this is not a video")
    return folder
