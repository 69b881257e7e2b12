"""Frames to films: files of any length, and small ones that loop inside a page."""

from __future__ import annotations

import base64
import io
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import av
import numpy as np
from numpy.typing import NDArray

from m3video.errors import VideoError

CODEC = "libx264"  # H.264 in MP4 is what Chromium, Firefox and Safari all play from a data: URL


class FilmWriter:
    """Write a film frame by frame; a context manager.

    The film is complete when its block ends without an error. An odd height or width is padded by
    one line, because the chroma planes have half the size.

    Args:
        file: a path or a file that can be written and sought; becomes an MP4 file.
        fps: frames a second, rounded to a fraction that players know.
        crf: quality of x264, 0 the best to 51.
        preset: of x264: a slower one makes a smaller film.
        rate: most kilobits a second; frames that flicker lose detail to stay within it.
        threads: that encode; 0 lets x264 choose.

    Raises:
        VideoError: this build of PyAV has no H.264 encoder.
    """

    def __init__(
        self,
        file: Path | BinaryIO,
        fps: float | Fraction,
        *,
        crf: int = 28,
        preset: str = "medium",
        rate: int | None = None,
        threads: int = 1,
    ) -> None:
        if CODEC not in av.codecs_available:
            raise VideoError(
                f"no {CODEC} encoder in this PyAV {av.__version__}; use its wheel from pip"
            )
        options = {"crf": str(crf), "preset": preset, "tune": "animation"}
        if rate is not None:
            options["x264-params"] = f"vbv-maxrate={rate}:vbv-bufsize={2 * rate}"
        target = str(file) if isinstance(file, Path) else file
        self._container = av.open(target, "w", format="mp4")
        frames_a_second = max(Fraction(fps).limit_denominator(1001), Fraction(1, 1001))
        stream: Any = self._container.add_stream(CODEC, rate=frames_a_second, options=options)
        stream.pix_fmt = "yuv420p"
        stream.thread_count = threads
        self._stream = stream
        self._size: tuple[int, ...] | None = None

    def add(self, picture: NDArray[np.uint8]) -> None:
        """Append a frame, uint8 [H, W, 3] RGB; all have the same size."""
        if self._size is None:
            self._size = picture.shape
            self._stream.height, self._stream.width = (side + side % 2 for side in self._size[:2])
        elif picture.shape != self._size:
            raise ValueError(f"a frame {picture.shape} in a film of {self._size}")
        height, width, _ = self._size
        padded = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(padded), format="rgb24")
        self._container.mux(self._stream.encode(frame))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._container.mux(self._stream.encode(None))
        finally:
            self._container.close()


def encode_film(frames: NDArray[np.uint8], fps: int, *, limit: int = 150_000) -> bytes:
    """Encode uint8 [S, H, W, 3] RGB frames as an MP4 file.

    Args:
        limit: about the largest size in bytes; drawings that flicker lose detail to stay within it.

    Raises:
        VideoError: this build of PyAV has no H.264 encoder.
    """
    file = io.BytesIO()
    rate = max(1, round(8 * limit * fps / (1000 * len(frames))))  # kilobits a second
    # one thread, because the process may share its cores with training
    with FilmWriter(file, fps, rate=rate) as film:
        for picture in frames:
            film.add(picture)
    return file.getvalue()


def data_url(content: bytes, kind: str) -> str:
    """`data:` URL of some bytes of a MIME type."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
