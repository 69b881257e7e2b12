"""What an embedding that runs has done so far: a folder beside the file it will become.

`FEATURES.parts/` holds `job.json` (what is embedded and how, and the videos as they were found) and
parts, each a parquet file of the units first … last − 1 that its name tells. Each of them appears
whole or not at all, so after a kill every part that is there counts, and nothing else.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from m3video.errors import ConfigError
from m3video.model.checkpoint import read_json
from m3video.video.columns import Videos
from m3video.video.manifest import Manifest, Unreadable, Video
from m3video.whole import write_json, written_whole

_JOB = "job.json"
_PART = re.compile(r"part-(\d+)-(\d+)\.parquet")
_ASIDE = re.compile(r"\..+\.partial")
_UNREADABLE = b"unreadable"

_NAMES = {
    "weights_sha256": "another model (SHA-256 of the weights",
    "clip": "another kind of clip (",
    "videos": "other videos (",
    "m3video": "another version of m3video (",
}


def same_job(job: Mapping[str, Any], other: Mapping[str, Any], where: Path, advice: str) -> None:
    """Refuse to go on with what was begun otherwise; where the model lies does not matter.

    Raises:
        ConfigError: the first difference, what `job` says and what `other`, the one at `where`.
    """
    for key, value in job.items():
        if key != "model" and other.get(key) != value:
            named = _NAMES.get(key, f"another {key} (")
            raise ConfigError(
                f"{where}: made with {named} {other.get(key)}, now {value}); {advice}".replace(
                    "( ", "("
                )
            )


class Parts:
    """The folder of an embedding.

    Args:
        folder: where; need not exist.
        job: all that the features depend on, as JSON.
    """

    def __init__(self, folder: Path, job: Mapping[str, Any]) -> None:
        self.folder = folder
        self._job = dict(job)

    def begin(self, scan: Callable[[], Manifest]) -> Manifest:
        """The videos: those of an interrupted run of the same job, else what `scan` finds.

        Raises:
            ConfigError: the folder holds another job, or something else.
        """
        path = self.folder / _JOB
        if path.exists():
            kept = read_json(path)
            same_job(self._job, kept["job"], self.folder, "use another --out, or remove the folder")
            return Manifest(
                Videos(Video(**{**v, "path": Path(v["path"])}) for v in kept["videos"]),
                tuple(Unreadable(Path(name), reason) for name, reason in kept["unreadable"]),
            )
        self._check_ours()
        manifest = scan()
        kept = {
            "job": self._job,
            "videos": [{**asdict(video), "path": str(video.path)} for video in manifest.videos],
            "unreadable": [[str(entry.path), entry.reason] for entry in manifest.unreadable],
        }
        write_json(path, kept)
        return manifest

    def _check_ours(self) -> None:
        """Refuse a folder that embed did not make: it is removed at the end."""
        children = self.folder.iterdir() if self.folder.is_dir() else ()
        strange = [child.name for child in children if not _ASIDE.fullmatch(child.name)]
        if strange:
            raise ConfigError(
                f"{self.folder}: is needed for what is not finished, and holds {strange[0]}; "
                "move it away, or use another --out"
            )

    def paths(self) -> list[Path]:
        """The parts that follow each other from unit 0 on."""
        return [path for path, _ in self._chain()]

    def done(self) -> int:
        """Units that need not be computed again."""
        return max((last for _, last in self._chain()), default=0)

    def rows(self) -> int:
        """Rows of all parts."""
        return sum(int(pq.read_metadata(path).num_rows) for path in self.paths())

    def _chain(self) -> list[tuple[Path, int]]:
        found = {}
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            match = _PART.fullmatch(path.name)
            if match:
                found[int(match[1])] = (path, int(match[2]))
        chain, done = [], 0
        while done in found:
            chain.append(found[done])
            done = found[done][1]
        return chain

    def write(
        self, first: int, last: int, table: pa.Table, unreadable: Sequence[tuple[str, str]]
    ) -> None:
        """Keep the rows of the units first … last − 1, and which videos could not be read."""
        table = table.replace_schema_metadata({_UNREADABLE: json.dumps(unreadable)})
        with written_whole(self._path(first, last), shared=True) as aside:
            pq.write_table(table, aside, compression="none")

    def unreadable(self) -> list[tuple[str, str]]:
        """(path, reason) of the videos that could not be read, each once."""
        entries: dict[str, str] = {}
        for path in self.paths():
            noted = json.loads(pq.read_schema(path).metadata[_UNREADABLE])
            for name, reason in noted:
                entries.setdefault(name, reason)
        return list(entries.items())

    def forget_rest(self) -> None:
        """Remove the parts that lie beyond a gap, which processes elsewhere left."""
        kept = set(self.paths())
        for path in self.folder.iterdir():
            if _PART.fullmatch(path.name) and path not in kept:
                path.unlink()

    def has(self, first: int, last: int) -> bool:
        """Whether there is a part of just these units."""
        return self._path(first, last).exists()

    def _path(self, first: int, last: int) -> Path:
        return self.folder / f"part-{first:09}-{last:09}.parquet"

    def remove(self) -> None:
        """Forget all of it."""
        shutil.rmtree(self.folder, ignore_errors=True)
