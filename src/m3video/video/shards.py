"""Videos in shards: tar files in WebDataset's format, on a disk or at a URL.

- A video in a shard has a path like any other, `SHARD.tar::OFFSET+SIZE::NAME`: it lies in SIZE
  bytes from OFFSET on, and NAME is for people. A manifest of such paths is an index of the shards,
  and everything that reads a manifest reads shards: one video is one read, and nothing else of the
  shard is touched.
- A shard may lie at http, https or s3; each video is then one request for its bytes. `Path` makes
  `http:/` of `http://`, and `url` undoes it.
- A server that does not answer says nothing about its videos: requests are made again for minutes
  (`patience.outage`), and then the verb ends, to be called again. Only what a server answers is a
  video's fault.
- The tar header before the bytes is read with them and must tell their size: an index of other
  shards is found out. Nothing is ever written under a name that a tar gives.
"""

from __future__ import annotations

import errno
import io
import json
import re
import stat
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

from m3video.errors import ConfigError, ManifestError, UnreachableError, VideoError
from m3video.patience import outage_seconds
from m3video.video.walk import is_remote, rooted, url

T = TypeVar("T")

INDEX = "index.csv"
"""The manifest of a folder of shards."""
_VIDEO = re.compile(
    r"(?P<shard>.+?\.tar)::(?P<offset>\d{1,15})\+(?P<size>\d{1,15})::(?P<name>.+)", re.DOTALL
)
_PLACE = re.compile(rb"\.tar::\d+\+\d+::")
MISTAKEN = "its name reads as a place in a shard; rename it"
"""Why a file of a folder is not opened: what its name points at would be, in its stead."""
_KEY = re.compile(r"((?:.*/)?[^./][^.]*)\.(.*)", re.DOTALL)  # what members of a sample share
_LARGEST = 10**15  # bytes of a member; its digits are those that `_VIDEO` reads
_EXTENDED_BYTES = 2**14  # before a member's header that are searched for its size
_FACTS_BYTES = 2**20  # of a member .cls or .json that is read
_PATIENCE = 30.0  # seconds without a byte from a server
_WAITS = (1.0, 30.0)  # seconds before a request is made again: the first time, and at most
_OUTAGE_AT_FIRST = 5.0  # seconds that a server may be away whose name may be a slip of the pen
_PASSING = frozenset({408, 425, 429})  # HTTP's answers that pass; so do those from 500 on


@dataclass(frozen=True)
class Member:
    """Where a video lies in a shard."""

    shard: Path
    offset: int
    """Bytes before its first one."""
    size: int
    """Bytes."""
    name: str
    """In the tar, without what leads out of it."""

    @property
    def path(self) -> Path:
        """What a manifest calls it."""
        return Path(f"{self.shard}::{self.offset}+{self.size}::{self.name}")


def member_of(path: Path) -> Member | None:
    """The place in a shard that a path names; None for a file."""
    match = _VIDEO.fullmatch(str(path))
    if match is None:
        return None
    return Member(Path(match["shard"]), int(match["offset"]), int(match["size"]), match["name"])


def clean_name(name: str) -> str:
    """The name of a tar's member, without what leads out of a folder, and without NUL."""
    parts = name.replace("\0", "").split("/")
    return "/".join(part for part in parts if part not in ("", ".", ".."))


def read_video(path: Path) -> bytes | None:
    """The bytes of a video in a shard; None for a file.

    Raises:
        VideoError: they cannot be read, or are not those of one video.
        UnreachableError: their server does not answer.
    """
    member = member_of(path)
    if member is None:
        if is_remote(path):
            raise VideoError(f"{path}: at a URL only videos in shards are read; pack them first")
        return None
    start, end = member.offset - tarfile.BLOCKSIZE, member.offset + member.size
    if start < 0:
        raise VideoError(f"{path}: its offset is none of a tar")
    try:
        data = fetch(member.shard, start, end)
        known = len(data) == end - start and _says_size(member, data[: tarfile.BLOCKSIZE])
    except (OSError, MemoryError) as error:
        why = getattr(error, "strerror", None) or str(error) or "needs more memory than there is"
        raise VideoError(f"{path}: {why}") from error
    if not known:
        raise VideoError(f"{path}: the shard is not the one that was indexed; index it again")
    return data[tarfile.BLOCKSIZE :]


def _says_size(member: Member, header: bytes) -> bool:
    """Whether the headers before a video tell its size.

    A size that the last header has no room for stands in an extended one before that.

    Raises:
        OSError: they cannot be read.
    """
    try:
        if tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape").size == member.size:
            return True
    except tarfile.HeaderError:
        return False
    end = member.offset - tarfile.BLOCKSIZE
    before = fetch(member.shard, max(end - _EXTENDED_BYTES, 0), end) if end else b""
    for start in range(len(before) - 2 * tarfile.BLOCKSIZE, -1, -tarfile.BLOCKSIZE):
        if before[start + 156 : start + 157] not in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
            continue
        headers = before[start:] + header
        with (
            suppress(Exception),  # as in `list_shard`
            tarfile.open(fileobj=io.BytesIO(headers), mode="r:") as tar,
        ):
            found = tar.next()
            if found is not None and found.offset_data == len(headers):
                return found.pax_headers.get("size") == str(member.size)
    return False


