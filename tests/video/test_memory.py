"""Clips of many files, whole and broken, read for long: memory stays what it was."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

from m3video.config import AugmentConfig, ClipConfig
from m3video.errors import VideoError
from m3video.video.loader import VideoClips
from m3video.video.manifest import Manifest
from m3video.video.sampling import plan_clip, sample_generator
from m3video.video.scan import unopened
from tests.video.hostile import HOSTILE, flipped, valid, valid_bytes

CLIP = ClipConfig(frames=2, stride=2, size=(16, 24), patch=8)
WARM_UP = 300


def clip_files(folder: Path) -> list[Path]:
    """Tiny videos of several codecs, and files that are broken in several ways."""
    paths = [
        valid(folder / "a.mp4", frames=8),
        valid(folder / "b.avi", "mpeg4", frames=8),
        valid(folder / "c.mkv", "ffv1", frames=8, pixels="bgr0"),
        valid(folder / "d.webm", "libvpx", frames=8, options={"deadline": "realtime"}),
        valid(folder / "e.mpg", "mpeg2video", frames=8),
        valid(folder / "turned.mp4", frames=8, rotation=90),
    ]
    for name in ("text.mp4", "audio.mp4", "huge.webm", "huge.gif", "hls.m3u8", "samples.mp4"):
        HOSTILE[name][0](folder / name)
        paths.append(folder / name)
    data = valid_bytes(folder, "ts")
    for number in range(4):
        path = folder / f"flipped-{number}.ts"
        path.write_bytes(flipped(data, list(range(3000 + number, 8 * len(data), 4001))))
        paths.append(path)
    return paths


def resident() -> int:
    """Bytes of memory that this process holds."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def growth(folder: Path, loads: int) -> int:
    """Bytes that the process grows by while it loads clips, after a warm-up."""
    if not Path("/proc/self/statm").exists():
        pytest.skip("no /proc/self/statm")
    videos = tuple(unopened(path) for path in clip_files(folder))
    plan = plan_clip(CLIP, 0)
    source = VideoClips(Manifest(videos), clip=CLIP, plan=plan, augment=AugmentConfig())
    flow = VideoClips(Manifest(videos[:2]), clip=CLIP, plan=plan, augment=None, flow=True)
    read = refused = before = 0
    for number in range(WARM_UP + loads):
        if number == WARM_UP:
            before = resident()
        try:
            clips = flow if number % 10 == 9 else source
            clip = clips.clip(number % len(clips), 0, sample_generator(0, 0, number))
            read += clip.frames.shape == (2, 16, 24, 3)
        except VideoError:
            refused += 1
    assert read > loads // 3
    assert refused > loads // 3
    return resident() - before


def test_500_loads_keep_no_memory(tmp_path: Path) -> None:
    assert growth(tmp_path, 500) < 10 * 2**20


@pytest.mark.slow
def test_20000_loads_keep_no_memory(tmp_path: Path) -> None:
    assert growth(tmp_path, 20_000) < 50 * 2**20
