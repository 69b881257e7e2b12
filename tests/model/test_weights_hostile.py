"""Weights that carry code, or whose header lies: refused in one line, and nothing of them runs."""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from m3video.config import ClipConfig
from m3video.errors import CheckpointError, ConfigError, M3VideoError
from m3video.find.features import open_features
from m3video.model.checkpoint import load_encoder, read_tensors, save_model
from m3video.model.vit import build_encoder
from m3video.model.weight_files import read_weights
from m3video.motion.raft import _read

TOUCH = Path("it-ran")


class Evil:
    """Leaves a file where it is unpickled without care."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {TOUCH}",)


def _plain(path: Path) -> None:
    path.write_bytes(pickle.dumps({"a": Evil()}))


def _zipped(path: Path) -> None:
    torch.save({"a": Evil()}, path)


def _old(path: Path) -> None:
    torch.save({"a": Evil()}, path, _use_new_zipfile_serialization=False)


def _array(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, metadata=np.array([Evil()], object), path=np.array(["a"]))


@pytest.mark.parametrize("write", [_plain, _zipped, _old])
@pytest.mark.parametrize("ending", [".pth", ".pt", ".bin", ".safetensors"])
@pytest.mark.parametrize("read", [read_weights, _read])
def test_code_in_a_pickle_does_not_run(
    write: Callable[[Path], None],
    ending: str,
    read: Callable[[Path], Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"weights{ending}"
    write(path)
    with pytest.raises(M3VideoError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert not TOUCH.exists()


def test_code_in_a_features_file_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _array(tmp_path / "features.npz")
    with pytest.raises(ConfigError, match=r"features.npz: not a features file"):
        open_features(tmp_path / "features.npz")
    assert not TOUCH.exists()


def test_the_code_would_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read without care, each of these files does what the tests above look for."""
    monkeypatch.chdir(tmp_path)
    for write in (_plain, _zipped, _old, _array):
        path = tmp_path / "weights"
        write(path)
        if write is _plain:
            pickle.loads(path.read_bytes())
        elif write is _array:
            assert np.load(path, allow_pickle=True)["metadata"].size
        else:
            torch.load(path, weights_only=False)
        assert TOUCH.exists()
        TOUCH.unlink()


def _tensor(start: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def _file(header: object, data: bytes = b"\0" * 32, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


LIES = {
    "outside": _file({"a": _tensor(0, 64, [16])}),
    "far outside": _file({"a": _tensor(2**62, 2**62 + 32, [8])}),
    "negative": _file({"a": _tensor(-32, 0, [8])}),
    "backwards": _file({"a": _tensor(32, 0, [8])}),
    "overlapping": _file({"a": _tensor(0, 32, [8]), "b": _tensor(16, 32, [4])}),
    "the same twice": _file({"a": _tensor(0, 32, [8]), "b": _tensor(0, 32, [8])}),
    "a hole": _file({"a": _tensor(0, 8, [2]), "b": _tensor(16, 32, [4])}),
    "data that nothing names": _file({"a": _tensor(0, 16, [4])}),
    "huge header": _file({}, length=2**63),
    "large header": _file({}, length=2**31),
    "header longer than the file": _file({"a": _tensor(0, 32, [8])}, length=4096),
    "no header": _file(b"", data=b""),
    "wrong size": _file({"a": _tensor(0, 32, [8], "F64")}),
    "huge shape": _file({"a": _tensor(0, 32, [2**40, 2**40])}),
    "shape that overflows": _file({"a": _tensor(0, 32, [2**32, 2**32, 8])}),
    "unknown type": _file({"a": _tensor(0, 32, [8], "F31")}),
    "no dictionary": _file([1, 2]),
    "nested": _file(b"[" * 100_000),
    "no text": _file(b"\xff\xfe\x00"),
    "empty": b"",
    "eight bytes": b"\0" * 8,
}


@pytest.mark.parametrize("lie", LIES)
def test_headers_that_lie_are_refused_in_one_line(lie: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(LIES[lie])
    for read in (read_tensors, read_weights):
        with pytest.raises(CheckpointError, match="cannot be read as safetensors") as caught:
            read(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)


def test_a_true_header_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(_file({"a": _tensor(0, 24, [2, 3]), "b": _tensor(24, 32, [2])}))
    assert {name: list(t.shape) for name, t in read_tensors(path).items()} == {
        "a": [2, 3],
        "b": [2],
    }


def test_json_in_json_in_json_is_one_line(tmp_path: Path) -> None:
    clip = ClipConfig(frames=4, stride=3, size=(32, 48), patch=8)
    save_model(build_encoder(clip, "nano"), tmp_path / "model", clip)
    (tmp_path / "model" / "config.json").write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match=r"config.json: cannot be read as JSON"):
        load_encoder(tmp_path / "model")
