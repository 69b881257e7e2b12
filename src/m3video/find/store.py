"""Parts of features -> one file: parquet, npz or zarr, whole or not at all.

- Columns (arrays of npz and zarr): path, start and end in seconds, label if there are any, feature.
- One pass over the parts, so memory does not grow with the features. Rows are dealt out anew, so
  the file does not tell where the parts met.
- What the features are is JSON: in parquet the schema's metadata `m3video`, in npz the array
  `metadata`, in zarr the attribute `m3video`.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from m3video.errors import ConfigError
from m3video.whole import written_whole

METADATA = "m3video"
GROUP_BYTES = 16 * 2**20
"""Of features that are written at a time."""


def part_table(
    paths: Sequence[str],
    seconds: Sequence[tuple[float, float]],
    labels: Sequence[str | None],
    features: NDArray[Any],
) -> pa.Table:
    """Rows of a part.

    Args:
        paths: of the videos.
        seconds: start and end.
        labels: None where there is none.
        features: float32 or float16 [R, D]; tokens are flattened.
    """
    values = pa.array(features.reshape(-1))
    return pa.table(
        {
            "path": pa.array(paths, pa.string()),
            "start": pa.array([start for start, _ in seconds], pa.float64()),
            "end": pa.array([end for _, end in seconds], pa.float64()),
            "label": pa.array(labels, pa.string()),
            "feature": pa.FixedSizeListArray.from_arrays(values, features.shape[1]),
        }
    )


def write_features(out: Path, parts: Sequence[Path], metadata: Mapping[str, Any]) -> int:
    """Join parts into `out`, whose ending tells the format.

    Args:
        out: .parquet, .npz or .zarr.
        parts: in their order, at least one row in all.
        metadata: what the features are; `shape` is that of a row's.

    Returns:
        The number of rows.
    """
    rows = sum(int(pq.read_metadata(path).num_rows) for path in parts)
    item = np.dtype(metadata["dtype"]).itemsize * int(np.prod(metadata["shape"]))
    group = max(1, GROUP_BYTES // item)
    labelled = any(_has_labels(path) for path in parts)
    text = json.dumps({**metadata, "rows": rows})
    write = {".parquet": _write_parquet, ".npz": _write_npz, ".zarr": _write_zarr}
    with written_whole(out) as aside:
        write[out.suffix.lower()](aside, parts, group, labelled, rows, text)
    return rows


def _has_labels(part: Path) -> bool:
    column = pq.read_table(part, columns=["label"])["label"]
    return bool(column.null_count < len(column))


def _groups(parts: Sequence[Path], size: int, columns: list[str]) -> Iterator[pa.Table]:
    """All rows in tables of `size`, the last smaller."""
    held: list[pa.Table] = []
    for path in parts:
        held.append(pq.read_table(path, columns=columns).replace_schema_metadata(None))
        while sum(map(len, held)) >= size:
            joined = pa.concat_tables(held)
            yield joined.slice(0, size).combine_chunks()
            held = [joined.slice(size)]
    if sum(map(len, held)):
        yield pa.concat_tables(held).combine_chunks()


def _columns(labelled: bool) -> list[str]:
    return ["path", "start", "end", *(["label"] if labelled else []), "feature"]


def _write_parquet(
    aside: Path, parts: Sequence[Path], group: int, labelled: bool, rows: int, text: str
) -> None:
    writer: pq.ParquetWriter | None = None
    for table in _groups(parts, group, _columns(labelled)):
        described = table.replace_schema_metadata({METADATA: text})
        if writer is None:
            # Features look like noise to a dictionary and to a packer.
            names = [name for name in table.column_names if name != "feature"]
            writer = pq.ParquetWriter(
                aside,
                described.schema,
                compression=dict.fromkeys(names, "zstd"),
                use_dictionary=[name for name in names if name in ("path", "label")],
            )
        writer.write_table(described, row_group_size=group)
    assert writer is not None
    writer.close()


def _texts(parts: Sequence[Path], column: str) -> NDArray[np.str_]:
    """A column of texts, "" where there is none."""
    return np.array(
        [value or "" for path in parts for value in _values(path, column)], dtype=np.str_
    )


def _values(part: Path, column: str) -> list[Any]:
    values: list[Any] = pq.read_table(part, columns=[column])[column].to_pylist()
    return values


def _features(
    parts: Sequence[Path], group: int, shape: Sequence[int]
) -> Iterator[NDArray[np.floating[Any]]]:
    """[r, …] at a time."""
    for table in _groups(parts, group, ["feature"]):
        flat = table["feature"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        yield np.ascontiguousarray(flat).reshape(len(table), *shape)


def _write_npz(
    aside: Path, parts: Sequence[Path], group: int, labelled: bool, rows: int, text: str
) -> None:
    metadata = json.loads(text)
    with zipfile.ZipFile(aside, "w", zipfile.ZIP_STORED) as archive:

        def put(name: str, array: NDArray[Any]) -> None:
            with _member(archive, name) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)

        put("metadata", np.array(text))
        put("path", _texts(parts, "path"))
        for name in ("start", "end"):
            put(name, np.array([v for path in parts for v in _values(path, name)], np.float64))
        if labelled:
            put("label", _texts(parts, "label"))
        header = {
            "descr": np.lib.format.dtype_to_descr(np.dtype(metadata["dtype"])),
            "fortran_order": False,
            "shape": (rows, *metadata["shape"]),
        }
        with _member(archive, "feature") as file:
            np.lib.format.write_array_header_2_0(file, header)
            for values in _features(parts, group, metadata["shape"]):
                file.write(values.tobytes())


def _member(archive: zipfile.ZipFile, name: str) -> Any:
    """An array of the archive, to be written; its date is always the same."""
    info = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
    info.external_attr = 0o644 << 16
    return archive.open(info, "w", force_zip64=True)


def _write_zarr(
    aside: Path, parts: Sequence[Path], group: int, labelled: bool, rows: int, text: str
) -> None:
    zarr = import_zarr()
    metadata = json.loads(text)
    root = zarr.open_group(str(aside), mode="w", attributes={METADATA: metadata})
    names = ["path", "label"] if labelled else ["path"]
    for name in names:
        texts = root.create_array(name, shape=(rows,), chunks=(min(rows, 65536),), dtype="str")
        texts[:] = _texts(parts, name).astype(object)
    for name in ("start", "end"):
        numbers = np.array([v for path in parts for v in _values(path, name)], np.float64)
        root.create_array(name, data=numbers)
    shape = tuple(metadata["shape"])
    features = root.create_array(
        "feature",
        shape=(rows, *shape),
        chunks=(min(rows, group), *shape),
        dtype=metadata["dtype"],
        compressors=None,
    )
    first = 0
    for values in _features(parts, group, shape):
        features[first : first + len(values)] = values
        first += len(values)


def import_zarr() -> Any:
    """The module zarr.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import zarr
    except ImportError:
        raise ConfigError(
            "a .zarr file needs zarr: pip install 'm3video[zarr]', or use .parquet or .npz"
        ) from None
    return zarr
