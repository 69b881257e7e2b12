"""`index`: videos -> a manifest, and a list of what cannot be read."""

from __future__ import annotations

import os
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from m3video.errors import ManifestError
from m3video.jobs import PROCESSES, check_engine
from m3video.video.columns import Videos
from m3video.video.manifest import (
    Manifest,
    Unreadable,
    Video,
    check_some_readable,
    scan_source,
    write_manifest,
)
from m3video.video.reencode import check_copies
from m3video.video.reencode import reencode as make_copies
from m3video.video.walk import shown
from m3video.whole import write_csv


def index(
    videos: str | Path,
    out: str | Path,
    *,
    labels_from_folders: bool = False,
    workers: int = 2,
    decode: bool = True,
    reencode: int | None = None,
    engine: str = PROCESSES,
) -> Manifest:
    """Scan and verify videos, write a manifest, and report every file that cannot be read.

    The unreadable ones are also written beside `out`, as `<stem>.unreadable.csv` with the columns
    path and reason, even if no video can be read; then there is no manifest. With `reencode` the
    manifest is one of small copies with that short side, in the folder `<stem>` beside `out`; see
    `reencode.py`. Other arguments and errors as for `load_manifest`.
    """
    source, out = Path(videos), Path(out)
    check_arguments(out, workers, engine)
    if reencode is not None:
        check_copies(source, out, reencode)
    manifest = scan_source(
        source,
        workers=workers,
        labels_from_folders=labels_from_folders,
        decode=decode and reencode is None,  # making a copy decodes every frame
        progress=True,
        engine=engine,
        by_index=False,
    )
    if reencode is not None:
        root = source if source.is_dir() else source.parent
        made = make_copies(
            manifest.videos, root, out, short_side=reencode, workers=workers, engine=engine
        )
        failed = (entry for entry in made if isinstance(entry, Unreadable))
        manifest = Manifest(
            Videos(entry for entry in made if isinstance(entry, Video)),
            (*manifest.unreadable, *failed),
        )
    keep(manifest, out)
    check_some_readable(manifest, videos)
    return manifest


def keep(manifest: Manifest, out: Path) -> None:
    """Write a manifest and the list of what cannot be read beside it, and tell of both."""
    if manifest.videos:
        write_manifest(manifest, out)
    beside = out.with_name(f"{out.stem}.unreadable.csv")
    beside.unlink(missing_ok=True)  # of an earlier scan
    if manifest.unreadable:
        bad = [[entry.path, entry.reason] for entry in manifest.unreadable]
        write_csv(beside, [["path", "reason"], *bad])
    _print_summary(manifest, out)


def check_arguments(out: Path, workers: int, engine: str = PROCESSES) -> None:
    """Refuse what cannot be done, such as a place to write to, before hours of scanning."""
    if out.is_dir():
        raise ManifestError(f"{out}: is a folder; give the name of a CSV file to write")
    check_place(out)
    if workers < 0:
        raise ManifestError(f"workers {workers}: use 0 (no processes) or more")
    check_engine(engine)


def check_place(out: Path) -> None:
    """Refuse a place that cannot be written to."""
    above = next(folder for folder in out.absolute().parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise ManifestError(f"{out}: cannot be written, as {above} is not a folder that can be")


def _print_summary(manifest: Manifest, out: Path) -> None:
    console = Console(stderr=True, highlight=False)
    frames = sum(video.frames for video in manifest.videos)
    minutes = sum(video.duration for video in manifest.videos) / 60
    place = f" → {escape(str(out))}" if manifest.videos else ""
    console.print(
        f"{len(manifest.videos)} videos, {frames:,} frames, {minutes:.1f} minutes, "
        f"{len(manifest.labels)} labels{place}",
        soft_wrap=True,
    )
    for entry in manifest.unreadable:
        line = f"[red]unreadable[/red] {escape(shown(f'{entry.path}: {entry.reason}'))}"
        console.print(line, soft_wrap=True)
