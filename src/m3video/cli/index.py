"""The verb `index`: videos, or a data set in the format of its release, to a manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import tyro

from m3video.cli.parse import parse
from m3video.errors import ConfigError

# Written out, so that `m3video --help` need not load what reads videos; a test compares them.
Format = Literal[
    "plain", "kinetics", "ssv2", "ucf101", "hmdb51", "ava", "jester", "diving48", "videomae"
]


def index(arguments: list[str]) -> int:
    """Scan and verify videos, and write a manifest."""

    def read(
        videos: tyro.conf.Positional[Path],
        out: Path,
        format: Format = "plain",
        annotations: tuple[Path, ...] = (),
        split: int | None = None,
        films: Literal["whole", "cut"] | None = None,
        labels_from_folders: bool = False,
        workers: int = 2,
        decode: bool = True,
        open_files: bool = True,
        reencode: int | None = None,
        engine: str = "processes",
    ) -> dict[str, Any]:
        """Scan and verify videos, and write a manifest: a CSV with one row a video.

        With a format, labels and splits are those of the data set's official lists; what is
        missing, unreadable or surplus is counted and listed beside the manifest.

        Args:
            videos: the folder of the videos; with the format plain also a CSV with a column
                `path`, or a list of "path label" lines.
            out: the manifest.
            format: the data set whose lists are read; videomae is for lists of a path and the
                number of a class, of any data set.
            annotations: the official lists, or folders in which they lie; by default VIDEOS.
            split: 1, 2 or 3 of ucf101 and hmdb51; by default 1.
            films: whether the files of ava are whole films or their seconds 900 to 1800.
            labels_from_folders: take each video's label from the folder it lies in (plain only).
            workers: processes that scan.
            decode: decode every frame to verify it; --no-decode reads packets and the first frame.
            open_files: --no-open-files only compares the folder with the lists of the format, in
                seconds; what uses the manifest then opens the files.
            reencode: make small copies that load faster, with a short side of so many pixels, in
                the folder of the manifest's name, and list those; what is interrupted goes on.
            engine: processes of this machine; ray for processes that Ray starts here; ray:auto or
                ray:HOST:PORT for those of a cluster that shares its files.
        """
        return dict(locals())

    settings = parse(read, arguments, verb="index")
    if settings["format"] == "plain":
        _index_plain(settings)
    else:
        _index_dataset(settings)
    return 0


def _index_plain(settings: dict[str, Any]) -> None:
    from m3video.video.index import index

    for name in ("annotations", "split", "films"):
        if settings.pop(name) not in (None, ()):
            raise ConfigError(f"--{name} goes with the lists of a data set: name its --format")
    if not settings.pop("open_files"):
        raise ConfigError("--no-open-files goes with the lists of a data set: name its --format")
    del settings["format"]
    index(**settings)


def _index_dataset(settings: dict[str, Any]) -> None:
    from m3video.video.datasets import index_dataset

    if settings.pop("labels_from_folders"):
        raise ConfigError(
            f"--labels-from-folders goes with --format plain; the labels of "
            f"{settings['format']} are those of its lists"
        )
    index_dataset(**settings)
