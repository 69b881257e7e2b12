"""Features files that are broken, or claim more than they hold, are refused in one line."""

from __future__ import annotations

import io
import json
import struct
import tracemalloc
import zipfile
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from m3video.errors import ConfigError
from m3video.find import features
from m3video.find.features import open_features
from m3video.find.store import METADATA, part_table, write_features

SHAPE = [4]
DESCRIPTION: dict[str, Any] = {
    "model": "m",
    "per": "video",
    "shape": SHAPE,
    "dtype": "float32",
    "unreadable": [["b.mp4", "is empty"]],
}


def write(path: Path, **changes: object) -> Path:
    """A features file of three rows, with another description where wished."""
    part = path.with_name("part.parquet")
    names = ["a.mp4", "b.mp4", "c.mp4"]
    table = part_table(names, [(0.0, 1.0)] * 3, ["x", None, "y"], np.eye(3, 4, dtype=np.float32))
    pq.write_table(table, part)
    write_features(path, [part], DESCRIPTION)
    if path.suffix == ".npz":
        with zipfile.ZipFile(path) as archive:
            arrays = {entry: archive.read(entry) for entry in archive.namelist()}
        text = io.BytesIO()
        np.save(text, np.array(json.dumps({**DESCRIPTION, "rows": 3, **changes})))
        with zipfile.ZipFile(path, "w") as archive:
            for entry, data in {**arrays, "metadata.npy": text.getvalue()}.items():
                archive.writestr(entry, data)
    else:
        described = json.dumps({**DESCRIPTION, "rows": 3, **changes})
        pq.write_table(pq.read_table(path).replace_schema_metadata({METADATA: described}), path)
    return path


def refused(path: Path, *, words: str = "") -> None:
    """Opening it or reading its features ends in one line."""
    with pytest.raises(ConfigError, match=words) as caught:
        list(open_features(path).chunks())
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ending", [".npz", ".parquet"])
def test_what_is_whole_is_read(ending: str, tmp_path: Path) -> None:
    file = open_features(write(tmp_path / f"a{ending}"))
    np.testing.assert_array_equal(file.vectors(), np.eye(3, 4))
    assert file.labels == ["x", None, "y"]


@pytest.mark.parametrize("ending", [".npz", ".parquet"])
@pytest.mark.parametrize(
    "changes",
    [
        {"rows": 4},
        {"rows": "3"},
        {"shape": [5]},
        {"shape": []},
        {"shape": [2**40, 2**40]},
        {"shape": [-4]},
        {"shape": "4"},
        {"shape": None},
        {"model": 3},
        {"per": None},
        {"unreadable": {"a": 1}},
        {"unreadable": [["a"]]},
    ],
)
def test_descriptions_that_do_not_fit(
    ending: str, changes: dict[str, object], tmp_path: Path
) -> None:
    refused(write(tmp_path / f"a{ending}", **changes), words="not a features file")


