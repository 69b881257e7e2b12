"""Clips that the tests make themselves, in many containers and codecs; no two frames are alike."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray


def picture(number: int, height: int = 48, width: int = 80) -> NDArray[np.uint8]:
    """A smooth picture with a block that moves, different for each number."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([x * 255 // width, y * 255 // height, (x + 3 * number) % 256], axis=-1)
    left, top = (5 * number) % (width - 12), (3 * number) % (height - 10)
    image[top : top + 10, left : left + 12] = (number * 37) % 256
    return image.astype(np.uint8)


def write_clip(
    path: Path,
    codec: str,
    *,
    frames: int = 40,
    size: tuple[int, int] = (48, 80),
    pixels: str = "yuv420p",
    options: dict[str, str] | None = None,
    times: list[int] | None = None,
    rotation: float | None = None,
) -> Path:
    """Encode `picture(0)`, `picture(1)`, …; `times` are in milliseconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options or {})
        stream.height, stream.width = size
        stream.pix_fmt = pixels
        if times is not None:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        if rotation is not None:
            stream.set_display_rotation(rotation)
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(number, *size), "rgb24")
            if times is not None:
                frame.time_base, frame.pts = Fraction(1, 1000), times[number]
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def remux(
    source: Path, path: Path, *, shift: int = 0, skip: int = 0, options: dict[str, str]
) -> Path:
    """Copy packets but the first `skip`, `shift` ticks later, into another container."""
    with av.open(str(source)) as old, av.open(str(path), "w", options=options) as new:
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream)
        for number, packet in enumerate(old.demux(stream)):
            if packet.dts is None or packet.pts is None or number < skip:
                continue
            packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
            packet.stream = copy
            new.mux(packet)
    return path


def _edit_list(path: Path) -> Path:
    plain = write_clip(path.with_name("before_edit.mp4"), "libx264", options={"g": "12"})
    return remux(plain, path, shift=-512 * 7, options={"avoid_negative_ts": "disabled"})


def _h264(**options: str) -> Callable[[Path], Path]:
    return lambda path: write_clip(path, "libx264", options=options)


UNEVEN = [0, 40, 50, 90, 200, 210, 300, 333, 400, 700] + [700 + 31 * n for n in range(1, 31)]

MADE: dict[str, Callable[[Path], Path]] = {
    "b_frames.mp4": _h264(g="12", bf="3", b_strategy="0"),
    "b_pyramid.mkv": _h264(g="15", bf="5", b_strategy="0", **{"x264-params": "b-pyramid=normal"}),
    "open_gop.mp4": _h264(g="10", bf="3", b_strategy="0", **{"x264-params": "open-gop=1"}),
    "intra_refresh.ts": _h264(g="10", **{"x264-params": "intra-refresh=1"}),
    "intra_refresh.mp4": _h264(g="10", **{"x264-params": "intra-refresh=1"}),
    "stream.ts": _h264(g="12", bf="3"),
    "raw.h264": _h264(g="12", bf="3"),
    "stream.flv": _h264(g="12", bf="3"),
    "all_keys.mp4": _h264(g="1"),
    "uneven.mkv": lambda path: write_clip(path, "libx264", times=UNEVEN, options={"g": "12"}),
    "uneven.mp4": lambda path: write_clip(path, "libx264", times=UNEVEN, options={"g": "12"}),
    "edit_list.mp4": _edit_list,
    "ten_bits.mp4": lambda path: write_clip(path, "libx264", pixels="yuv420p10le"),
    "odd.mp4": lambda path: write_clip(path, "libx264", pixels="yuv444p", size=(45, 67)),
    "turned.mov": lambda path: write_clip(path, "libx264", rotation=90),
    "hevc.mp4": lambda path: write_clip(
        path, "libx265", options={"x265-params": "log-level=0:keyint=12"}
    ),
    "vp9.webm": lambda path: write_clip(
        path, "libvpx-vp9", size=(45, 67), options={"g": "12", "auto-alt-ref": "1", "cpu-used": "8"}
    ),
    "vp8.webm": lambda path: write_clip(
        path, "libvpx", options={"g": "12", "deadline": "realtime"}
    ),
    "animation.gif": lambda path: write_clip(path, "gif", pixels="rgb8", frames=12),
    "b_frames.avi": lambda path: write_clip(path, "mpeg4", options={"bf": "2", "g": "12"}),
    "plain.avi": lambda path: write_clip(path, "mpeg4", options={"g": "12"}),
    "mjpeg.avi": lambda path: write_clip(path, "mjpeg", pixels="yuvj422p"),
    "mpeg2.mpg": lambda path: write_clip(path, "mpeg2video", options={"bf": "2", "g": "12"}),
    "lossless.mkv": lambda path: write_clip(path, "ffv1", pixels="bgr0"),
}
"""File name → what makes it."""
