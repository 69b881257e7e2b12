"""Files of others that are no VideoMAE, or not whole, are refused in one line."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from m3video.errors import CheckpointError, ConfigError
from m3video.model.vit import sine_cosine_positions
from tests.model.test_convert_files import State, formula, imported


class Evil:
    """What a pickle may do when it is read without care."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch hacked",)


def _resnet() -> State:
    return {
        "conv1.weight": torch.ones(64, 3, 7, 7),
        "fc.bias": torch.ones(4),
        "bn1.bias": torch.ones(2),
    }


def _changed(name: str = "videomae_finetune_tiny", **changes: Tensor) -> State:
    return formula(name) | changes


def _image_patches() -> State:
    return _changed(**{"patch_embed.proj.weight": torch.ones(48, 3, 16, 16)})


def _nan() -> State:
    return _changed(**{"blocks.1.mlp.fc1.bias": torch.full((192,), torch.nan)})


def _two_encoders() -> State:
    state = formula("videomae_pretrain_tiny")
    return state | {f"teacher.{key}": value for key, value in state.items()}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (_resnet, r"one patch_embed.proj.weight of VideoMAE is wanted; it has conv1.weight, fc"),
        (_two_encoders, r"2 of them: encoder.patch_embed.proj.weight, teacher.encoder"),
        (_image_patches, r"is \[48, 3, 16, 16\]; a model of RGB videos"),
        (_nan, "blocks.1.mlp.fc1.bias has values that are not finite"),
        (lambda: _changed(cls_token=torch.ones(1, 1, 48)), "cls_token is no part of VideoMAE's"),
        (lambda: _changed(time_embed=torch.ones(1, 8, 48)), "time_embed is no part of VideoMAE's"),
        (
            lambda: _changed(**{"blocks.0.gamma_1": torch.ones(48)}),
            "blocks.0.gamma_1 not part of the model",
        ),
        (
            lambda: _changed(**{"blocks.0.attn.scale": torch.ones(3, 1, 1)}),
            "blocks.0.attention.scale not part of the model",
        ),
        (lambda: _changed(pos_embed=torch.rand(1, 128, 48)), "its pos_embed was learned"),
        (
            lambda: _changed(pos_embed=sine_cosine_positions(1568, 48)[None]),
            "for 1568 tokens, and 16 frames of 64×64 have 128; give --frames and --size",
        ),
        (
            lambda: _changed(**{"decoder.x": torch.zeros(1).expand(10**12)}),
            r"decoder.x is \[1000000000000\], more values than the file holds",
        ),
        (
            lambda: _changed(**{"blocks.0.norm1.bias": torch.zeros(48).to_sparse()}),
            "blocks.0.norm1.bias is no plain array",
        ),
        (
            lambda: _changed(**{"blocks.0.norm1.bias": torch.zeros(48, device="meta")}),
            "blocks.0.norm1.bias is no plain array",
        ),
        (
            lambda: _changed(**{"blocks.0.norm1.bias": torch.zeros(48).cfloat()}),
            "blocks.0.norm1.bias is no plain array",
        ),
        (
            lambda: _changed(**{"blocks.0.norm1.bias": torch.zeros(48).int()}),
            "blocks.0.norm1.bias holds torch.int32, and weights are floating point",
        ),
        (
            lambda: _changed(**{"blocks.999999999.norm1.bias": torch.zeros(48)}),
            "has block 999999999 and no block 2; is the file whole",
        ),
        (
            lambda: _changed(**{"blocks.0.mlp.fc1.weight": torch.tensor(1.0)}),
            r"mlp.fc1.weight of the first block is \[\], .* it would be \[any number, 48\]",
        ),
        (
            lambda: _changed(**{"blocks.0.attn.qkv.weight": torch.ones(100, 48)}),
            r"qkv.weight of the first block is \[100, 48\], .* it would be \[144, 48\]",
        ),
        (
            lambda: _changed(**{"head.weight": torch.tensor(1.0)}),
            r"its classifier is \[\]; \[classes, width\] is wanted",
        ),
        (
            lambda: _changed(pos_embed=torch.zeros(5)),
            r"its pos_embed is \[5\]; \[1, tokens, width\] is wanted",
        ),
        (
            lambda: _changed(pos_embed=torch.zeros(2, 128, 48)),
            r"its pos_embed is \[2, 128, 48\]",
        ),
        (
            lambda: _changed(**{"norm.weight": torch.ones(48), "norm.bias": torch.ones(48)}),
            "has norms before and behind the mean",
        ),
        (lambda: {"model": {}}, "no state dict in it"),
        (lambda: {"model": {"epoch": 3}}, "no state dict in it"),
        (lambda: [torch.ones(3)], "no state dict in it"),
        (lambda: {"a": Evil()}, "holds objects beside weights, which could run code"),
    ],
)
def test_what_is_no_videomae_is_refused_in_one_line(
    content: Callable[[], Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(content(), tmp_path / "a.pth")
    with pytest.raises((CheckpointError, ConfigError), match=message) as caught:
        imported(tmp_path / "a.pth")
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "a.pth") in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pth"]


def test_an_archive_that_grows_when_it_is_read_is_refused(tmp_path: Path) -> None:
    torch.save(_changed(**{"decoder.x": torch.zeros(10**6)}), tmp_path / "whole.pth")
    with (
        zipfile.ZipFile(tmp_path / "whole.pth") as whole,
        zipfile.ZipFile(tmp_path / "a.pth", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in whole.namelist():
            packed.writestr(name, whole.read(name))
    with pytest.raises(CheckpointError, match=r"a.pth: has \d+ bytes and grows to 4\d{6} when"):
        imported(tmp_path / "a.pth")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_that_was_cut_off_is_refused(share: float, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix == ".pth":
        torch.save(formula("videomae_finetune_tiny"), path)
    else:
        save_file(formula("videomae_finetune_tiny"), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(
        CheckpointError, match=r"not a file of weights|cannot be read as safet"
    ) as e:
        imported(path)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"hello" * 100, b"\x80\x02]q\x00.", None])
def test_a_file_that_is_something_else_is_refused(data: bytes | None, tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(pickle.dumps({"a": [1, 2]}) if data is None else data)
    with pytest.raises(CheckpointError, match=r"not a file of weights|no state dict") as caught:
        imported(tmp_path / "a.pth")
    assert "\n" not in str(caught.value)


def test_places_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none.pth: no such file or folder"):
        imported(tmp_path / "none.pth")
    torch.save(formula("videomae_pretrain_tiny"), tmp_path / "a.pth")
    imported(tmp_path / "a.pth")
    with pytest.raises(ConfigError, match="there is something already; choose another --out"):
        imported(tmp_path / "a.pth")
    with pytest.raises(ConfigError, match="width 48 is of no published model; give its attention"):
        imported(tmp_path / "a.pth", out=tmp_path / "b", heads=None)
    with pytest.raises(ConfigError, match="width 48 is not a multiple of heads 7; give the right"):
        imported(tmp_path / "a.pth", out=tmp_path / "b", heads=7)
    with pytest.raises(
        ConfigError, match="size 60×64 is not a multiple of patch 16; give the --fr"
    ):
        imported(tmp_path / "a.pth", out=tmp_path / "b", size=(60, 64))
    with pytest.raises(ConfigError, match=r"labels .* has no classifier"):
        imported(tmp_path / "a.pth", out=tmp_path / "b", labels=tmp_path / "l.txt")
    assert not (tmp_path / "b").exists()