@pytest.mark.parametrize("ending", [".npz", ".parquet"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_files_that_are_cut_off(ending: str, share: float, tmp_path: Path) -> None:
    path = write(tmp_path / f"a{ending}")
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    refused(path, words="not a features file")


def test_arrays_that_say_they_are_encrypted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.npz")
    data = bytearray(path.read_bytes())
    data[data.rindex(b"PK\x01\x02") + 8] |= 1  # the flags of an entry of the directory
    path.write_bytes(data)
    refused(path, words="not a features file.*is encrypted")


@pytest.mark.parametrize("order", ["<", ">"])
def test_characters_that_there_are_not(order: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.npz")
    with zipfile.ZipFile(path) as archive:
        arrays = {entry: archive.read(entry) for entry in archive.namelist()}
    names = np.array(["a.mp4", "b.mp4", "c.mp4"]).astype(f"{order}U5")
    for number, words in ((0x10FFFF, ""), (0x110000, "path holds numbers"), (2**32 - 1, "path")):
        names.view(f"{order}u4")[7] = number
        text = io.BytesIO()
        np.save(text, names)
        with zipfile.ZipFile(path, "w") as archive:
            for entry, data in {**arrays, "path.npy": text.getvalue()}.items():
                archive.writestr(entry, data)
        if words:
            refused(path, words=words)
        else:
            assert open_features(path).paths[1] == "b.\U0010ffffp4"


@pytest.mark.parametrize("header", ["{'descr': (", "(1", "  1\n 2", "\0", "[" * 300, "lambda: 1"])
def test_headers_of_arrays_that_are_no_literals(header: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.npz")
    data = b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header.encode()
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("more.npy", data)
    refused(path, words="not a features file")


def test_columns_that_are_missing_or_of_another_kind(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet")
    whole = pq.read_table(path)
    place = whole.column_names.index("feature")
    for column in (None, pa.array([1.0, 2.0, 3.0]), pa.array([[1.0], [2.0, 3.0], []])):
        table = whole.drop_columns(["feature"])
        if column is not None:
            table = table.add_column(place, "feature", column)
        pq.write_table(table, path)
        refused(path, words="not a features file")
    pq.write_table(whole.drop_columns(["path"]), path)
    refused(path, words="not a features file")


def _claims(shape: tuple[int, ...], kind: str) -> bytes:
    """An array without data, and a header that says otherwise."""
    out = io.BytesIO()
    header = {"descr": kind, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_2_0(out, header)
    return out.getvalue()


def _packed(path: Path) -> None:
    zeros = np.zeros((10**6, 4), np.float32)
    text = json.dumps({**DESCRIPTION, "rows": 10**6})
    np.savez_compressed(path, metadata=np.array(text), path=zeros[:, 0].astype("U1"), feature=zeros)


def _lies(path: Path) -> None:
    write(path)
    with zipfile.ZipFile(path) as archive:
        arrays = {entry: archive.read(entry) for entry in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for entry, data in {**arrays, "path.npy": _claims((2**30,), "<U64")}.items():
            archive.writestr(entry, data)


def _same(path: Path) -> None:
    """A million rows that are all the same take some kilobytes."""
    rows = 10**6
    names = pa.array(["a.mp4"]).take(pa.array(np.zeros(rows, np.int64)))
    times = pa.array(np.zeros(rows))
    feature = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(rows, np.float32)), 1)
    columns = {"path": names, "start": times, "end": times, "feature": feature}
    text = json.dumps({**DESCRIPTION, "rows": rows, "shape": [1]})
    pq.write_table(pa.table(columns).replace_schema_metadata({METADATA: text}), path)


def _long(path: Path) -> None:
    """Arrow's own description of the columns says that a feature has 2²⁸ numbers."""
    table = pq.read_table(write(path))
    place = table.column_names.index("feature")
    lies = table.schema.set(place, pa.field("feature", pa.list_(pa.float32(), 2**28)))
    text = {**table.schema.metadata, "ARROW:schema": b64encode(lies.serialize().to_pybytes())}
    pq.write_table(table.replace_schema_metadata(text), path, store_schema=False)


@pytest.mark.parametrize(
    ("name", "make"),
    [("a.npz", _packed), ("b.npz", _lies), ("c.parquet", _same), ("d.parquet", _long)],
)
def test_files_that_would_grow_take_no_memory(
    name: str, make: Callable[[Path], None], tmp_path: Path
) -> None:
    path = tmp_path / name
    make(path)
    size = path.stat().st_size
    assert size < 10**5
    tracemalloc.start()
    refused(path, words="says")
    assert tracemalloc.get_traced_memory()[1] < 2 * 2**20
    tracemalloc.stop()


def test_a_file_that_memory_has_no_room_for_is_not_called_broken_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(path: Path) -> None:
        raise MemoryError

    written = write(tmp_path / "a.parquet")
    monkeypatch.setattr(features.pq, "read_metadata", none)
    refused(written, words="needs more memory than there is")
