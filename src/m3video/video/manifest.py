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
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from rich.console import Console

from m3video.errors import ManifestError
from m3video.jobs import PROCESSES, run_jobs
from m3video.video.scan import Unreadable, Video, scan_videos
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
from m3video.video.walk import absolute, is_remote, located, path_in_csv, shown, walk
from m3video.whole import write_csv

__all__ = [
    "EXTENSIONS",
    "Manifest",
    "Unreadable",
    "Video",
    "load_manifest",
    "write_manifest",
]

EXTENSIONS = frozenset(
    f".{ending}"
    for ending in (
        *("3gp", "avi", "flv", "gif", "m2ts", "m4v", "mkv", "mov", "mp4", "mpeg", "mpg", "mts"),
        *("ogv", "ts", "vob", "webm", "wmv"),
    )
)
"""Endings of video files, in lower case."""

_FACTS = ("frames", "fps", "width", "height", "duration")
_ENDING = "|".join(re.escape(ending) for ending in sorted(EXTENSIONS))
_LINES = (
    re.compile(rf"(?P<path>.+(?:{_ENDING}))[ ,\t]+(?P<label>.+)", re.IGNORECASE),
    re.compile(r"(?P<path>.+?)[ ,\t]+(?P<label>[^ ,\t]+)"),
)