def fetch(
    path: Path, start: int = 0, end: int | None = None, *, seconds: float | None = None
) -> bytes:
    """Bytes of a file or a URL, from `start` to before `end` or to where it ends.

    Args:
        path: the file or URL.
        start: the first byte.
        end: the one after the last; None: all.
        seconds: that a server may be away; None: as `patience.outage` says.

    Raises:
        OSError: it cannot be read.
        UnreachableError: its server does not answer.
        ConfigError: what reads URLs is not installed.
    """
    if not is_remote(path):
        _check_regular(path)
        with path.open("rb") as file:
            file.seek(0, 2)
            end = file.tell() if end is None else min(end, file.tell())
            file.seek(min(start, end))
            return file.read(max(end - start, 0))
    files, address = _filesystem(path), url(path)
    limit = outage_seconds() if seconds is None else seconds
    return _asked(path, limit, lambda: bytes(files.cat_file(address, start=start or None, end=end)))


def _asked(path: Path, limit: float, ask: Callable[[], T]) -> T:
    """What a server answers, which may be away for `limit` seconds; raises as `fetch`."""
    began, (wait, longest) = time.monotonic(), _WAITS
    while True:
        try:
            return ask()
        except Exception as error:  # each protocol's library has errors of its own
            if not _passes(error):
                if isinstance(error, FileNotFoundError | PermissionError | MemoryError):
                    raise
                raise OSError(f"cannot be fetched: {_told(error)}") from error
            if time.monotonic() + wait - began > limit:
                raise _unreachable(path, error, limit) from error
        time.sleep(wait)
        wait = min(2 * wait, longest)


def _passes(error: Exception) -> bool:
    """Whether a request failed for its server or the way there, and not for what was asked for."""
    error = _cause(error)
    status = getattr(error, "status", None)
    if isinstance(status, int):
        return status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _PASSING
    ours = FileNotFoundError, PermissionError, ValueError, TypeError, LookupError, AttributeError
    if isinstance(error, (*ours, MemoryError, NotImplementedError)):
        return False
    if isinstance(error, OSError) and error.errno == errno.EINVAL:  # s3fs: no such part of a file
        return False
    name = type(error).__name__  # of AWS's library
    return not any(word in name for word in ("Credentials", "Token", "Validation"))


def _cause(error: Exception) -> Exception:
    """fsspec calls every failure of HTTP a missing file where it asks for a size."""
    cause = error.__cause__
    if isinstance(error, FileNotFoundError) and isinstance(cause, Exception):
        http = isinstance(cause, OSError) or type(cause).__module__.startswith("aiohttp")
        return cause if http else error
    return error


def _told(error: Exception) -> str:
    error = _cause(error)
    return " ".join(str(error).split()) or type(error).__name__


def _unreachable(path: Path, error: Exception, seconds: float) -> UnreachableError:
    return UnreachableError(
        f"{url(path)}: cannot be fetched, for {seconds:g} s now: "
        f"{_told(error)}; no video is at fault: go on when its server answers"
    )


