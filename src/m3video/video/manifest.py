"""Which videos there are: scan a folder or read a list, and verify every file.

Kinds of source:

- a folder: all files below it with a known video ending, sorted by path, hidden files left out;
- a folder of shards, or one shard: the videos in its tars (see `shards.py`), by its `index.csv`
  where it has one; or the URL of such a folder or index;
- a CSV with a header that has a column `path`; frames, fps, width, height, duration and label are
  understood, other columns are kept in `Video.extra`, and what is missing is found by scanning;
- a list of "path label" lines, separated by space, comma or tab (as VideoMAE's lists). Paths may
  hold all of these. The label is what follows the last video ending, so it may hold spaces, too;
  where a path has no such ending, it is the last field. A line that ends as a video file does has
  no label.

Paths in lists are absolute or relative to the folder of the list. A row that gives all facts of a
video is believed without opening the file.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path

from rich.console import Console

from m3video.errors import ManifestError
from m3video.jobs import PROCESSES, run_jobs
from m3video.video.columns import Videos
from m3video.video.lists import EXTENSIONS, FACTS, read_csv, read_list
from m3video.video.scan import Unreadable, Video, scan_videos, unopened
from m3video.video.shards import (
    INDEX,
    MISTAKEN,
    Listed,
    check_remote,
    is_index,
    list_shard,
    member_of,
    read_index,
    shards_in,
)
from m3video.video.walk import absolute, is_remote, path_in_csv, shown, walk
from m3video.whole import write_csv

__all__ = [
    "EXTENSIONS",
    "Manifest",
    "Unreadable",
    "Video",
    "is_list",
    "load_manifest",
    "write_manifest",
]

_Place = tuple[int, Unreadable]
"""What is unreadable, after how many videos it comes."""


@dataclass(frozen=True)
class Manifest:
    """The videos of a source in its order, and those that could not be read.

    Any sequence of videos may be given; it is kept in columns. A video that these give is made for
    who asks: to write to its `extra` changes nothing here.
    """

    videos: Sequence[Video]
    unreadable: tuple[Unreadable, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.videos, Videos):
            object.__setattr__(self, "videos", Videos(self.videos))

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels, sorted: by value if all are whole numbers, else by name."""
        assert isinstance(self.videos, Videos)
        names = self.videos.labels
        numbers = all(name.isdecimal() for name in names)
        return tuple(sorted(names, key=lambda name: (int(name) if numbers else 0, name)))


def load_manifest(
    source: str | Path,
    *,
    workers: int = 0,
    labels_from_folders: bool = False,
    decode: bool = True,
    progress: bool = False,
    engine: str = PROCESSES,
) -> Manifest:
    """Find the videos of a folder, of shards, a CSV with a header, or a list of "path label" lines.

    Args:
        source: the folder, file or URL.
        workers: processes that scan; 0 scans in this one, which a file can crash or hold up.
        labels_from_folders: where the source gives no label at all, a video gets the name of the
            folder it lies in, unless that is the source's own folder.
        decode: decode every frame to verify it; else read all packets and decode the first frame.
        progress: show a bar on the error stream.
        engine: see `jobs.check_engine`.

    Raises:
        ManifestError: no such source, a line that cannot be understood, or no readable video.
    """
    manifest = scan_source(
        Path(source),
        workers=workers,
        labels_from_folders=labels_from_folders,
        decode=decode,
        progress=progress,
        engine=engine,
    )
    check_some_readable(manifest, source)
    return manifest


def check_some_readable(manifest: Manifest, source: str | Path) -> None:
    """Refuse a source none of whose videos can be read."""
    if not manifest.videos:
        bad = manifest.unreadable
        raise ManifestError(
            f"{source}: none of its {len(bad)} videos can be read; "
            f"the first: {bad[0].path}: {bad[0].reason}"
        )


