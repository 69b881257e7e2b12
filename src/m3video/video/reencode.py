"""`index --reencode`: small copies of videos that are quick to read at random places.

- H.264 with a keyframe every 10 frames, so a seek decodes a few frames; the short side as asked for
  and never enlarged, even sizes, the aspect kept, turned as it is shown, no sound.
- A copy has as many frames as the video, shown at the same times from the first one on.
- Copies stand in a folder that has the manifest's name, under the names of the videos; each appears
  whole or not at all, and one that is there with all its frames is not made again.
- A copy holds a digest of where its video lies, its size and date, as MP4's comment: another video
  of its name has a copy of its own made.
"""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import cv2
import numpy as np

from m3video.errors import ManifestError, VideoError
from m3video.jobs import PROCESSES, run_jobs
from m3video.patience import unlimited
from m3video.video.opening import open_video
from m3video.video.reader import VideoReader
from m3video.video.scan import PATIENCE, Unreadable, Video, crashed_or_stalled, scan_video
from m3video.video.shards import clean_name, member_of
from m3video.video.walk import absolute, is_remote
from m3video.whole import write_json, written_whole

GOP = 10
"""Frames from one keyframe to the next."""
CRF = 20
"""Quality of H.264: 18 looks like the original, 23 is the encoder's default."""
SMALLEST = 16
"""Pixels of a short side."""
_JOB = "reencode.json"


def copies_folder(out: Path) -> Path:
    """Where the copies of a manifest stand: beside it, in a folder of its name."""
    return out.with_suffix("")


def check_copies(videos: Path, out: Path, short_side: int) -> None:
    """Refuse a size or a place before hours of scanning.

    Raises:
        ManifestError: not an even size, or a folder that is not ours to write to.
    """
    if short_side < SMALLEST or short_side % 2:
        raise ManifestError(
            f"reencode {short_side}: the short side must be an even number of pixels, "
            f"{SMALLEST} or more"
        )
    folder = copies_folder(out)
    if folder == out:
        raise ManifestError(f"{out}: the copies go to a folder of its name; let it end in .csv")
    if videos.is_dir() and Path(absolute(folder)).is_relative_to(absolute(videos)):
        raise ManifestError(
            f"{folder}: the copies would stand among the videos of {videos}; use another --out"
        )
    if folder.is_file():
        raise ManifestError(f"{folder}: the copies go there, and it is a file; use another --out")
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    if names and _settings(folder) != _job(short_side):
        raise ManifestError(
            f"{folder}: the copies go there, and it holds something else, or copies of another "
            "size; use another --out, or remove it"
        )


def _job(short_side: int) -> dict[str, int]:
    return {"short_side": short_side, "gop": GOP, "crf": CRF}


def _settings(folder: Path) -> object:
    try:
        return json.loads((folder / _JOB).read_text())
    except (OSError, ValueError):
        return None


@dataclass(frozen=True)
class _Copy:
    """One job."""

    video: Video
    out: Path


def reencode(
    scanned: Sequence[Video | Unreadable],
    root: Path,
    out: Path,
    *,
    short_side: int,
    workers: int,
    engine: str = PROCESSES,
) -> list[Video | Unreadable]:
    """Make a copy of each video that can be read, and give it in the video's place.

    Args:
        scanned: what was found, in order; label and other columns stay.
        root: folder that the names of the copies are relative to.
        out: the manifest that the copies are for.
        short_side: pixels.
        workers: processes; 0 works in this one.
        engine: see `jobs.check_engine`.

    Raises:
        ManifestError: the copies of two videos would have one name.
    """
    folder = copies_folder(out)
    write_json(folder / _JOB, _job(short_side))
    for aside in folder.rglob(".*.mp4*.partial"):
        if aside.is_file():  # what a killed process left
            aside.unlink()
    copies: dict[Path, _Copy] = {}
    for video in scanned:
        if isinstance(video, Video):
            copy = _Copy(video, folder / copy_name(video.path, root))
            known = copies.setdefault(copy.out, copy).video.path
            if absolute(known) != absolute(video.path):
                raise ManifestError(
                    f"{video.path}: its copy would have the name of that of {known}; rename one of "
                    "them"
                )
    stalled, crashed = crashed_or_stalled(engine)
    made = run_jobs(
        partial(_make, short_side=short_side),
        list(copies.values()),
        crashed=lambda copy: crashed(copy.video.path),
        stalled=lambda copy: stalled(copy.video.path),
        patience=PATIENCE,
        workers=workers,
        title="making copies",
        engine=engine,
    )
    results = dict(zip(copies, made, strict=True))
    return [_result(entry, results, folder, root) for entry in scanned]


