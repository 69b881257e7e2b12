"""Files that are broken, lie, or want something: each made on the spot from small valid videos.

`HOSTILE` names what each maker writes and what has to become of it: `VIDEO` where the file is odd
but a video, `EITHER` (a bit that was flipped), else words that the reason holds.
"""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from tests.video.made_clips import picture, remux, write_clip

HUGE = 16000
SIZE = 48, 80
"""Height and width of the valid videos that the broken ones are made from."""

VIDEO, EITHER = "a video", ""

Make = Callable[[Path], object]


def valid(path: Path, codec: str = "libx264", frames: int = 12, **settings: object) -> Path:
    """A small video that nothing is wrong with."""
    return write_clip(path, codec, frames=frames, **settings)  # type: ignore[arg-type]


def valid_bytes(folder: Path, ending: str, codec: str = "libx264", **settings: object) -> bytes:
    """The bytes of such a video."""
    path = valid(folder / f".valid.{ending}", codec, **settings)  # type: ignore[arg-type]
    data = path.read_bytes()
    path.unlink()
    return data


def patched(data: bytes, old: bytes, new: bytes, times: int = -1) -> bytes:
    """With other bytes in the place of some, which must be there."""
    assert len(old) == len(new)
    assert old in data
    return data.replace(old, new, times)