@dataclass(frozen=True)
class Manifest:
    """The videos of a source in its order, and those that could not be read."""

    videos: tuple[Video, ...]
    unreadable: tuple[Unreadable, ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels, sorted: by value if all are whole numbers, else by name."""
        names = {video.label for video in self.videos if video.label is not None}
        numbers = all(name.isdecimal() for name in names)
        return tuple(sorted(names, key=lambda name: (int(name) if numbers else 0, name)))


@dataclass(frozen=True)
class _Entry:
    """A video as a source names it; `video` is None where it has to be scanned."""

    path: Path
    label: str | None = None
    extra: dict[str, str] = field(default_factory=dict)
    video: Video | Unreadable | None = None


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
    index = source / INDEX
    if by_index and source.is_dir() and shards_in(source) and is_index(index):
        entries, shards = list(_read_source(index)), []
        _tell_unlisted(source, entries)
    else:
        entries = list(_read_source(source))
        shards = [] if entries else shards_in(source)
    if shards:
        list_each = partial(list_shard, endings=EXTENSIONS)
        listed = run_jobs(
            list_each,
            shards,
            crashed=_crashed,
            workers=workers,
            title="reading shards",
            engine=engine,
            progress=progress,
        )
        entries = list(_shard_entries(shards, listed))
    check_remote(entry.path for entry in entries)
    # In a list with labels a video without one has none: its folder may be `videos` or `test`.
    labels_from_folders = labels_from_folders and all(entry.label is None for entry in entries)
    if not entries:
        endings = " ".join(sorted(EXTENSIONS))
        raise ManifestError(
            f"{source}: no videos found (files that end in {endings}, or .tar that hold such)"
            if source.is_dir() or shards
            else f"{source}: the list is empty; give one video a line"
        )
    missing = [entry.path for entry in entries if entry.video is None]
    scanned = iter(
        scan_videos(missing, workers=workers, decode=decode, progress=progress, engine=engine)
    )
    videos: list[Video] = []
    unreadable: list[Unreadable] = []
    for entry in entries:
        found = entry.video or next(scanned)
        if isinstance(found, Unreadable):
            unreadable.append(found)
            continue
        label = entry.label
        if label is None and labels_from_folders:
            label = _folder_name(entry.path, root)
        videos.append(replace(found, label=label, extra=entry.extra))
    return Manifest(tuple(videos), tuple(unreadable))


def _folder_name(path: Path, root: Path) -> str | None:
    """Name of the folder that a video lies in, unless that is the root of its source or shard."""
    member = member_of(path)
    if member is not None:
        return Path(member.name).parent.name or None
    return path.parent.name if path.parent != root else None


def _tell_unlisted(folder: Path, entries: Sequence[_Entry]) -> None:
    """Name the tars beside an index that it does not know: they are not read."""
    known = {absolute(m.shard) for m in map(member_of, (e.path for e in entries)) if m}
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
) -> Iterator[_Entry]:
    for shard, (videos, reason) in zip(shards, listed, strict=True):
        for video in videos:
            yield _Entry(video.path, video.label, video.extra)
        if reason is not None:
            yield _Entry(shard, video=Unreadable(shard, reason))


def _crashed(shard: Path) -> tuple[list[Listed], str | None]:
    return [], "reading it ended the process"


def _read_source(source: Path) -> Iterator[_Entry]:
    """What it lists; nothing for shards."""
    if source.is_dir():
        return iter(_walk(source))
    if source.suffix == ".tar" and source.exists():
        return iter(())
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
            return _read_csv(source, lines, delimiter)
        if _is_header(source, header):
            raise ManifestError(
                f"{source}, line 1: the columns are {', '.join(header)}, and none is `path`: give "
                "that name to the one that holds the videos"
            )
    return _read_list(source, lines)


def _is_header(source: Path, fields: Sequence[str]) -> bool:
    """Whether a CSV's line names columns: several words, none of which is a file."""
    words = [field.strip() for field in fields]
    return (
        source.suffix.lower() in {".csv", ".tsv"}
        and len(words) > 1
        and all(word.isidentifier() for word in words)
        and not any((source.parent / word).exists() for word in words)
    )


def _walk(folder: Path) -> list[_Entry]:
    """Video files below a folder, sorted.

    A folder that cannot be opened is an unreadable entry: what it holds is not just missing.
    """
    found: list[_Entry] = []

    def refused(error: OSError) -> None:
        path = Path(error.filename)
        found.append(_Entry(path, video=Unreadable(path, closed_folder(error))))

    for parent, names in walk(folder, refused):
        for path in (Path(parent, name) for name in names):
            if path.suffix.lower() in EXTENSIONS:
                mistaken = Unreadable(path, MISTAKEN) if member_of(path) else None
                found.append(_Entry(path, video=mistaken))
    return sorted(found, key=lambda entry: entry.path)


def closed_folder(error: OSError) -> str:
    """Why the videos of a folder cannot be read."""
    return f"folder cannot be opened: {error.strerror}"


def _read_csv(source: Path, lines: Iterable[str], delimiter: str) -> Iterator[_Entry]:
    reader = csv.DictReader(lines, delimiter=delimiter, skipinitialspace=True, strict=True)
    try:
        reader.fieldnames = [name.strip() for name in reader.fieldnames or []]
        for row in reader:
            yield _row_entry(row, f"{source}, line {reader.line_num}", source.parent)
    except csv.Error as error:
        raise ManifestError(
            f"{source}, line {reader.line_num}: not a line of a CSV: {error}"
        ) from error


def _row_entry(row: dict[str | None, object], where: str, folder: Path) -> _Entry:
    if None in row or None in row.values():
        raise ManifestError(f"{where}: does not have as many fields as the header")
    cells = {str(name): str(value).strip() for name, value in row.items()}
    if not cells["path"]:
        raise ManifestError(f"{where}: the path is empty")
    path = located(folder, cells.pop("path"))
    label = cells.pop("label", "") or None
    given = {name: cells.pop(name, "") for name in _FACTS}
    if not all(given.values()):
        return _Entry(path, label, cells)
    numbers = {name: _positive(name, value, where) for name, value in given.items()}
    video = Video(
        path,
        frames=int(numbers["frames"]),
        fps=numbers["fps"],
        width=int(numbers["width"]),
        height=int(numbers["height"]),
        duration=numbers["duration"],
    )
    return _Entry(path, label, cells, video)


def _positive(name: str, value: str, where: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    whole = name in {"frames", "width", "height"}
    if not 0 < number < float("inf") or (whole and number != int(number)):
        kind = "a whole number" if whole else "a number"
        raise ManifestError(
            f"{where}: {name} {value!r} is not {kind} above 0; correct it, or leave it empty to "
            "have the video scanned"
        )
    return number


def _read_list(source: Path, lines: Iterable[str]) -> Iterator[_Entry]:
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text:
            continue
        if Path(text).suffix.lower() in EXTENSIONS:
            yield _Entry(located(source.parent, text))
            continue
        match = next(filter(None, (line.fullmatch(text) for line in _LINES)), None)
        if match is None:
            raise ManifestError(
                f"{source}, line {number}: {text[:200]!r} is not a path and a label, separated by "
                "a space, comma or tab; or begin the file with a CSV header with a column `path`"
            )
        yield _Entry(located(source.parent, match["path"]), match["label"])


def write_manifest(manifest: Manifest, path: Path) -> None:
    """Write the readable videos as a CSV that `load_manifest` reads without scanning.

    Of videos that were not opened the facts are left empty, and `load_manifest` scans them.

    Paths of videos below the CSV's folder are written relative to it, others absolute.
    """
    extras = sorted({name for video in manifest.videos for name in video.extra})
    rows: list[list[object]] = [["path", *_FACTS, "label", *extras]]
    folder = path.parent.resolve()
    for video in manifest.videos:
        rows.append(
            [
                path_in_csv(video.path, folder),
                *(getattr(video, name) or "" for name in _FACTS),  # 0: not opened yet
                video.label or "",
                *(video.extra.get(name, "") for name in extras),
            ]
        )
    write_csv(path, rows)