def _result(
    entry: Video | Unreadable, made: dict[Path, Video | Unreadable], folder: Path, root: Path
) -> Video | Unreadable:
    """The copy of a video, with what its own row says."""
    if isinstance(entry, Unreadable):
        return entry
    found = made[folder / copy_name(entry.path, root)]
    if isinstance(found, Unreadable):
        return found
    return replace(found, label=entry.label, extra=entry.extra)


def copy_name(path: Path, root: Path) -> str:
    """Name of a video's copy: its path below the root, with .mp4 after what is no .mp4."""
    member = member_of(path)
    if member is not None:
        name = clean_name(f"{member.shard.stem}/{member.name}")
    else:
        whole, above = Path(absolute(path)), absolute(root)
        inside = whole.is_relative_to(above)
        name = clean_name((whole.relative_to(above) if inside else whole).as_posix())
    name = name.replace(".tar::", ".tar__")  # a copy is no place in a shard
    return name if name.endswith(".mp4") else f"{name}.mp4"


def _make(copy: _Copy, short_side: int) -> Video | Unreadable:
    """Write a copy unless it is there."""
    video = copy.video
    try:
        source = _identity(video.path)
        if _source_of(copy.out) == source:
            found = scan_video(copy.out, decode=False)
            if isinstance(found, Video) and found.frames == video.frames:
                return found
        with VideoReader(video.path) as reader:
            count = len(reader)
            _write(reader, copy.out, short_side, source)
    except VideoError as error:
        return Unreadable(video.path, str(error).removeprefix(f"{video.path}: "))
    except (OSError, av.FFmpegError) as error:
        if not _of_one_file(error):
            raise
        return Unreadable(video.path, f"no copy can be made: {error.strerror}")
    found = scan_video(copy.out, decode=False)
    if not isinstance(found, Video) or found.frames != count:
        copy.out.unlink()
        return Unreadable(video.path, f"its {count} frames did not become as many of a copy")
    return found


def _identity(path: Path) -> str:
    """A digest of which file a video is, or lies in; a URL is that of its name."""
    member = member_of(path)
    file = path if member is None else member.shard
    facts: list[str | int] = [absolute(path)]
    if not is_remote(file):
        try:
            status = file.stat()
        except OSError as error:
            raise VideoError(f"{path}: {error.strerror}") from error
        facts += [status.st_size, status.st_mtime_ns]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _source_of(out: Path) -> str | None:
    """The identity that a copy holds; None if there is no such copy."""
    if not out.is_file():
        return None
    try:
        container, _ = open_video(out, 1)
    except VideoError:
        return None
    with container:
        return container.metadata.get("comment")


def _of_one_file(error: OSError | av.FFmpegError) -> bool:
    """Whether a copy failed for what its video is or is called, and not for the disk."""
    if error.errno in (errno.EINVAL, errno.ENAMETOOLONG):
        return True
    return isinstance(error, av.FFmpegError) and error.errno not in errno.errorcode


def copy_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Height and width of a copy: even, and no larger than the frames."""
    scale = min(1.0, short_side / min(height, width))
    tall, wide = (
        max(2, min(2 * round(side * scale / 2), side // 2 * 2)) for side in (height, width)
    )
    return tall, wide


def _write(reader: VideoReader, out: Path, short_side: int, source: str) -> None:
    """Encode all frames; times that a container does not store are those of an even rate.

    Raises:
        VideoError: a frame cannot be decoded.
    """
    height, width = copy_size(reader.height, reader.width, short_side)
    rate = Fraction(reader.fps).limit_denominator(100_000)
    times = reader.scan.times or range(len(reader))
    base = reader.scan.base if reader.scan.times else 1 / rate
    with ExitStack() as after, written_whole(out, shared=True) as aside:
        with av.open(str(aside), "w", format="mp4") as container:
            container.metadata["comment"] = source
            stream = container.add_stream("libx264", rate=rate)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.time_base = stream.codec_context.time_base = base
            stream.codec_context.thread_count = 1  # the processes are the parallelism
            stream.codec_context.options = {
                "preset": "veryfast",
                "crf": str(CRF),
                "g": str(GOP),
                "bf": "0",  # each frame is stored when it is shown
                "x264-params": "log-level=none",
            }
            for number, image in reader.images(range(len(reader))):
                small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
                frame = av.VideoFrame.from_ndarray(np.asarray(small, np.uint8), "rgb24")
                frame.pts, frame.time_base = times[number] - times[0], base
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        after.enter_context(unlimited())  # until a large file is on the disk