def flipped(data: bytes, places: list[int]) -> bytes:
    """With one bit flipped at each place, counted in bits."""
    out = bytearray(data)
    for place in places:
        out[place // 8] ^= 1 << place % 8
    return bytes(out)


def cut_files(folder: Path, source: bytes, ending: str) -> Iterator[Path]:
    """A file that ends after each tenth of its length."""
    for tenth in range(10):
        path = folder / f"cut-{tenth}.{ending}"
        path.write_bytes(source[: len(source) * tenth // 10])
        yield path


def flipped_files(
    folder: Path, source: bytes, ending: str, *, flips: int, each: int, seed: int = 0
) -> Iterator[Path]:
    """`flips` seeded places, `each` of them in one file."""
    places = [random.Random(seed + n).randrange(8 * len(source)) for n in range(flips)]
    for first in range(0, flips, each):
        path = folder / f"flipped-{first:03d}.{ending}"
        path.write_bytes(flipped(source, places[first : first + each]))
        yield path


def _audio(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), "fltp", "mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))


def _png(path: Path) -> None:
    path.write_bytes(valid_bytes(path.parent, "png", "png", frames=1, pixels="rgb24"))


def _avi_size(path: Path, height: int, width: int) -> None:
    """The size in the header of a Motion JPEG file, and in each of its pictures."""
    data = valid_bytes(path.parent, "avi", "mjpeg", pixels="yuvj420p")
    data = patched(data, struct.pack("<ii", SIZE[1], SIZE[0]), struct.pack("<ii", width, height))
    jpeg = b"\xff\xc0\x00\x11\x08"
    old, new = struct.pack(">HH", *SIZE), struct.pack(">HH", height, width)
    path.write_bytes(patched(data, jpeg + old, jpeg + new))


def _stream_size(path: Path) -> None:
    """The container says 80×48, the pictures of VP8 say more."""
    options = {"deadline": "realtime"}
    data = valid_bytes(path.parent, "webm", "libvpx", options=options)
    start = b"\x9d\x01\x2a"
    old, new = struct.pack("<HH", SIZE[1], SIZE[0]), struct.pack("<HH", 16383, 16383)
    path.write_bytes(patched(data, start + old, start + new))


def _mkv_size(path: Path) -> None:
    """The container alone says it, as FFV1's pictures do not know their size."""
    size = 260, 270  # 2 bytes each, as those of the lie
    data = valid_bytes(path.parent, "mkv", "ffv1", frames=1, size=size, pixels="gray")
    old = b"\xb0\x82" + struct.pack(">H", size[1]) + b"\xba\x82" + struct.pack(">H", size[0])
    new = b"\xb0\x82" + struct.pack(">H", HUGE) + b"\xba\x82" + struct.pack(">H", HUGE)
    path.write_bytes(patched(data, old, new))


def _gif_size(path: Path) -> None:
    data = valid_bytes(path.parent, "gif", "gif", pixels="rgb8", frames=3)
    path.write_bytes(data[:6] + struct.pack("<HH", HUGE, HUGE) + data[10:])


def _mp4_size(path: Path, height: int, width: int) -> None:
    """Only the container's word, which the pictures of H.264 overrule."""
    data = valid_bytes(path.parent, "mp4")
    at = data.index(b"avc1", data.index(b"stsd")) + 28
    assert data[at : at + 4] == struct.pack(">HH", SIZE[1], SIZE[0])
    path.write_bytes(data[:at] + struct.pack(">HH", width, height) + data[at + 4 :])


def _samples(path: Path) -> None:
    """A table of samples that says it holds 170 million, of one byte each, in one chunk."""
    data = bytearray(valid_bytes(path.parent, "mp4"))
    count = 170_000_000
    stsz = data.index(b"stsz")
    data[stsz + 8 : stsz + 16] = struct.pack(">II", 1, count)
    stsc = data.index(b"stsc")
    data[stsc + 16 : stsc + 20] = struct.pack(">I", count)
    path.write_bytes(data)


def _too_long(path: Path) -> None:
    """Three frames, and a header of ten seconds."""
    data = valid_bytes(path.parent, "avi", "mpeg4", frames=3)
    at = data.index(b"strh") + 8 + 32
    assert data[at : at + 4] == struct.pack("<I", 3)
    path.write_bytes(data[:at] + struct.pack("<I", 250) + data[at + 4 :])


def _repeated(path: Path) -> None:
    """Each time is that of two frames."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.height, stream.width = SIZE
        stream.pix_fmt = "yuvj420p"
        for number in range(12):
            frame = av.VideoFrame.from_ndarray(picture(number, *SIZE), "rgb24")
            for packet in stream.encode(frame):
                packet.time_base = Fraction(1, 25)
                packet.pts = packet.dts = number // 2
                container.mux(packet)


def _negative(path: Path) -> None:
    source = valid(path.with_name(".valid.mp4"))
    remux(source, path, shift=-512 * 5, options={"avoid_negative_ts": "disabled"})
    source.unlink()


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


def _text(text: str) -> Make:
    return lambda path: path.write_text(text)


_HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{0}\n#EXT-X-ENDLIST\n"
_DASH = (
    '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static">'
    '<Period><AdaptationSet contentType="video"><Representation id="1" bandwidth="1">'
    "<BaseURL>{0}</BaseURL></Representation></AdaptationSet></Period></MPD>"
)
_INVALID, _OTHER = "Invalid data", "is a playlist, a picture"
_SIZE = "its frames have no size, or more than 67,108,864 pixels"

PLAYLISTS = {
    "hls.m3u8": (_HLS, _OTHER),
    "hls.mp4": (_HLS, _INVALID),
    "concat.ffconcat": ("ffconcat version 1.0\nfile {0}\n", _OTHER),
    "concat.mp4": ("ffconcat version 1.0\nfile {0}\n", _OTHER),
    "dash.mp4": (_DASH, _INVALID),
    "sdp.mp4": (
        "v=0\nc=IN IP4 127.0.0.1\nm=video 1 RTP/AVP 96\n",
        _OTHER,
    ),
    "asx.mp4": ('<asx version="3.0"><entry><ref href="{0}"/></entry></asx>', _INVALID),
}
"""Name → text, in which {0} is what it points at, and words of the refusal."""

HOSTILE: dict[str, tuple[Make, str]] = {
    "empty.mp4": (_text(""), "empty"),
    "text.mp4": (_text("not a video\n" * 99), _INVALID),
    "picture.mp4": (_png, _OTHER),
    "an_mp4.avi": (lambda path: path.write_bytes(valid_bytes(path.parent, "mp4")), VIDEO),
    "audio.mp4": (_audio, "has no video stream"),
    "one_frame.mp4": (lambda path: valid(path, frames=1), VIDEO),
    "no_size.avi": (lambda path: _avi_size(path, 0, 0), _SIZE),
    "no_size.mp4": (lambda path: _mp4_size(path, 0, 0), VIDEO),
    "huge.avi": (lambda path: _avi_size(path, HUGE, HUGE), _SIZE),
    "huge.webm": (_stream_size, "it may have more than"),
    "huge.mkv": (_mkv_size, _SIZE),
    "huge.gif": (_gif_size, _SIZE),
    "huge.mp4": (lambda path: _mp4_size(path, HUGE, HUGE), VIDEO),
    "samples.mp4": (_samples, EITHER),
    "three_frames.avi": (_too_long, VIDEO),
    "odd.mkv": (lambda path: valid(path, "ffv1", size=(45, 67), pixels="bgr0"), VIDEO),
    "one_pixel.mkv": (lambda path: valid(path, "ffv1", size=(1, 1), pixels="bgr0"), VIDEO),
    "twelve_bits.mkv": (lambda path: valid(path, "ffv1", pixels="yuv422p12le"), VIDEO),
    "alpha.mov": (lambda path: valid(path, "qtrle", pixels="argb"), VIDEO),
    "interlaced.mpg": (
        lambda path: valid(path, "mpeg2video", options={"flags": "+ildct+ilme"}),
        VIDEO,
    ),
    "rotated.mp4": (lambda path: valid(path, rotation=90), VIDEO),
    "negative.mp4": (_negative, VIDEO),
    "repeated.mkv": (_repeated, VIDEO),
    "fast.mp4": (lambda path: valid(path, times=list(range(12))), VIDEO),
    "loop.mp4": (_loop, "symbolic links"),
    "gone.mp4": (lambda path: path.symlink_to("nowhere"), "No such file"),
    "new\nline.mp4": (valid, VIDEO),
    "lat\udce9.mp4": (lambda path: path.write_bytes(valid_bytes(path.parent, "mp4")), VIDEO),
    "fifo.mp4": (os.mkfifo, "a pipe, a device"),
    "folder.mp4": (Path.mkdir, "is a directory"),
    "device.mp4": (lambda path: path.symlink_to("/dev/zero"), "a pipe, a device"),
    **{
        name: (_text(text.format("http://127.0.0.1:9/a.ts")), reason)
        for name, (text, reason) in PLAYLISTS.items()
    },
}
"""File name → what makes it, and what has to become of it."""


def write_misleading(folder: Path, host: str) -> dict[str, str]:
    """Videos whose names, as seen from the folder, read as URLs or as places in shards.

    Args:
        folder: where they go.
        host: that the URLs would be at.
    """
    made = {
        f"http:/{host}/a.mp4": VIDEO,
        f"http:/{host}/a.tar::1024+100::x.mp4": "reads as a place in a shard",
        "s3:/bucket/a.mp4": VIDEO,
        "x.tar::512+9::a.mp4": "reads as a place in a shard",
    }
    data = valid_bytes(folder, "mp4")
    for name in made:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return made


def write_hostile(folder: Path) -> dict[Path, str]:
    """All of `HOSTILE`, a clip cut at each tenth, and 200 flipped bits, 20 a file."""
    made: dict[Path, str] = {}
    for name, (make, outcome) in HOSTILE.items():
        make(folder / name)
        made[folder / name] = outcome
    source = valid_bytes(folder, "mp4")
    made |= dict.fromkeys(cut_files(folder, source, "mp4"), EITHER)
    broken = flipped_files(folder, source, "mp4", flips=200, each=20)
    made |= dict.fromkeys(broken, EITHER)
    return made
