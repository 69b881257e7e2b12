"""Readers of files of others, and valid files to begin a search from.

Each target takes the bytes of a file and lets pass what the reader documents; all else is a defect.
Readers are imported where they are called: a search instruments only what its own target needs.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np

from m3video.errors import ConfigError, ManifestError

STUDY = """name: Which mask?
data: moving-shapes
seeds: [0, 1]
base: {train: {steps: 10}}
probe: {train_clips: 12}
finetune: {labels: [20, 100]}
cells:
  untrained: {pretrain: false}
  tube: {recipe: mme-tiny}
  random: {recipe: mme-tiny, seeds: [0], group: Ratio, settings: {mask: {kind: random}}}
"""
LISTS = (
    b"path,label\na.mp4,x\n'b c.avi',\"y, z\"\n",
    b"\xef\xbb\xbfsplit\tpath\tframes\tfps\twidth\theight\tduration\ntest\ta.mp4\t3\t25\t4\t5\t0.1\n",
    b"a b.mp4 3\nc.webm, pull ups\n\nd.mkv\n",
)


def _manifest(path: Path) -> None:
    """Nothing that a list names is opened: a search would open files of this machine."""
    from m3video.video import scan
    from m3video.video.manifest import load_manifest, write_manifest
    from m3video.video.scan import Unreadable

    def unopened(path: Path, decode: bool) -> Unreadable:
        return Unreadable(path, "not opened")

    with suppress(ManifestError), mock.patch.object(scan, "scan_video", unopened):
        found = load_manifest(path, labels_from_folders=True)
        write_manifest(found, path.with_name("again.csv"))
        again = load_manifest(path.with_name("again.csv"))
        assert [v.frames for v in again.videos] == [v.frames for v in found.videos]


def _config(path: Path) -> None:
    from m3video.config import PretrainConfig, load_config

    with suppress(ConfigError):
        load_config(PretrainConfig, path)


def _study(path: Path) -> None:
    from m3video.config import load_study

    with suppress(ConfigError):
        load_study(path)


def _flo(path: Path) -> None:
    from m3video.motion.flow import read_flo

    with suppress(ConfigError):
        assert read_flo(path).shape[0] == 2


def _features(path: Path) -> None:
    from m3video.find.features import open_features

    with suppress(ConfigError):
        file = open_features(path)
        assert len(file) == sum(len(chunk) for chunk in file.chunks())


@dataclass(frozen=True)
class Target:
    """A reader: of which files, how it is called, and the bytes of valid ones."""

    ending: str
    read: Callable[[Path], None]
    seeds: Callable[[Path], list[bytes]]

    def __call__(self, folder: Path, data: bytes) -> None:
        path = folder / f"input{self.ending}"
        path.write_bytes(data)
        self.read(path)


def _lists(folder: Path) -> list[bytes]:
    return list(LISTS)


def _configs(folder: Path) -> list[bytes]:
    from m3video.config import save_config
    from m3video.recipes import recipe_config

    found = []
    for recipe in ("mme-tiny", "trackmae"):
        config = recipe_config(recipe, data="videos", out=Path("runs/a"))
        save_config(config, folder / "seed.yaml")
        found.append((folder / "seed.yaml").read_bytes())
    return found


def _flows(folder: Path) -> list[bytes]:
    flow = np.arange(3 * 5 * 2, dtype="<f4").tobytes()
    return [struct.pack("<fii", 202021.25, 5, 3) + flow]


def _feature_files(ending: str) -> Callable[[Path], list[bytes]]:
    def make(folder: Path) -> list[bytes]:
        import pyarrow.parquet as pq

        from m3video.find.store import part_table, write_features

        found = []
        for labels in (["x", None, "y"], [None] * 3):
            names, times = ["/a.mp4", "/b.mp4", "/c.mp4"], [(0.0, 1.0)] * 3
            table = part_table(names, times, labels, np.eye(3, 4, dtype=np.float32))
            pq.write_table(table, folder / "part.parquet")
            metadata = {"model": "m", "per": "video", "shape": [4], "dtype": "float32"}
            out = folder / f"seed{ending}"
            write_features(out, [folder / "part.parquet"], {**metadata, "unreadable": []})
            found.append(out.read_bytes())
        return found

    return make


TARGETS = {
    "manifest": Target(".csv", _manifest, _lists),
    "config": Target(".yaml", _config, _configs),
    "study": Target(".yaml", _study, lambda folder: [STUDY.encode()]),
    "flo": Target(".flo", _flo, _flows),
    "npz": Target(".npz", _features, _feature_files(".npz")),
    "parquet": Target(".parquet", _features, _feature_files(".parquet")),
}

FOUND: dict[str, list[bytes]] = {
    "manifest": [b"path,lab.avi',\"y, z#\n"],
    "config": [
        b"train: {lr: 2001-99-99}",
        b"data: 0b_",
        b"[" * 600,
        b"a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\n"
        b"c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\n"
        b"e: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\n"
        b"g: &g [*f,*f,*f,*f,*f,*f,*f,*f,*f]\nclip: [*g,*g,*g,*g,*g,*g,*g,*g,*g]\n",
    ],
    "flo": [struct.pack("<fii", 202021.25, -1, -1), struct.pack("<fii", 202021.25, 2**31 - 1, 4)],
}
"""What once broke a reader, or might have."""
