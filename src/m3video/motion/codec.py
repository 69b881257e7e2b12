"""Flow from a video encoder's motion search, for frames that do not come from a compressed file.

Each pair is encoded as a video of two frames, the second one first: the blocks of the other then
say where in it they come from, which is where they go. So, unlike the vectors of a file
(`video.vectors`), nothing has to be turned round, and no vector spans more than the pair. Vectors
are in quarter pixels, of blocks of 8 × 8 pixels or more, and chosen for few bits: fair where things
are larger than a block and textured, without meaning where nothing tells one place from another.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

import av
import numpy as np
import torch
from av.codec.context import CodecContext
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from numpy.typing import NDArray
from torch import Tensor

from m3video.errors import ConfigError
from m3video.video.augment import Crop
from m3video.video.vectors import Canvas, crop_motion, read_blocks

_MACROBLOCK = 16
# Every second frame a keyframe, one reference, one quantiser: a pair's bits are its own.
_X264 = (
    "keyint=2:min-keyint=2:scenecut=0:bframes=0:ref=1:weightp=0:qp=20:aq-mode=0:mbtree=0:psy=0:"
    "rc-lookahead=0:sync-lookahead=0:threads=1:me=hex:subme=6:merange=24"
)
_OPTIONS = {
    "libx264": {"x264-params": _X264},
    "mpeg4": {"g": "2", "bf": "0", "qmin": "3", "qmax": "3", "mbd": "rd", "flags": "+mv4+qpel"},
}
_DECODERS = {"libx264": "h264", "mpeg4": "mpeg4"}
_PIXELS = {"libx264": "gray", "mpeg4": "yuv420p"}


def _encoder() -> str:
    for name in _OPTIONS:
        if name in av.codecs_available:
            return name
    raise ConfigError(
        f"flow codec needs an encoder, {' or '.join(_OPTIONS)}, and this PyAV has none: install "
        "the av wheel from PyPI, or use flow dis"
    )


@dataclass(frozen=True)
class CodecFlow:
    """Motion vectors of pairs that are encoded for it, on the CPU; see this file.

    A pair in which the encoder finds nothing again has zero flow.

    Raises:
        ConfigError: FFmpeg has no encoder for it.
    """

    encoder: str = field(default_factory=_encoder)

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """uint8 grey [P, H, W] twice → float32 [P, 2, H, W]."""
        pairs, height, width = first.shape
        flow = np.zeros((pairs, 2, height, width), np.float32)
        whole = Crop((0, 0, height, width), (height, width))
        frames = self._code(np.stack([_padded(second), _padded(first)], axis=1))
        for number, frame in enumerate(frames[1::2]):
            canvas = Canvas(height, width)
            canvas.paint(read_blocks(frame)[0], 1)
            flow[number] = crop_motion(canvas.complete(), whole)
        return torch.from_numpy(flow).to(first.device)

    def _code(self, pairs: NDArray[np.uint8]) -> list[VideoFrame]:
        """Encode and decode images [P, 2, H, W] one by one: frames that know their vectors."""
        images = pairs.reshape(-1, *pairs.shape[2:])
        if not len(images):
            return []
        encoder = _context(self.encoder, "w")
        encoder.height, encoder.width = images.shape[1:]
        encoder.pix_fmt = _PIXELS[self.encoder]
        encoder.time_base, encoder.framerate = Fraction(1, 25), Fraction(25)
        encoder.options = _OPTIONS[self.encoder]
        decoder = _context(_DECODERS[self.encoder], "r")
        decoder.options = {"flags2": "+export_mvs"}
        decoded: list[VideoFrame] = []
        for number, image in enumerate(images):
            frame = VideoFrame.from_ndarray(image, "gray").reformat(format=encoder.pix_fmt)
            frame.pts = number
            for packet in encoder.encode(frame):
                decoded += decoder.decode(packet)
        for packet in encoder.encode(None):
            decoded += decoder.decode(packet)
        decoded += decoder.decode(None)
        assert len(decoded) == len(images)
        return decoded


def _context(name: str, mode: Literal["r", "w"]) -> VideoCodecContext:
    context = CodecContext.create(name, mode)
    assert isinstance(context, VideoCodecContext)
    context.thread_count = 1
    return context


def _padded(images: Tensor) -> NDArray[np.uint8]:
    """Repeat the last row and column up to whole macroblocks, on the CPU."""
    down, across = (-side % _MACROBLOCK for side in images.shape[1:])
    return np.pad(images.cpu().numpy(), ((0, 0), (0, down), (0, across)), mode="edge")
