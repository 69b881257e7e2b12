"""Tracks of a video of any length as one file that `numpy.load` reads."""

from __future__ import annotations

import json
import shutil
import tempfile
import zipfile
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
from numpy.lib import format as npy

from m3video.motion.trajectory import Tracks
from m3video.whole import written_whole


class TrackArrays:
    """Write an `.npz` file window by window, in constant memory; a context manager.

    A zip file takes one member at a time and the arrays grow side by side, so each grows in an
    unnamed file of the same folder first. While it is finished the file takes its space twice.
    Nothing is left when the block ends with an error.

    Args:
        path: the file.
        names: of the estimators. One: keys `points`, …; several: `NAME/points`, ….
        windows: n.
        grid: (h, w).
        length: L.
        small: what else the file holds: arrays, numbers; `settings` is kept as JSON text.
    """

    def __init__(
        self,
        path: Path,
        names: tuple[str, ...],
        windows: int,
        grid: tuple[int, int],
        length: int,
        small: dict[str, Any],
    ) -> None:
        self._path = path
        self._small = small
        self._windows = windows
        lead = (windows, *grid)
        self._shapes: dict[str, tuple[type[np.generic], tuple[int, ...]]] = {}
        for name in names:
            prefix = f"{name}/" if len(names) > 1 else ""
            self._shapes[f"{prefix}points"] = (np.float32, (*lead, length + 1, 2))
            self._shapes[f"{prefix}displacements"] = (np.float32, (*lead, length, 2))
            self._shapes[f"{prefix}visible"] = (np.bool_, (*lead, length + 1))
        self._prefixes = [f"{name}/" if len(names) > 1 else "" for name in names]
        self._files: dict[str, IO[bytes]] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        for key in self._shapes:
            grown = tempfile.TemporaryFile(dir=self._path.parent)
            self._files[key] = self._stack.enter_context(grown)
        return self

    def add(self, estimator: int, tracks: Tracks) -> None:
        """Append the next window of an estimator: tracks with leading [h, w]."""
        for part in ("points", "displacements", "visible"):
            key = self._prefixes[estimator] + part
            kind, (_, *shape) = self._shapes[key]
            array = getattr(tracks, part).numpy()
            if array.shape != tuple(shape) or array.dtype != kind:
                raise ValueError(f"{key}: {array.dtype} {array.shape}, not {kind} {shape}")
            self._files[key].write(np.ascontiguousarray(array).data)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._stack:
            if kind is None:
                self._finish()

    def _finish(self) -> None:
        with written_whole(self._path) as aside, zipfile.ZipFile(aside, "w") as archive:
            for key, (kind, shape) in self._shapes.items():
                grown = self._files[key]
                expected = int(np.prod(shape)) * np.dtype(kind).itemsize
                if grown.tell() != expected:
                    raise ValueError(f"{key}: {grown.tell()} bytes of {expected} were written")
                grown.seek(0)
                with _member(archive, key) as member:
                    header = {
                        "descr": npy.dtype_to_descr(np.dtype(kind)),
                        "fortran_order": False,
                        "shape": shape,
                    }
                    npy.write_array_header_1_0(member, header)
                    shutil.copyfileobj(grown, member, 1 << 20)
            for key, value in self._small.items():
                text = key == "settings"
                array = np.array(json.dumps(value, ensure_ascii=True) if text else value)
                with _member(archive, key) as member:
                    npy.write_array(member, array, allow_pickle=False)


def _member(archive: zipfile.ZipFile, key: str) -> IO[bytes]:
    # a ZipInfo without a time, so that the same numbers make the same file
    return archive.open(zipfile.ZipInfo(f"{key}.npy"), "w", force_zip64=True)
