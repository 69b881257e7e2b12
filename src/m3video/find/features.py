"""A features file that `embed` wrote, read: whose its rows are, and their features in chunks."""

from __future__ import annotations

import json
import math
import sys
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from m3video.errors import ConfigError
from m3video.find.store import METADATA, import_zarr

CHUNK = 65536
"""Rows at a time, where the file does not say better."""


@dataclass(frozen=True)
class FeatureFile:
    """The rows of a features file; the features stay on the disk.

    Attributes:
        path: the file.
        metadata: model, weights_sha256, clip, per, shape, dtype and more; see `embed`.
        paths: [R] videos.
        start: float64 [R], seconds.
        end: float64 [R], seconds.
        labels: [R], None where there is none.
    """

    path: Path
    metadata: dict[str, Any]
    paths: list[str]
    start: NDArray[np.float64]
    end: NDArray[np.float64]
    labels: list[str | None]

    def __len__(self) -> int:
        return len(self.paths)

    def chunks(self) -> Iterator[NDArray[np.floating[Any]]]:
        """All features in their order, [r, …] at a time, float32 or float16.

        Raises:
            ConfigError: while iterating, they are not what the file says.
        """
        read = {".parquet": _parquet_chunks, ".npz": _npz_chunks, ".zarr": _zarr_chunks}
        shape, rows = tuple(self.metadata["shape"]), 0
        with _naming(self.path):
            for chunk in read[self.path.suffix.lower()](self.path):
                if chunk.dtype.kind != "f" or math.prod(chunk.shape[1:]) != math.prod(shape):
                    raise ValueError(f"features {chunk.shape[1:]} of {chunk.dtype}, not {shape}")
                rows += len(chunk)
                yield chunk
            if rows != len(self):
                raise ValueError(f"{rows} features of {len(self)} rows")

    def vectors(self) -> NDArray[np.float32]:
        """All features: float32 [R, D]."""
        return np.concatenate([chunk.astype(np.float32) for chunk in self.chunks()])

    def require_vectors(self) -> None:
        """Refuse tokens.

        Raises:
            ConfigError: a row is not one vector.
        """
        if len(self.metadata["shape"]) != 1:
            raise ConfigError(
                f"{self.path}: holds tokens {self.metadata['shape']} a row, and one vector is "
                "needed: embed again without --tokens"
            )


def open_features(path: str | Path) -> FeatureFile:
    """Read all of a features file but its features.

    Raises:
        ConfigError: not there, or not what `embed` writes.
    """
    path = Path(path)
    read = {".parquet": _read_parquet, ".npz": _read_npz, ".zarr": _read_zarr}
    if path.suffix.lower() not in read:
        raise ConfigError(f"{path}: not a features file: give what m3video embed wrote")
    if not path.exists():
        raise ConfigError(f"{path}: no such file: give what m3video embed wrote")
    with _naming(path):
        text, columns = read[path.suffix.lower()](path)
        metadata = json.loads(text)
        _check_metadata(metadata)
        paths = [str(name) for name in columns["path"]]
        file = FeatureFile(
            path=path,
            metadata=metadata,
            paths=paths,
            start=np.asarray(columns["start"], np.float64),
            end=np.asarray(columns["end"], np.float64),
            labels=[
                str(label) if label else None for label in columns.get("label", len(paths) * [""])
            ],
        )
        sizes = {metadata["rows"], len(paths), len(file.labels)}
        if {(size,) for size in sizes} | {file.start.shape, file.end.shape} != {(len(paths),)}:
            raise ValueError("its columns are of different lengths")
        return file


