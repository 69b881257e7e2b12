"""Read frames of a video file by number.

- A frame's number is its place in what decoding the whole file shows, from 0.
- `len(reader)` is exact: packets are counted without decoding where one packet is one frame, else
  the file is decoded once. The header's count is never used.
- Reading seeks to the keyframe before what is wanted and decodes on from there, without the frames
  that nothing refers to until shortly before the first one wanted. Decoded times must then follow
  each other as the packets promised; where they do not, the reader gives up seeking and decodes
  from the start, so a frame is the same however it was reached.
- Only frames that are returned are converted to RGB, and turned as the file's display matrix says.
- Of several video streams the first is read; cover pictures do not count.
- Only local files are opened, and none that they name: see `opening.py`. A video in a shard (see
  `shards.py`) is read into memory once and decoded from there.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property
from itertools import chain
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import numpy as np
import torch
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray
from torch import Tensor

from m3video.errors import VideoError
from m3video.patience import progress
from m3video.video.opening import TOO_LARGE, open_video
from m3video.video.orientation import Turn
from m3video.video.packets import PacketScan, average_rate, reason, scan_packets
from m3video.video.shards import read_video
from m3video.video.walk import is_remote
from m3video.video.watch import reading, waiting

# Frames stored out of order lie at most this far apart (H.264 and HEVC). So many before the first
# wanted one are decoded in full, to see that the order is as promised; and when the next keyframe
# is nearer than this, decoding on is cheaper than a seek.
_REORDER = 16


class _UnreliableSeekError(Exception):
    """Decoding after a seek did not give the frames that the packets promised."""


class VideoReader:
    """An open video file; a context manager.

    Args:
        path: a local file, or a video in a shard.
        threads: decoding threads. Data workers use 1.
        frames: how many the file is known to hold; spares decoding all of it to count them, where
            its packets do not tell.
        scan: `scan` of an earlier reader of the file; spares reading all its packets.

    Attributes:
        scan: what the packets tell; with `len`, all that opening finds out.

    Raises:
        VideoError: the file cannot be opened, or holds no video frame.
        UnreachableError: its server does not answer.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        threads: int = 1,
        frames: int | None = None,
        scan: PacketScan | None = None,
    ) -> None:
        self.path = Path(path)
        self._threads = threads
        reading(self.path)
        with waiting(self.path) if is_remote(self.path) else nullcontext():
            self._data = read_video(self.path)  # of a video in a shard
        self._reformatter = VideoReformatter()
        self._open()
        try:
            self.scan = scan or scan_packets(self.path, self._container, self._stream)
            self._number(frames)
            self.scan = replace(self.scan, fps=self.fps)  # decoding may know it better
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._container.close()

    def __len__(self) -> int:
        """Exact number of frames."""
        return self._count

    @property
    def duration(self) -> float:
        """Seconds that the frames are shown."""
        return self._count / self.fps

    @property
    def height(self) -> int:
        """Pixels, as displayed."""
        return self._size[0]

    @property
    def width(self) -> int:
        """Pixels, as displayed."""
        return self._size[1]

    def frame_at(self, seconds: float) -> int:
        """The frame shown nearest to `seconds` after the first; past the end, by average rate."""
        base = self._stream.time_base
        if not self._times or base is None:
            return round(seconds * self.fps)
        times, at = self._times, self._times[0] + seconds / base
        if at > times[-1]:
            return self._count - 1 + round((at - times[-1]) * base * self.fps)
        after = bisect_left(times, at)
        return after - (after > 0 and at - times[after - 1] <= times[after] - at)

    def frames(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        """Read frames, in any order and with repeats.

        Returns:
            RGB, uint8 [len(indices), H, W, 3].

        Raises:
            IndexError: an index that is not in 0 … len(self) − 1.
            VideoError: a frame that cannot be decoded; the message names it.
        """
        rows: dict[int, list[int]] = {}
        for row, index in enumerate(indices):
            rows.setdefault(index, []).append(row)
        if not rows:
            return np.empty((0, self.height, self.width, 3), np.uint8)
        out: NDArray[np.uint8] | None = None
        for index, image in self.images(list(rows)):
            if out is None:
                out = np.empty((len(indices), *image.shape), np.uint8)
            for row in rows[index]:
                out[row] = image
        assert out is not None
        return out

    def images(self, indices: Sequence[int]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Read frames one at a time, without a copy: each distinct index, ascending, and its frame.

        Yields:
            Index and RGB, uint8 [H, W, 3]: a view that is valid until the next one is asked for.

        Raises:
            IndexError, VideoError: as for `frames`.
        """
        for index, frame in self._decode(self._ascending(indices)):
            yield index, self._rgb(frame)

    def _ascending(self, indices: Sequence[int]) -> list[int]:
        """Each distinct index, or an IndexError."""
        wanted = sorted(set(indices))
        for index in wanted[:1] + wanted[-1:]:
            if not 0 <= index < self._count:
                raise IndexError(f"{self.path}: frame {index} is not in 0 … {self._count - 1}")
        return wanted

    def sweep(self) -> Iterator[NDArray[np.uint8]]:
        """All frames from the first to the last, each uint8 [H, W, 3] RGB."""
        for _, frame in self._decode_from_start(range(self._count)):
            yield self._rgb(frame).copy()

    __iter__ = sweep

    def verify(self) -> None:
        """Decode every frame from the start.

        Raises:
            VideoError: a frame cannot be decoded, or there are fewer or more than were counted.
        """
        self._rewind()
        for _ in range(self._count):
            self._next_frame()
        if next(self._decoded, None) is not None:
            raise VideoError(f"{self.path}: decodes to more frames than its {self._count} packets")

    # -- opening

    def _open(self) -> None:
        container, stream = open_video(self.path, self._threads, self._data)
        self._container: InputContainer = container
        self._stream: VideoStream = stream
        self._decoded: Iterator[VideoFrame] = iter(())
        self._position: int | None = None  # number of the frame that _decoded gives next
        self._coded = stream.codec_context.width, stream.codec_context.height

    def _rewind(self) -> None:
        """Start decoding at the beginning of the file, without a seek."""
        self.close()
        self._open()
        self._decoded = self._frames_of(self._demux())
        self._position = 0

    def _demux(self) -> Iterator[Packet[VideoStream]]:
        """Packets from where the file stands to its end."""
        for packet in self._container.demux(self._stream):
            progress()
            yield packet

    @staticmethod
    def _frames_of(packets: Iterator[Packet[VideoStream]]) -> Iterator[VideoFrame]:
        for packet in packets:
            for frame in packet.decode():
                assert isinstance(frame, VideoFrame)
                yield frame

    def _number(self, known: int | None) -> None:
        """Find the number of frames, when each is shown, and where to seek."""
        # Without reliable times nothing can be sought: count by decoding, read from the start.
        self._times = self.scan.times
        self._keys = self.scan.keys
        self.fps = self.scan.fps
        """Frames per second on average, from the times at which frames are shown."""
        self._count = len(self._times) or known or self._count_by_decoding()

    def _count_by_decoding(self) -> int:
        self._rewind()
        count = 0
        times: list[int] = []
        try:
            for frame in self._decoded:
                count += 1
                if frame.pts is not None:
                    times.append(frame.pts)
        except av.FFmpegError as error:
            raise self._undecodable(count, error) from error
        if count == 0:
            raise VideoError(f"{self.path}: holds no video frame")
        if len(times) == count and times == sorted(set(times)):
            self.fps = average_rate(times, 0, self._stream)
        self._position = None
        return count

    # -- from numbers to frames

    def _decode(self, wanted: Sequence[int]) -> Iterator[tuple[int, VideoFrame]]:
        """The wanted frames, given ascending: by seeking if that can be relied on."""
        reading(self.path)
        done = 0
        if self._keys:
            self._position = None
            try:
                for key, run in self._runs(wanted):
                    for pair in self._decode_run(key, run):
                        done += 1
                        yield pair
                return
            except (_UnreliableSeekError, av.FFmpegError):
                self._keys = []
        yield from self._decode_from_start(wanted[done:])

    def _decode_from_start(self, wanted: Sequence[int]) -> Iterator[tuple[int, VideoFrame]]:
        for index in wanted:
            if self._position is None or self._position > index:
                self._rewind()
            while self._position != index:
                self._next_frame()
            yield index, self._next_frame()

    def _next_frame(self) -> VideoFrame:
        """The next frame of a pass that began at the start of the file."""
        assert self._position is not None
        number, self._position = self._position, None  # unknown if decoding fails
        try:
            frame = next(self._decoded, None)
        except av.FFmpegError as error:
            raise self._undecodable(number, error) from error
        if frame is None:
            ends = f"decoding ends at frame {number} of {self._count}"
            raise VideoError(f"{self.path}: {ends}", frame=number)
        self._position = number + 1
        return frame

    def _undecodable(self, number: int, error: av.FFmpegError) -> VideoError:
        # A decoder says no more of a frame that is larger than its container told.
        large = f" (it may have {TOO_LARGE})" if isinstance(error, av.ArgumentError) else ""
        told = f"frame {number} cannot be decoded: {reason(error)}{large}"
        return VideoError(f"{self.path}: {told}", frame=number)

    def _runs(self, wanted: Sequence[int]) -> Iterator[tuple[tuple[int, int], list[int]]]:
        """Split the wanted frames where a seek pays: the keyframe to seek, and the frames."""
        start: tuple[int, int] | None = None
        run: list[int] = []
        for index in wanted:
            before = bisect_right(self._keys, self._times[index], key=itemgetter(0))
            key = self._keys[before - 1]
            if start is None or bisect_left(self._times, key[0]) > run[-1] + _REORDER:
                if start is not None:
                    yield start, run
                start, run = key, []
            run.append(index)
        if start is not None:
            yield start, run

    def _decode_run(self, key: tuple[int, int], run: list[int]) -> Iterator[tuple[int, VideoFrame]]:
        number = max(run[0] - _REORDER, bisect_left(self._times, key[0]))
        begin = self._times[number]
        wanted = frozenset(run)
        context = self._stream.codec_context
        for packet in self._seek(*key):
            early = packet.pts is not None and packet.pts < begin
            context.skip_frame = "NONREF" if early else "DEFAULT"
            for frame in packet.decode():
                assert isinstance(frame, VideoFrame)
                if frame.pts is not None and frame.pts < begin:
                    continue
                if frame.pts != self._times[number]:
                    raise _UnreliableSeekError
                if number in wanted:
                    yield number, frame
                if number == run[-1]:
                    return
                number += 1
        raise _UnreliableSeekError

    def _seek(self, pts: int, dts: int) -> Iterator[Packet[VideoStream]]:
        """Packets from the keyframe shown at `pts` on, or from an earlier one."""
        # Some demuxers look for the time of showing, some for that of decoding.
        for time in (pts, dts):
            self._container.seek(time, stream=self._stream)
            packets = self._demux()
            first = next(packets)
            if first.pts is not None and first.pts <= pts:
                return chain((first,), packets)
        raise _UnreliableSeekError

    # -- from decoded to displayed

    def _rgb(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """A view of the frame as RGB [H, W, 3]; valid while nothing else is decoded."""
        width, height = self._coded
        # swscale's own threads cost more than they give, and starve when all cores are busy.
        rgb = self._reformatter.reformat(frame, width, height, "rgb24", threads=1)
        plane = rgb.planes[0]
        lines = np.frombuffer(memoryview(plane), np.uint8).reshape(height, plane.line_size)
        return Turn.of(frame).pixels(lines[:, : 3 * width].reshape(height, width, 3))

    @cached_property
    def _size(self) -> tuple[int, int]:
        width, height = self._coded
        _, frame = next(self._decode([0]))
        return (width, height) if Turn.of(frame).transpose else (height, width)


def read_frames(
    path: str | Path, *, start: int = 0, count: int | None = None, stride: int = 1
) -> Tensor:
    """Read `count` frames (all that follow when None), `stride` apart, from frame `start` on.

    Returns:
        RGB, uint8 [S, H, W, 3].

    Raises:
        VideoError: not a readable video, or it has no such frames.
    """
    if start < 0 or stride < 1 or (count is not None and count < 1):
        raise VideoError(
            f"{path}: start {start}, count {count}, stride {stride}: "
            "start must be at least 0, count and stride at least 1"
        )
    with VideoReader(path) as reader:
        stop = len(reader) if count is None else start + (count - 1) * stride + 1
        if stop > len(reader) or start >= len(reader):
            raise VideoError(
                f"{path}: frames {start} … {max(stop, start + 1) - 1} were asked for, "
                f"but it has {len(reader)}; choose a smaller start, count or stride"
            )
        return torch.from_numpy(reader.frames(range(start, stop, stride)))
