"""`pack`: videos -> shards in WebDataset's format, and an index of them.

    DIR/000000.tar   samples KEY.mp4 (the video's own ending) and KEY.json (path, label …)
    DIR/index.csv    a manifest of the videos in the shards; written last, so it marks a whole set
    DIR/pack.json    what was packed and how; the same command goes on with it

- Videos keep the order of their list and their bytes. Which shard a video goes to depends on the
  sizes of the files alone, so shards are written by several processes, each whole or not at all.
- A video whose ending is none of a video gets .mp4: members are known by their endings.
- A KEY is the video's number and what its path says, without dots, as WebDataset cuts names there.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from m3video.errors import ManifestError, VideoError
from m3video.jobs import PROCESSES, run_jobs
from m3video.video.columns import Videos
from m3video.video.index import check_arguments, keep
from m3video.video.manifest import (
    EXTENSIONS,
    Manifest,
    Unreadable,
    Video,
    load_manifest,
)
from m3video.video.shards import INDEX, list_shard, member_of, read_video
from m3video.video.walk import absolute
from m3video.whole import write_json, written_whole

_JOB = "pack.json"
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_SHOWN = 60  # characters of a path in a key, so that names fit the plainest of tar headers


@dataclass(frozen=True)
class _Packed:
    """One video of a shard: its number in the list, and the video as it was."""

    number: int
    video: Video
    name: str
    """Its path in the source, for the JSON."""


@dataclass(frozen=True)
class _Shard:
    """One job: a tar and what goes into it."""

    out: Path
    videos: tuple[_Packed, ...]


_Done = tuple[list[Video], list[Unreadable]]


def pack(
    videos: str | Path,
    out: str | Path,
    *,
    shard_size: str = "1GB",
    shard_videos: int | None = None,
    labels_from_folders: bool = False,
    workers: int = 2,
    engine: str = PROCESSES,
) -> Manifest:
    """Pack videos into tar shards with an index.

    What is interrupted goes on when called again; shards that are there are not written again.

    Args:
        videos: what `load_manifest` understands.
        out: folder of the shards; new, or of the same packing.
        shard_size: bytes of a shard's videos at most, as "500MB"; one that is larger has a shard of
            its own.
        shard_videos: videos of a shard at most; None for any number.
        labels_from_folders: as for `load_manifest`.
        workers: processes; 0 works in this one.
        engine: see `jobs.check_engine`.

    Returns:
        The videos in the shards, and those that could not be read.

    Raises:
        ManifestError: bad arguments, no readable video, or `out` holds something else.
    """
    out = Path(out)
    limit = parse_size(shard_size)
    if shard_videos is not None and shard_videos < 1:
        raise ManifestError(f"shard videos {shard_videos}: use 1 or more")
    check_arguments(out / INDEX, workers, engine)
    _check_ours(out)
    manifest = load_manifest(
        videos,
        workers=workers,
        labels_from_folders=labels_from_folders,
        decode=False,
        progress=True,
        engine=engine,
    )
    root = Path(videos) if Path(videos).is_dir() else Path(videos).parent
    shards = list(_plan(manifest.videos, root, out, limit, shard_videos))
    _begin(out, shards, {"shard_size": limit, "shard_videos": shard_videos})
    _clear(out)
    done = run_jobs(
        _write_shard,
        shards,
        crashed=_crashed,
        workers=workers,
        title="packing shards",
        engine=engine,
    )
    packed = Manifest(
        Videos(video for found, _ in done for video in found),
        (*manifest.unreadable, *(entry for _, missed in done for entry in missed)),
    )
    if not packed.videos:
        bad = packed.unreadable[0]
        told = f"the first: {bad.path}: {bad.reason}"
        raise ManifestError(f"{videos}: none of its videos could be packed; {told}")
    keep(packed, out / INDEX)
    return packed


def parse_size(text: str) -> int:
    """Bytes, from "500MB", "1GB" or a whole number.

    Raises:
        ManifestError: it is no size above 0.
    """
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,3})?) ?([KMG]?B|)", text.strip(), re.IGNORECASE)
    size = int(float(match[1]) * _UNITS[match[2].upper()]) if match else 0
    if size < 1:
        raise ManifestError(f"shard size {text!r}: use bytes, or a number with KB, MB or GB")
    return size


def _plan(
    videos: Sequence[Video], root: Path, out: Path, limit: int, most: int | None
) -> Iterator[_Shard]:
    """Deal the videos out, in order."""
    held: list[_Packed] = []
    size = number = 0
    for place, video in enumerate(videos):
        more = _size(video.path)
        if held and (size + more > limit or len(held) == most):
            yield _Shard(out / f"{number:06}.tar", tuple(held))
            held, size, number = [], 0, number + 1
        held.append(_Packed(place, video, _name(video.path, root)))
        size += more
    if held:
        yield _Shard(out / f"{number:06}.tar", tuple(held))


def _size(path: Path) -> int:
    member = member_of(path)
    try:
        return path.stat().st_size if member is None else member.size
    except OSError:  # found to be unreadable when its shard is written
        return 0


def _name(path: Path, root: Path) -> str:
    """Its path in the source: relative where it lies below it."""
    member = member_of(path)
    if member is not None:
        return member.name
    whole = PurePosixPath(absolute(path))
    above = PurePosixPath(absolute(root))
    return str(whole.relative_to(above) if whole.is_relative_to(above) else whole)


def _begin(out: Path, shards: Sequence[_Shard], settings: dict[str, Any]) -> None:
    """Note what is packed, or see that it is what was begun here.

    Raises:
        ManifestError: it is not, or something else is in the folder.
    """
    digest = hashlib.sha256()
    for shard in shards:
        for packed in shard.videos:
            video = replace(packed.video, path=Path(packed.name))
            row = (shard.out.name, packed.number, _size(packed.video.path), repr(video))
            digest.update(repr(row).encode("utf-8", "backslashreplace"))
    job = {**settings, "videos": sum(len(s.videos) for s in shards), "sha256": digest.hexdigest()}
    place = out / _JOB
    if place.is_file():
        try:
            known = json.loads(place.read_text())
        except ValueError:
            known = None
        if known != job:
            raise ManifestError(
                f"{out}: holds shards of other videos, or of another --shard-size or "
                "--shard-videos; use another --out, or remove it"
            )
        return
    write_json(place, job)


def _clear(out: Path) -> None:
    """Remove what killed processes left of shards."""
    for aside in out.glob(".*.tar*.partial"):
        aside.unlink()


def _check_ours(out: Path) -> None:
    """Refuse a folder that holds something else.

    Raises:
        ManifestError: it does.
    """
    names = [path.name for path in out.iterdir()] if out.is_dir() else []
    if names and _JOB not in names and names != [f".{_JOB}.partial"]:
        raise ManifestError(f"{out}: not empty ({names[0]}); choose another --out")


def _key(packed: _Packed) -> str:
    shown = re.sub(r"[^A-Za-z0-9_-]+", "_", str(PurePosixPath(packed.name).with_suffix("")))
    return f"{packed.number:09}-{shown[-_SHOWN:]}"


def _write_shard(shard: _Shard) -> _Done:
    """Write a shard unless it is there; the videos in it, and those that are not."""
    reasons: dict[int, str] = {}
    if not shard.out.exists():
        with (
            written_whole(shard.out, shared=True) as aside,
            # GNU's headers have room for a size of 8 GiB and more, those of POSIX do not.
            tarfile.open(aside, "w", format=tarfile.GNU_FORMAT) as tar,
        ):
            for packed in shard.videos:
                try:
                    _add(tar, packed)
                except VideoError as error:
                    path = packed.video.path
                    reasons[packed.number] = str(error).removeprefix(f"{path}: ")
    listed, damage = list_shard(shard.out, EXTENSIONS)
    places = {int(Path(_member_name(found.path)).name[:9]): found.path for found in listed}
    videos, missed = [], []
    for packed in shard.videos:
        video = packed.video
        if packed.number in places:
            videos.append(replace(video, path=places[packed.number]))
        else:
            told = reasons.get(packed.number, damage or "could not be read when it was packed")
            missed.append(Unreadable(video.path, told))
    return videos, missed


def _member_name(path: Path) -> str:
    member = member_of(path)
    assert member is not None
    return member.name


def _add(tar: tarfile.TarFile, packed: _Packed) -> None:
    """Add one sample.

    Raises:
        VideoError: the video cannot be read.
    """
    video = packed.video
    data = read_video(video.path)
    if data is None:
        try:
            data = video.path.read_bytes()
        except OSError as error:
            raise VideoError(f"{video.path}: {error.strerror}") from error
    facts = {"path": packed.name, **video.extra}
    if video.label is not None:
        facts["label"] = video.label
    text = json.dumps(facts, ensure_ascii=True).encode()
    ending = PurePosixPath(_name(video.path, Path())).suffix.lower()
    if ending not in EXTENSIONS:
        ending = ".mp4"
    for suffix, content in ((ending, data), (".json", text)):
        member = tarfile.TarInfo(f"{_key(packed)}{suffix}")  # no date, no owner: the same bytes
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))


def _crashed(shard: _Shard) -> _Done:
    reason = "writing its shard ended the process"
    return [], [Unreadable(packed.video.path, reason) for packed in shard.videos]
