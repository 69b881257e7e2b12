"""The verb `pack`: videos to shards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tyro

from m3video.cli.parse import parse


def pack(arguments: list[str]) -> int:
    """Pack videos into tar shards with an index, to be trained on from a disk or a URL."""

    def read(
        videos: tyro.conf.Positional[str],
        out: Path,
        shard_size: str = "1GB",
        shard_videos: int | None = None,
        labels_from_folders: bool = False,
        workers: int = 2,
        engine: str = "processes",
    ) -> dict[str, Any]:
        """Pack videos into tar shards in WebDataset's format, and write OUT/index.csv.

        Give the folder, index.csv or the URL of either as the data of any verb. What is
        interrupted goes on with the same command.

        Args:
            videos: a folder, a manifest or a list, as for `index`.
            out: folder for 000000.tar, 000001.tar … and index.csv.
            shard_size: bytes of the videos of a shard at most, with KB, MB or GB.
            shard_videos: videos of a shard at most.
            labels_from_folders: take each video's label from the folder it lies in.
            workers: processes that read and write.
            engine: processes of this machine; ray for processes that Ray starts here; ray:auto or
                ray:HOST:PORT for those of a cluster that shares its files.
        """
        return dict(locals())

    settings = parse(read, arguments, verb="pack")
    from m3video.video.pack import pack

    pack(**settings)
    return 0
