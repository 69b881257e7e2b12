"""`index`: videos -> a manifest, and a list of what cannot be read."""

from __future__ import annotations

import os
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from m3video.errors import ManifestError
from m3video.video.manifest import (
    Manifest,
    check_some_readable,
    scan_source,
    write_csv,
    write_manifest,
)


def index(
    videos: str | Path,
    out: str | Path,
    *,
    labels_from_folders: bool = False,
    workers: int = 2,
    decode: bool = True,
) -> Manifest:
    """Scan and verify videos, write a manifest, and report every file that cannot be read.

    The unreadable ones are also written beside `out`, as `<stem>.unreadable.csv` with the columns
    path and reason, even if no video can be read; then there is no manifest. Arguments and errors
    as for `load_manifest`.
    """
    out = Path(out)
    check_arguments(out, workers)
    manifest = scan_source(
        Path(videos),
        workers=workers,
        labels_from_folders=labels_from_folders,
        decode=decode,
        progress=True,
    )
    if manifest.videos:
        write_manifest(manifest, out)
    beside = out.with_name(f"{out.stem}.unreadable.csv")
    beside.unlink(missing_ok=True)  # of an earlier scan
    if manifest.unreadable:
        bad = [[entry.path, entry.reason] for entry in manifest.unreadable]
        write_csv(beside, [["path", "reason"], *bad])
    _print_summary(manifest, out)
    check_some_readable(manifest, videos)
    return manifest


def check_arguments(out: Path, workers: int) -> None:
    """Refuse what cannot be done, such as a place to write to, before hours of scanning."""
    if out.is_dir():
        raise ManifestError(f"{out}: is a folder; give the name of a CSV file to write")
    above = next(folder for folder in out.absolute().parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise ManifestError(f"{out}: cannot be written, as {above} is not a folder that can be")
    if workers < 0:
        raise ManifestError(f"workers {workers}: use 0 (no processes) or more")


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
        line = f"[red]unreadable[/red] {escape(f'{entry.path}: {entry.reason}')}"
        console.print(line, soft_wrap=True)