def scan_source(
    source: Path,
    *,
    workers: int,
    labels_from_folders: bool,
    decode: bool,
    progress: bool,
    engine: str = PROCESSES,
    by_index: bool = True,
) -> Manifest:
    """As `load_manifest`, but all videos may be unreadable.

    Without `by_index` the tars of a folder are read themselves, as their index may be an old one.
    """
    root = source if source.is_dir() else source.parent
    if by_index and _has_index(source):
        (listed, closed), shards = _in_columns(_read_source(source / INDEX)), []
        _tell_unlisted(source, listed)
    else:
        listed, closed = _in_columns(_read_source(source))
        shards = [] if listed or closed else shards_in(source)
    if shards:
        list_each = partial(list_shard, endings=EXTENSIONS)
        held = run_jobs(
            list_each,
            shards,
            crashed=_crashed,
            workers=workers,
            title="reading shards",
            engine=engine,
            progress=progress,
        )
        listed, closed = _in_columns(_shard_entries(shards, held))
    check_remote(listed.paths)
    # In a list with labels a video without one has none: its folder may be `videos` or `test`.
    labels_from_folders = labels_from_folders and not listed.labels
    if not listed and not closed:
        endings = " ".join(sorted(EXTENSIONS))
        raise ManifestError(
            f"{source}: no videos found (files that end in {endings}, or .tar that hold such)"
            if source.is_dir() or shards
            else f"{source}: the list is empty; give one video a line"
        )
    missing = [listed[number].path for number, count in enumerate(listed.frames) if count == 0]
    if not missing and not labels_from_folders:
        return Manifest(listed, tuple(entry for _, entry in closed))
    scanned = iter(
        scan_videos(missing, workers=workers, decode=decode, progress=progress, engine=engine)
    )
    failed: list[_Place] = []

    def readable() -> Iterator[Video]:
        for number, video in enumerate(listed):
            found = video if video.frames else next(scanned)
            if isinstance(found, Unreadable):
                failed.append((number, found))
                continue
            label = video.label
            if label is None and labels_from_folders:
                label = _folder_name(video.path, root)
            yield replace(found, label=label, extra=video.extra)

    videos = Videos(readable())
    unreadable = sorted((*closed, *failed), key=lambda entry: entry[0])
    return Manifest(videos, tuple(entry for _, entry in unreadable))


def is_list(source: str | Path) -> bool:
    """Whether a source names its videos, one a line, and so their labels: a list, a manifest, or
    shards with an index; no folder of videos, and no tars without an index.
    """
    source = Path(source)
    return _has_index(source) if source.is_dir() else source.suffix != ".tar"


def _has_index(folder: Path) -> bool:
    """Whether a folder of shards is read by its index."""
    return folder.is_dir() and bool(shards_in(folder)) and is_index(folder / INDEX)


def _in_columns(entries: Iterable[Video | Unreadable]) -> tuple[Videos, list[_Place]]:
    """The videos, and what is unreadable."""
    unreadable: list[_Place] = []

    def videos() -> Iterator[Video]:
        count = 0
        for entry in entries:
            if isinstance(entry, Unreadable):
                unreadable.append((count, entry))
            else:
                yield entry
                count += 1

    return Videos(videos()), unreadable


def _folder_name(path: Path, root: Path) -> str | None:
    """Name of the folder that a video lies in, unless that is the root of its source or shard."""
    member = member_of(path)
    if member is not None:
        return Path(member.name).parent.name or None
    return path.parent.name if path.parent != root else None


def _tell_unlisted(folder: Path, videos: Videos) -> None:
    """Name the tars beside an index that it does not know: they are not read."""
    known = {absolute(m.shard) for m in map(member_of, videos.paths) if m}
    unlisted = [shown(path.name) for path in shards_in(folder) if absolute(path) not in known]
    if unlisted:
        line = (
            f"{folder / INDEX}: does not name {', '.join(unlisted[:3])}"
            f"{f' and {len(unlisted) - 3} more' if len(unlisted) > 3 else ''}; to have them read: "
            f"m3video index {folder} --out {folder / INDEX}"
        )
        Console(stderr=True).print(line, markup=False, highlight=False, soft_wrap=True)