def _check_regular(path: Path) -> None:
    """Refuse what opening would wait for (a pipe), or that never ends (a device).

    Raises:
        OSError: it is no file.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # opening tells of a folder
        raise OSError(errno.EINVAL, "is a pipe, a device or a socket, not a file")


def _filesystem(path: Path) -> Any:
    """What reads URLs of this kind; fsspec keeps one for each process."""
    scheme = url(path).partition("://")[0]
    try:
        import fsspec

        if scheme == "s3":
            return fsspec.filesystem(scheme)
        import aiohttp

        patience = aiohttp.ClientTimeout(total=None, sock_connect=_PATIENCE, sock_read=_PATIENCE)
        return fsspec.filesystem(scheme, client_kwargs={"timeout": patience})
    except ImportError as error:
        raise ConfigError(
            f"{url(path)}: {scheme} needs more ({error}): pip install 'm3video[shards]'"
        ) from None


def read_index(source: Path) -> tuple[Path, str]:
    """The index of the shards at a URL: its path and its text.

    Args:
        source: URL of the folder of the shards, or of a manifest of them.

    Raises:
        ManifestError: there is none.
        UnreachableError: the server does not answer.
    """
    path = source if source.suffix.lower() == ".csv" else source / INDEX
    try:
        text = fetch(path, seconds=_OUTAGE_AT_FIRST)
        return path, text.decode("utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise ManifestError(
            f"{url(path)}: {error.strerror or error}; a URL must be that of a folder of shards "
            f"with the {INDEX} that m3video pack writes, or of that file"
        ) from error


def check_remote(paths: Iterable[Path]) -> None:
    """Refuse a server that would send a whole shard for each video; the first shard is asked for.

    Raises:
        ManifestError: it does, or the shard cannot be read.
        UnreachableError: it does not answer.
    """
    shard = next((place.shard for place in map(member_of, paths) if place is not None), None)
    if shard is None or not is_remote(shard):
        return
    files, address = _filesystem(shard), url(shard)

    def ask() -> None:
        with files.open(address, cache_type="none") as file:
            file.seek(tarfile.BLOCKSIZE)
            file.read(tarfile.BLOCKSIZE)

    try:
        _asked(shard, _OUTAGE_AT_FIRST, ask)
    except OSError as error:
        if isinstance(error.__cause__, ValueError):
            raise ManifestError(
                f"{address}: its server does not answer requests for a part of a file (HTTP "
                "Range): use another server, s3, or a copy on a disk"
            ) from None
        cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
        raise ManifestError(f"{address}: cannot be fetched: {_told(cause)}") from error


@dataclass
class Listed:
    """A video that a shard holds."""

    path: Path
    label: str | None = None
    extra: dict[str, str] = field(default_factory=dict)


def is_index(path: Path) -> bool:
    """Whether a file has rows that are places in shards: `index.csv` is also others' name."""
    try:
        return path.is_file() and _PLACE.search(path.read_bytes()) is not None
    except OSError:
        return False


def shards_in(source: Path) -> list[Path]:
    """The tars of a folder, by name, or the tar itself; none of anything else."""
    if source.suffix == ".tar":
        return [rooted(source)]
    names = sorted(source.glob("*.tar")) if source.is_dir() else []
    return [rooted(path) for path in names if not path.name.startswith(".")]


def list_shard(shard: Path, endings: frozenset[str]) -> tuple[list[Listed], str | None]:
    """The videos of a shard on a disk in its order, and why no more of it could be read.

    The label is that of the member `.cls`, or `label` in the member `.json` of the same sample,
    where `split` is understood, too.

    Args:
        shard: the tar; compressed ones are not understood.
        endings: of videos, in lower case.
    """
    if member_of(shard) is not None:
        return [], MISTAKEN
    videos: list[tuple[str, Listed]] = []
    facts: dict[str, dict[str, str]] = {}
    reason = None
    try:
        _check_regular(shard)
        with tarfile.open(shard, "r:", errors="surrogateescape") as tar:
            for member in _files(tar):
                match = _KEY.fullmatch(member.name)
                key, ending = match.groups() if match else (member.name, "")
                if Path(member.name).suffix.lower() in endings:
                    name = clean_name(member.name) or "video"
                    place = Member(shard, member.offset_data, member.size, name)
                    videos.append((key, Listed(place.path)))
                elif ending in ("cls", "json") and member.size <= _FACTS_BYTES:
                    file = tar.extractfile(member)
                    text = file.read() if file is not None else b""
                    facts.setdefault(key, {}).update(_facts(ending, text))
    except Exception as error:  # tarfile lets through whatever a header's numbers lead to
        told = getattr(error, "strerror", None) or str(error) or type(error).__name__
        reason = f"not a tar, or damaged: {told}"
    for key, video in videos:
        found = dict(facts.get(key, {}))
        video.label = found.pop("label", None)
        video.extra = found
    return [video for _, video in videos], reason


def _files(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Its plain files; those seen are forgotten, as a shard may hold hundreds of thousands.

    Raises:
        tarfile.ReadError: a size that leads back, where the same headers would follow for ever.
    """
    while (member := tar.next()) is not None:
        tar.members = []  # type: ignore[attr-defined]
        if not 0 <= member.size < _LARGEST or tar.offset < member.offset_data:
            raise tarfile.ReadError(f"a member has a size of {member.size} bytes")
        if member.type in (tarfile.REGTYPE, tarfile.AREGTYPE):
            yield member


def _facts(ending: str, data: bytes) -> dict[str, str]:
    """Label and split in a member `.cls` or `.json`; nothing where it is not understood."""
    try:
        text = data.decode()
        if ending == "cls":
            found: object = {"label": text}
        else:
            found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    kept = {name: found.get(name) for name in ("label", "split")}
    texts = {name: str(v).strip() for name, v in kept.items() if isinstance(v, str | int)}
    return {name: text for name, text in texts.items() if text and _fits_a_csv(text)}


def _fits_a_csv(text: str) -> bool:
    """Whether a manifest can hold it: no NUL, and half of no letter (a lone surrogate)."""
    return "\0" not in text and text.encode("utf-8", "replace").decode() == text
