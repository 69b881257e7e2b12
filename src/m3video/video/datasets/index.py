"""From a folder of videos and the official lists of a data set to a manifest.

Beside a manifest `NAME.csv` stands `NAME.missing.csv` with the columns status, split, id, label,
path and reason; status is

- `missing`: listed, but there is no such file;
- `unreadable`: the file cannot be read as a video;
- `short`: the file of a film ends before some of its key frames;
- `surplus`: a file that no list names.

Copies of these data sets are never whole, so none of this is an error; that no video is left is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.markup import escape

from m3video.errors import ManifestError
from m3video.jobs import PROCESSES
from m3video.video.columns import Videos
from m3video.video.datasets import (
    ava,
    diving48,
    hmdb51,
    jester,
    kinetics,
    something,
    ucf101,
    videomae,
)
from m3video.video.datasets.annotation import Annotations, each_once, list_files
from m3video.video.datasets.boxes import KeyFrame, write_boxes
from m3video.video.datasets.files import Matched, find_files, match_files
from m3video.video.datasets.problems import (
    Problem,
    print_problems,
    split_counts,
    video_problem,
    write_problems,
)
from m3video.video.index import check_arguments
from m3video.video.manifest import Manifest, check_some_readable, write_manifest
from m3video.video.reencode import check_copies
from m3video.video.reencode import reencode as make_copies
from m3video.video.scan import Unreadable, Video, scan_videos, unopened

DatasetName = Literal[
    "kinetics", "ssv2", "ucf101", "hmdb51", "ava", "jester", "diving48", "videomae"
]
SPLITS = (1, 2, 3)
"""Of UCF101 and HMDB51."""


@dataclass(frozen=True)
class Format:
    """How the lists of a data set are found and read."""

    files: re.Pattern[str]
    """Names of the lists."""
    told: str
    """The same, for people."""
    read: Callable[[dict[str, Path], int], Annotations]
    """From the lists by name and the number of the split."""
    splits: bool = False
    """Whether there are three splits."""


FORMATS: dict[DatasetName, Format] = {
    "kinetics": Format(kinetics.FILES, "train.csv, validate.csv …", kinetics.read_kinetics),
    "ssv2": Format(
        something.FILES, "labels.json, train.json, validation.json …", something.read_something
    ),
    "ucf101": Format(
        ucf101.FILES, "classInd.txt, trainlist01.txt, testlist01.txt …", ucf101.read_ucf101, True
    ),
    "hmdb51": Format(hmdb51.FILES, "CLASS_test_split1.txt …", hmdb51.read_hmdb51, True),
    "ava": Format(ava.FILES, "ava_train_v2.2.csv, ava_val_v2.2.csv …", ava.read_ava),
    "jester": Format(
        jester.FILES, "jester-v1-labels.csv, jester-v1-train.csv …", jester.read_jester
    ),
    "diving48": Format(
        diving48.FILES, "Diving48_V2_train.json, Diving48_vocab.json …", diving48.read_diving48
    ),
    "videomae": Format(videomae.FILES, "train.csv, val.csv …", videomae.read_videomae),
}


def index_dataset(
    videos: str | Path,
    out: str | Path,
    *,
    format: DatasetName,
    annotations: Sequence[str | Path] = (),
    split: int | None = None,
    films: ava.Films | None = None,
    workers: int = 2,
    decode: bool = True,
    open_files: bool = True,
    reencode: int | None = None,
    engine: str = PROCESSES,
) -> Manifest:
    """Make a manifest of a data set by its official lists, and report what is not there.

    The manifest has label (the name of the class), split (train, val or test) and id. What is
    missing, unreadable or surplus is printed and written beside it; AVA's key frames, too.

    Args:
        videos: folder that holds the videos, in any sub-folders.
        out: the manifest to write.
        format: name of the data set, or `videomae` for lists as VideoMAE reads them.
        annotations: the lists, or folders in which they lie; without any, the folder of videos.
        split: 1, 2 or 3 of UCF101 and HMDB51; without it 1.
        films: whether files of AVA are whole films or their seconds 900 to 1800.
        workers: processes that verify; 0 verifies in this one.
        decode: decode every frame to verify it; else read all packets and decode the first frame.
        open_files: without it no file is opened: its frames, size and length are left empty in the
            manifest (0 in what is returned) and found when the manifest is used. Not with AVA.
        reencode: make small copies with this short side, and a manifest of them; see `reencode.py`.
        engine: see `jobs.check_engine`.

    Raises:
        ManifestError: bad arguments or lists, or no video that can be read.
    """
    folder, out = Path(videos), Path(out)
    check_arguments(out, workers, engine)
    if reencode is not None:
        check_copies(folder, out, reencode)
    _check_options(format, split, films, open_files)
    sources = [Path(path) for path in annotations] or [folder]
    listed = _read_lists(sources, out, format, split)
    files = find_files(folder)
    matched = match_files(listed.rows, listed.left_out, files)
    if not matched.found:
        row, held = listed.rows[0], next(iter(files.by_name.values()))[0]
        raise ManifestError(
            f"{folder}: holds none of the {len(listed.rows)} listed videos; {row.where} names "
            f"{row.names[0]}, the folder holds {held}; are they the same data set?"
        )
    paths = [Path(path) for _, path in matched.found]
    scanned: Sequence[Video | Unreadable]
    if open_files:
        decode = decode and reencode is None  # making a copy decodes every frame
        scanned = scan_videos(paths, workers=workers, decode=decode, progress=True, engine=engine)
    else:
        scanned = [unopened(path) for path in paths]
    if reencode is not None:
        scanned = make_copies(
            scanned, folder, out, short_side=reencode, workers=workers, engine=engine
        )
    manifest = _manifest(matched, scanned, files.closed)
    key_frames: list[KeyFrame] = []
    late: dict[Path, int] = {}
    if isinstance(listed, ava.AvaAnnotations) and films is not None:
        key_frames, late = ava.film_key_frames(listed, manifest.videos, films)
    problems = _problems(matched, scanned, files.closed, late)
    write_problems(problems, out.with_name(f"{out.stem}.missing.csv"))
    if manifest.videos:
        if isinstance(listed, ava.AvaAnnotations):
            write_boxes(key_frames, out.with_name("boxes.csv"))
        write_manifest(manifest, out)
    _print_summary(manifest, listed, problems, key_frames, out)
    check_some_readable(manifest, folder)
    return manifest


def _check_options(
    format: DatasetName, split: int | None, films: ava.Films | None, open_files: bool
) -> None:
    """Refuse options that do not go with the data set."""
    if format not in FORMATS:
        raise ManifestError(f"format {format!r}: use one of {', '.join(FORMATS)}")
    if split is not None and not FORMATS[format].splits:
        raise ManifestError(f"split {split}: {format} has one split; leave --split out")
    if split is not None and split not in SPLITS:
        raise ManifestError(f"split {split}: {format} has the splits 1, 2 and 3")
    if films is not None and format != "ava":
        raise ManifestError(f"films {films}: --films goes with --format ava only")
    if films is None and format == "ava":
        raise ManifestError(
            "--films whole or --films cut is needed: are the files of AVA whole films, or their "
            "seconds 900 to 1800?"
        )
    if format == "ava" and not open_files:
        raise ManifestError(
            "--no-open-files does not go with --format ava: key frames after the end of a film are "
            "left out, so its length must be known"
        )


def _read_lists(
    sources: list[Path], out: Path, format: DatasetName, split: int | None
) -> Annotations:
    """Find the lists of a data set, and read them."""
    known = FORMATS[format]
    for path in sources:
        if path.is_file() and not known.files.fullmatch(path.name):
            raise ManifestError(f"{path}: is no list of {format}; they are {known.told}")
    named = list_files(sources).items()
    found = {name: path for name, path in named if known.files.fullmatch(name)}
    if not found:
        raise ManifestError(
            f"{', '.join(map(str, sources))}: holds no list of {format} ({known.told}); give the "
            "folder in which they lie with --annotations"
        )
    if out.resolve() in {path.resolve() for path in found.values()}:
        raise ManifestError(f"{out}: is one of the lists; write the manifest somewhere else")
    listed = each_once(known.read(found, split or 1))
    if not listed.rows:
        raise ManifestError(f"{next(iter(found.values()))}: names no labelled video")
    return listed


def _manifest(
    matched: Matched, scanned: Sequence[Video | Unreadable], closed: Sequence[Unreadable]
) -> Manifest:
    videos = Videos(
        replace(video, label=row.label, extra={"id": row.id, "split": row.split})
        for (row, _), video in zip(matched.found, scanned, strict=True)
        if isinstance(video, Video)
    )
    bad = (entry for entry in scanned if isinstance(entry, Unreadable))
    return Manifest(videos, (*bad, *closed))


def _problems(
    matched: Matched,
    scanned: Sequence[Video | Unreadable],
    closed: Sequence[Unreadable],
    late: dict[Path, int],
) -> list[Problem]:
    pairs = list(zip((row for row, _ in matched.found), scanned, strict=True))
    return [
        *(video_problem("missing", row) for row in matched.missing),
        *(
            video_problem("unreadable", row, video.path, video.reason)
            for row, video in pairs
            if isinstance(video, Unreadable)
        ),
        *(Problem("unreadable", path=str(bad.path), reason=bad.reason) for bad in closed),
        *(
            video_problem("short", row, video.path, f"{late[video.path]} key frames after its end")
            for row, video in pairs
            if video.path in late
        ),
        *(Problem("surplus", path=path) for path in matched.surplus),
    ]


def _print_summary(
    manifest: Manifest,
    listed: Annotations,
    problems: Sequence[Problem],
    key_frames: Sequence[KeyFrame],
    out: Path,
) -> None:
    console = Console(stderr=True, highlight=False)
    lines = []
    if manifest.videos:
        splits = [video.extra["split"] for video in manifest.videos]
        lines.append(
            f"{len(splits):,} of {len(listed.rows):,} listed videos ({split_counts(splits)}), "
            f"{len(manifest.labels)} labels → {out}"
        )
    if isinstance(listed, ava.AvaAnnotations):
        boxes = sum(len(frame.boxes) for frame in key_frames)
        empty = sum(not len(frame.boxes) for frame in key_frames)
        lines.append(
            f"{len(key_frames):,} key frames, {empty:,} of them without boxes, {boxes:,} boxes → "
            f"{out.with_name('boxes.csv')}"
        )
        lines += [f"left out: {count:,} boxes {why}" for why, count in listed.dropped.items()]
    if listed.left_out:
        lines.append(f"left out: {len(listed.left_out):,} videos {listed.why_left_out}")
    if listed.repeats:
        lines.append(f"lines that repeat another one: {listed.repeats:,}")
    for line in lines:
        console.print(escape(line), soft_wrap=True)
    print_problems(problems, console)
    if problems:
        beside = out.with_name(f"{out.stem}.missing.csv")
        console.print(f"these are listed in {escape(str(beside))}", soft_wrap=True)
