"""Open a video file with FFmpeg, and refuse what is none before anything large is read or made.

FFmpeg would also open pipes and devices, follow playlists to other files and addresses, and draw
the letters of a text. Only containers of video are named to it, and only regular files.
"""

from __future__ import annotations

import io
import stat
from pathlib import Path

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from m3video.errors import VideoError
from m3video.video.packets import reason

MAX_PIXELS = 2**26
"""Of a frame: 8192×8192, twice those of 8K. A header of a few bytes can claim more than memory."""
TOO_LARGE = f"more than {MAX_PIXELS:,} pixels (8192×8192)"

# Names of FFmpeg's demuxers that read video from one file. None of them opens another file.
_FORMATS = (
    *("mov", "matroska", "avi", "asf", "flv", "gif", "mpegts", "mpeg", "mpegvideo", "ogg", "mxf"),
    *("h261", "h263", "h264", "hevc", "m4v", "mjpeg", "vc1", "av1", "obu", "ivf"),
    *("dv", "gxf", "nut", "rm", "wtv", "yuv4mpegpipe"),
)
_OPTIONS = {
    "protocol_whitelist": "file",
    "format_whitelist": ",".join(_FORMATS),
    "max_pixels": str(MAX_PIXELS),
}


def open_video(
    path: Path, threads: int, data: bytes | None = None
) -> tuple[InputContainer, VideoStream]:
    """Open a file, and choose its first video stream that is no cover picture.

    Args:
        path: a local file.
        threads: of decoding.
        data: its bytes, where they are no file of their own; `path` is then for people.

    Raises:
        VideoError: no regular file, no container of video, or a stream that cannot be decoded.
    """
    if data is None:
        _check_file(path)
    try:
        # "file:" keeps FFmpeg from reading a protocol out of a name.
        place = f"file:{path}" if data is None else io.BytesIO(data)
        container = av.open(place, "r", options=_OPTIONS, metadata_errors="replace")
    except av.ArgumentError as error:  # what the list of formats gives
        raise VideoError(
            f"{path}: is a playlist, a picture, sound or text, not a video file"
        ) from error
    except (av.FFmpegError, OSError) as error:
        raise VideoError(f"{path}: {reason(error)}") from error
    try:
        stream = _stream(path, container)
    except VideoError:
        container.close()
        raise
    context = stream.codec_context
    context.options = {"max_pixels": str(MAX_PIXELS)}
    context.thread_count = threads
    stream.thread_type = "AUTO"
    return container, stream


def _check_file(path: Path) -> None:
    """Refuse what would be waited for (a pipe), or never end (a device)."""
    try:
        status = path.stat()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise VideoError(f"{path}: {reason(error)}") from error
    if stat.S_ISDIR(status.st_mode):
        raise VideoError(f"{path}: is a directory, not a video file")
    if not stat.S_ISREG(status.st_mode):
        raise VideoError(f"{path}: is a pipe, a device or a socket, not a video file")
    if status.st_size == 0:
        raise VideoError(f"{path}: is empty")


def _stream(path: Path, container: InputContainer) -> VideoStream:
    covers = Disposition.attached_pic
    streams = [s for s in container.streams.video if not s.disposition & covers]
    if not streams:
        raise VideoError(f"{path}: has no video stream")
    if streams[0].codec_context is None:
        raise VideoError(f"{path}: is coded in a way that this FFmpeg cannot decode")
    # FFmpeg forgets a size that is more than `max_pixels`.
    if not 0 < streams[0].codec_context.width * streams[0].codec_context.height <= MAX_PIXELS:
        raise VideoError(f"{path}: says that its frames have no size, or {TOO_LARGE}")
    return streams[0]
