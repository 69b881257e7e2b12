"""Read frames of a video file, and the motion that its codec found between them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from av.codec.context import Flags
from av.packet import Packet
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from m3video.errors import VideoError
from m3video.video.augment import Crop
from m3video.video.orientation import Turn
from m3video.video.packets import h264_reference
from m3video.video.reader import VideoReader
from m3video.video.vectors import (
    EXPORTING,
    NO_BLOCKS,
    Floats,
    FrameVectors,
    crop_motion,
    motion_between,
    read_blocks,
)

# Encoders seldom place references further apart; vectors of frames without one this near are lost.
_REACH = 4


class VectorReader(VideoReader):
    """A `VideoReader` that keeps the motion vectors of what it reads: no frame is decoded twice.

    All frames from a little before the first to a little after the last of those asked for are
    decoded; the others are neither converted nor returned.

    Raises:
        VideoError: as `VideoReader`, or FFmpeg gives no vectors of this codec.
    """

    def __init__(self, path: str | Path, *, threads: int = 1, frames: int | None = None) -> None:
        self._read: list[FrameVectors] = []
        self._shown = 0, 0
        self._packets = 0  # demuxed so far; never reset, so that it orders frames after a seek too
        super().__init__(path, threads=threads, frames=frames)

    def images(self, indices: Sequence[int]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """As `VideoReader.images`; when all are read, `flow` knows the motion between them."""
        wanted = self._ascending(indices)
        self._read = []
        if not wanted:
            return
        asked, last = frozenset(wanted), wanted[-1]
        near = range(max(wanted[0] - _REACH, 0), min(last + _REACH + 1, len(self)))
        for number, frame in self._decode(near):
            vectors = self._vectors(number, frame)
            self._read.append(vectors)
            if number in asked:
                image = self._rgb(frame)
                self._shown = image.shape[0], image.shape[1]
                yield number, image
            if number > last and vectors.reference:
                return

    def flow(self, pairs: Sequence[tuple[int, int]], crop: Crop) -> Floats:
        """Flow of pairs of frames, of which each is among those that `images` has read last.

        Args:
            pairs: numbers of the first and the second frame, which does not come before it; the
                flow of a frame to itself is zero.
            crop: what was done to the frames.

        Returns:
            float32 [len(pairs), 2, h, w], in pixels of the crop.

        Raises:
            VideoError: there are no vectors anywhere near.
        """
        out = np.zeros((len(pairs), 2, *crop.size), np.float32)
        for flow, (first, last) in zip(out, pairs, strict=True):
            if first == last:
                continue
            motion = motion_between(self._read, first, last, self._shown)
            if motion is None:
                start, end = self._read[0].number, self._read[-1].number
                raise VideoError(
                    f"{self.path}: frames {start} … {end} hold no motion vectors, each is coded by "
                    "itself; use another flow than codec, as dis-fast"
                )
            flow[:] = crop_motion(motion, crop)
        return out

    def _open(self) -> None:
        super()._open()
        context = self._stream.codec_context
        codec = context.codec.canonical_name
        if codec not in EXPORTING:
            self.close()
            raise VideoError(
                f"{self.path}: FFmpeg gives no motion vectors of {codec}, it does of h264, mpeg4 "
                "and mpeg2video; use another flow than codec, as dis-fast"
            )
        context.options = {**context.options, "flags2": "+export_mvs"}
        context.flags |= Flags.copy_opaque
        self._codec = codec

    def _demux(self) -> Iterator[Packet[VideoStream]]:
        """Packets that say whether their frame may be referred to (None: they do not tell) and how
        many came before. Frames then know it too.
        """
        extradata = self._stream.codec_context.extradata
        for packet in super()._demux():
            h264 = self._codec == "h264"
            marked = h264_reference(bytes(packet), extradata) if h264 else None
            # PyAV keeps what a packet carries by its id, so each needs an object of its own.
            packet.opaque = [marked, self._packets]
            self._packets += 1
            yield packet

    def _vectors(self, number: int, frame: VideoFrame) -> FrameVectors:
        width, height = self._coded
        if (frame.width, frame.height) != self._coded:
            raise VideoError(
                f"{self.path}: frame {number} is {frame.width}×{frame.height} and the first ones "
                f"{width}×{height}, so motion vectors do not fit; use another flow than codec"
            )
        both_ways = frame.pict_type == PictureType.B
        carried = frame.opaque
        marked, order = carried if isinstance(carried, list) else (None, self._packets)
        reference = not both_ways if marked is None else bool(marked)
        if both_ways and self._codec == "mpeg4":  # FFmpeg gives zeros, whatever the motion
            return FrameVectors(number, order, reference, NO_BLOCKS, NO_BLOCKS)
        turn = Turn.of(frame)
        past, future = (turn.blocks(blocks, height, width) for blocks in read_blocks(frame))
        return FrameVectors(number, order, reference, past, future)