def _check_metadata(metadata: Any) -> None:
    """Refuse a description that is none, by an error that `_naming` knows."""
    if not isinstance(metadata, dict):
        raise TypeError("its description is none")
    shape = metadata["shape"]
    sizes = isinstance(shape, list) and all(type(n) is int and 0 < n < 2**31 for n in shape)
    if not sizes or len(shape) not in (1, 2) or type(metadata["rows"]) is not int:
        raise ValueError(f"rows {metadata['rows']!r} of shape {shape!r}")
    if not all(isinstance(metadata[name], str) for name in ("model", "per")):
        raise ValueError("model and per are no texts")
    entries = metadata["unreadable"]
    if not isinstance(entries, list) or not all(
        isinstance(entry, list) and [type(part) for part in entry] == [str, str]
        for entry in entries
    ):
        raise ValueError("unreadable is no list of paths and reasons")


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Whatever a broken file leads to becomes one line that names it.

    Raises:
        ConfigError: the file is broken.
    """
    try:
        yield
    except MemoryError as error:
        raise ConfigError(f"{path}: needs more memory than there is, or is broken") from error
    except (
        *(LookupError, AttributeError, ValueError, TypeError, OSError, EOFError, OverflowError),
        *(RecursionError, NotImplementedError),  # zipfile's, of other kinds of packing
        *(SyntaxError, TokenError),  # numpy's headers are literals of Python
        *(pa.ArrowException, zipfile.BadZipFile, zlib.error),
    ) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"{path}: not a features file of m3video embed, or a broken one: {reason}"
        ) from error


def _read_parquet(path: Path) -> tuple[str, dict[str, Any]]:
    # Features are stored as they are: a file with more rows than bytes would grow when it is read.
    size, facts = path.stat().st_size, pq.read_metadata(path)
    rows = facts.num_rows
    # Not the facts of its columns: of some files that are broken they end the process.
    groups = [facts.row_group(number).num_rows for number in range(facts.num_row_groups)]
    if rows > size or sum(groups) != rows:
        raise ValueError(f"says that it has {rows} rows, in groups of {groups[:9]}")
    schema = pq.read_schema(path)
    kind = schema.field("feature").type
    if not pa.types.is_fixed_size_list(kind) or rows * kind.list_size > size:
        raise ValueError(f"says that it has {rows} features of {kind}")
    text = (schema.metadata or {})[METADATA.encode()].decode()
    names = [name for name in schema.names if name != "feature"]
    table = pq.read_table(path, columns=names)
    return text, {name: table[name].to_pylist() for name in names}


def _parquet_chunks(path: Path) -> Iterator[NDArray[np.floating[Any]]]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=CHUNK, columns=["feature"]):
            column = batch.column("feature")
            flat = column.flatten().to_numpy(zero_copy_only=False)
            yield flat.reshape(len(column), -1)


def _read_npz(path: Path) -> tuple[str, dict[str, Any]]:
    _check_npz(path)
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files if name != "feature"}
    for name, array in arrays.items():
        if array.dtype.kind == "U" and array.size:
            kind = np.dtype(np.uint32).newbyteorder(array.dtype.byteorder)
            if int(np.atleast_1d(array).view(kind).max()) > sys.maxunicode:
                raise ValueError(f"{name} holds numbers that are no characters")
    return str(arrays.pop("metadata")), arrays


def _check_npz(path: Path) -> None:
    """Refuse arrays that say they hold more than the file, before they are made, or are encrypted.

    Raises:
        ValueError: there are such.
    """
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.flag_bits & 1:
                raise ValueError(f"{entry.filename} is encrypted")
            with archive.open(entry) as file:
                version = np.lib.format.read_magic(file)
                read = {
                    (1, 0): np.lib.format.read_array_header_1_0,
                    (2, 0): np.lib.format.read_array_header_2_0,
                }
                shape, _, dtype = read[version](file)
                if math.prod(shape) * dtype.itemsize > entry.compress_size:
                    raise ValueError(f"{entry.filename} says it is {shape} of {dtype}")


def _npz_chunks(path: Path) -> Iterator[NDArray[np.floating[Any]]]:
    with zipfile.ZipFile(path) as archive, archive.open("feature.npy") as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_2_0(file)
        item = dtype.itemsize * int(np.prod(shape[1:]))
        rows = max(1, min(CHUNK, 2**28 // item))
        for first in range(0, shape[0], rows):
            count = min(rows, shape[0] - first)
            yield np.frombuffer(file.read(count * item), dtype).reshape(count, *shape[1:])


def _read_zarr(path: Path) -> tuple[str, dict[str, Any]]:
    root = import_zarr().open_group(str(path), mode="r")
    names = [name for name in ("path", "start", "end", "label") if name in root]
    return json.dumps(root.attrs[METADATA]), {name: root[name][:] for name in names}


def _zarr_chunks(path: Path) -> Iterator[NDArray[np.floating[Any]]]:
    array = import_zarr().open_group(str(path), mode="r")["feature"]
    for first in range(0, array.shape[0], array.chunks[0]):
        yield np.asarray(array[first : first + array.chunks[0]])
