"""What packets tell without decoding: how many frames, when each is shown, where to seek."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from m3video.errors import VideoError
from m3video.patience import progress

# In these codecs every packet that a container holds is one shown frame. VP8 keeps hidden frames in
# packets of their own, and MPEG-4 Part 2 "not coded" ones, a few bytes long: see `_one_to_one`.
_ONE_TO_ONE = frozenset(
    ["h264", "hevc", "av1", "vp9", "mpeg1video", "mpeg2video", "mjpeg", "gif", "png", "ffv1"]
)
_NOT_CODED_BYTES = 16
# These containers store when a frame is shown. AVI and raw streams do not: FFmpeg guesses.
_SHOW_TIMES = frozenset({"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"})
_UNKNOWN_RATE = 25.0  # frames per second, when neither times nor the header tell


@dataclass(frozen=True)
class PacketScan:
    """The times are in the stream's time base. Both lists are empty where packets do not tell."""

    times: Sequence[int]
    """When each frame is shown, ascending."""
    keys: list[tuple[int, int]]
    """Keyframes, ascending: when it is shown, and when it is decoded."""
    fps: float
    """Frames per second on average."""
    base: Fraction = Fraction(1)
    """Seconds of a tick."""


@dataclass(frozen=True)
class _Packet:
    pts: int | None
    dts: int | None
    key: bool
    discard: bool  # decoded but not shown: before the first frame of an edit list
    size: int
    duration: int


def scan_packets(path: Path, container: InputContainer, stream: VideoStream) -> PacketScan:
    """Read all packets of an open file, from where it stands to its end.

    Raises:
        VideoError: a packet cannot be read or is cut off, or there are none.
    """
    packets = _read_packets(path, container, stream)
    if not packets:
        raise VideoError(f"{path}: holds no video frame")
    shown = [packet.pts for packet in packets if not packet.discard]
    times = sorted(pts for pts in shown if pts is not None)
    reliable = (
        len(set(times)) == len(shown) > 0
        and packets[0].key
        and packets[0].pts == min(packet.pts or 0 for packet in packets)
        and (container.format.name in _SHOW_TIMES or times == shown)
        and _one_to_one(packets, stream, in_order=times == shown)
    )
    if not reliable:
        return PacketScan((), [], _header_rate(stream))
    keys = [
        (p.pts, p.pts if p.dts is None else p.dts) for p in packets if p.key and p.pts is not None
    ]
    # A packet's duration is that of its frame only where frames are stored as they are shown.
    last = packets[-1].duration if times == shown else 0
    # A film has hundreds of thousands of frames: an array has 8 bytes of each.
    rate, base = average_rate(times, last, stream), stream.time_base or Fraction(1)
    return PacketScan(array("q", times), sorted(keys), rate, base)


def _read_packets(path: Path, container: InputContainer, stream: VideoStream) -> list[_Packet]:
    packets: list[_Packet] = []
    try:
        for packet in container.demux(stream):
            progress()
            if packet.size == 0:  # the end, or AVI's way to show the last frame for longer
                continue
            if packet.is_corrupt:
                raise VideoError(f"{path}: packet {len(packets)} is damaged or cut off")
            flags = packet.is_keyframe, packet.is_discard
            packets.append(
                _Packet(packet.pts, packet.dts, *flags, packet.size, packet.duration or 0)
            )
    except av.FFmpegError as error:
        raise VideoError(
            f"{path}: packet {len(packets)} cannot be read: {reason(error)}"
        ) from error
    return packets


def _one_to_one(packets: list[_Packet], stream: VideoStream, in_order: bool) -> bool:
    codec = stream.codec_context.codec.canonical_name
    if codec == "mpeg4":  # mostly copied from AVI, so its times are guesses where order changes
        return in_order and min(packet.size for packet in packets) >= _NOT_CODED_BYTES
    return codec in _ONE_TO_ONE


def _header_rate(stream: VideoStream) -> float:
    rate = float(stream.average_rate or stream.guessed_rate or 0)
    return rate if rate > 0 else _UNKNOWN_RATE


def average_rate(times: list[int], last: int, stream: VideoStream) -> float:
    """Frames per second, from when frames are shown, ascending, and the last one's duration.

    Both are in ticks of the stream's time base; a duration of 0 is unknown. Without two different
    times it is what the header says.
    """
    ticks = times[-1] - times[0] if times else 0
    ticks_shown = ticks + (last or ticks / max(len(times) - 1, 1))
    header = _header_rate(stream)
    if not ticks_shown or not stream.time_base:
        return header
    rate = len(times) / (ticks_shown * float(stream.time_base))
    # Containers round times (Matroska to milliseconds) and drop frames: keep a header that agrees.
    return header if abs(header - rate) < 0.05 * rate else rate


def h264_reference(data: bytes, extradata: bytes | None) -> bool | None:
    """Whether other frames may refer to the H.264 picture in a packet; None: there is none.

    They may where nal_ref_idc of its first slice is not 0 (ITU-T H.264, 7.4.1).
    """
    # MP4 and Matroska have an avcC record, and lengths of 1 … 4 bytes in the place of start codes.
    boxed = extradata is not None and len(extradata) > 4 and extradata[0] == 1
    for start in _units(data, (extradata[4] & 3) + 1 if extradata and boxed else 0):
        if data[start] & 31 in (1, 2, 5):  # a slice, its partition A, a slice of an IDR picture
            return data[start] & 0x60 != 0
    return None


def _units(data: bytes, size: int) -> Iterator[int]:
    """Where units begin: after a length of `size` bytes, or after a start code where it is 0."""
    place = 0
    while size and place + size < len(data):
        yield place + size
        place += size + int.from_bytes(data[place : place + size], "big")
    while not size and (place := data.find(b"\0\0\1", place) + 3) > 2 and place < len(data):
        yield place


def reason(error: Exception) -> str:
    """An error of FFmpeg or the system in one line."""
    return " ".join(str(getattr(error, "strerror", None) or error).split())