def _shard_entries(
    shards: Sequence[Path], listed: Sequence[tuple[list[Listed], str | None]]
) -> Iterator[Video | Unreadable]:
    for shard, (videos, reason) in zip(shards, listed, strict=True):
        for video in videos:
            yield replace(unopened(video.path), label=video.label, extra=video.extra)
        if reason is not None:
            yield Unreadable(shard, reason)


def _crashed(shard: Path) -> tuple[list[Listed], str | None]:
    return [], "reading it ended the process"


def _read_source(source: Path) -> Iterator[Video | Unreadable]:
    """What it lists, to be scanned where it has 0 frames; nothing for shards."""
    if source.is_dir():
        return iter(_walk(source))
    if source.suffix == ".tar" and source.exists():
        return iter(())
    if source.suffix.lower() in EXTENSIONS and source.is_file():
        raise ManifestError(f"{source}: one video; give its folder, or a list that names it")
    try:
        if is_remote(source):
            source, text = read_index(source)
        else:
            text = source.read_bytes().decode("utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise ManifestError(
            f"{source}: {error.strerror}; give a folder of videos, a CSV or a list"
        ) from error
    if "\0" in text:
        raise ManifestError(f"{source}: not a text file; give a folder of videos, a CSV or a list")
    lines = io.StringIO(text, newline="")  # names may hold what `splitlines` takes for a line's end
    first = lines.readline()
    lines.seek(0)
    for delimiter in (",", "\t"):
        try:
            header = next(csv.reader([first], delimiter=delimiter), [])
        except csv.Error as error:
            raise ManifestError(
                f"{source}, line 1: not a line of a CSV or a list: {error}"
            ) from error
        if "path" in [name.strip() for name in header]:
            return read_csv(source, lines, delimiter)
        if _is_header(source, header):
            raise ManifestError(
                f"{source}, line 1: the columns are {', '.join(header)}, and none is `path`: give "
                "that name to the one that holds the videos"
            )
    return read_list(source, lines)


def _is_header(source: Path, fields: Sequence[str]) -> bool:
    """Whether a CSV's line names columns: several words, none of which is a file."""
    words = [field.strip() for field in fields]
    return (
        source.suffix.lower() in {".csv", ".tsv"}
        and len(words) > 1
        and all(word.isidentifier() for word in words)
        and not any((source.parent / word).exists() for word in words)
    )


def _walk(folder: Path) -> list[Video | Unreadable]:
    """Video files below a folder, sorted.

    A folder that cannot be opened is an unreadable entry: what it holds is not just missing.
    """
    found: list[Video | Unreadable] = []

    def refused(error: OSError) -> None:
        path = Path(error.filename)
        found.append(Unreadable(path, closed_folder(error)))

    for parent, names in walk(folder, refused):
        for path in (Path(parent, name) for name in names):
            if path.suffix.lower() in EXTENSIONS:
                found.append(Unreadable(path, MISTAKEN) if member_of(path) else unopened(path))
    return sorted(found, key=lambda entry: entry.path)


def closed_folder(error: OSError) -> str:
    """Why the videos of a folder cannot be read."""
    return f"folder cannot be opened: {error.strerror}"


def write_manifest(manifest: Manifest, path: Path) -> None:
    """Write the readable videos as a CSV that `load_manifest` reads without scanning.

    Of videos that were not opened the facts are left empty, and `load_manifest` scans them.

    Paths of videos below the CSV's folder are written relative to it, others absolute.
    """
    extras = sorted({name for video in manifest.videos for name in video.extra})
    folder = path.parent.resolve()

    def row(video: Video) -> list[object]:
        return [
            path_in_csv(video.path, folder),
            *(getattr(video, name) or "" for name in FACTS),  # 0: not opened yet
            video.label or "",
            *(video.extra.get(name, "") for name in extras),
        ]

    write_csv(path, chain([["path", *FACTS, "label", *extras]], map(row, manifest.videos)))
