"""Frames to one small looping film inside the page."""

from __future__ import annotations

import base64
import io
from fractions import Fraction
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from m3video.errors import VideoError

CODEC = "libx264"  # H.264 in MP4 is what Chromium, Firefox and Safari all play from a data: URL


def encode_film(frames: NDArray[np.uint8], fps: int, *, limit: int = 150_000) -> bytes:
    """Encode uint8 [S, H, W, 3] RGB frames as an MP4 file.

    An odd height or width is padded by one line, because the chroma planes have half the size.

    Args:
        limit: about the largest size in bytes; drawings that flicker lose detail to stay within it.

    Raises:
        VideoError: this build of PyAV has no H.264 encoder.
    """
    if CODEC not in av.codecs_available:
        raise VideoError(
            f"no {CODEC} encoder in this PyAV {av.__version__}; use its wheel from pip"
        )
    _, height, width, _ = frames.shape
    padded = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        rate = max(1, round(8 * limit * fps / (1000 * len(frames))))  # kilobits a second
        caps = f"vbv-maxrate={rate}:vbv-bufsize={2 * rate}"
        options = {"crf": "28", "preset": "medium", "tune": "animation", "x264-params": caps}
        stream: Any = container.add_stream(CODEC, rate=Fraction(fps), options=options)
        stream.height, stream.width = padded.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1  # the process may share its cores with training
        for picture in padded:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


def data_url(content: bytes, kind: str) -> str:
    """`data:` URL of some bytes of a MIME type."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
