"""Weight files of others -> tensors by name. Reading runs no code that a file may hold."""

from __future__ import annotations

import argparse
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from m3video.errors import CheckpointError
from m3video.model.checkpoint import read_tensors

State = dict[str, Tensor]

PATCH_EMBED = "patch_embed.proj.weight"
_WRAPPERS = ("model", "module", "state_dict", "model_state_dict")
"""Where files keep their state dict; "module" is DeepSpeed's."""


def read_weights(path: Path) -> State:
    """Read the state dict of a `.safetensors` file, or of one that `torch.save` wrote.

    Raises:
        CheckpointError: not such a file, cut off, or holding objects beside tensors and numbers, or
            tensors that claim more values than the file holds.
    """
    state = read_tensors(path) if path.suffix == ".safetensors" else _unwrapped(_load(path), path)
    for name, tensor in state.items():
        _check_plain(tensor, name, path)
    broken = [
        name
        for name, tensor in state.items()
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all())
    ]
    if broken:
        raise CheckpointError(f"{path}: {broken[0]} has values that are not finite")
    return {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in state.items()
    }


def _check_plain(tensor: Tensor, name: str, path: Path) -> None:
    """Refuse what is no array of real numbers that lie in the file, before anything is computed.

    A file of some bytes can hold a tensor of terabytes, one value repeated by strides of zero.
    """
    plain = tensor.layout is torch.strided and tensor.device.type == "cpu"
    if not plain or tensor.is_quantized or tensor.is_complex():
        kind = "quantised" if tensor.is_quantized else f"{tensor.dtype} on {tensor.device}"
        raise CheckpointError(
            f"{path}: {name} is no plain array of weights ({tensor.layout}, {kind}); save the "
            "state dict again in float32"
        )
    if tensor.numel() * tensor.itemsize > tensor.untyped_storage().nbytes():
        raise CheckpointError(
            f"{path}: {name} is {list(tensor.shape)}, more values than the file holds; save the "
            "state dict again with its tensors made contiguous"
        )


def _check_size(path: Path) -> None:
    """Refuse an archive that grows when it is read: torch.save does not compress.

    Raises:
        CheckpointError: it is one.
        zipfile.BadZipFile: it is cut off.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    packed = path.stat().st_size
    if unpacked > packed:
        raise CheckpointError(
            f"{path}: has {packed} bytes and grows to {unpacked} when it is read, which no file of "
            "torch.save does; unpack what is in it and give the weights' own file"
        )


def _load(path: Path) -> Any:
    try:
        _check_size(path)
        # Official files keep their training options beside the weights, a plain bag of attributes.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "GLOBAL" in str(error) or "allow" in str(error):
            raise CheckpointError(
                f"{path}: holds objects beside weights, which could run code when they are read; "
                "on a machine where you trust it, save its state dict alone with torch.save"
            ) from error
        raise CheckpointError(f"{path}: not a file of weights, or cut off") from error
    except OSError as error:  # of a file that ends within its header, too
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path}: not a file of weights, or cut off ({reason})") from error
    except (
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
        AttributeError,
        TypeError,
        zipfile.BadZipFile,
    ) as error:
        raise CheckpointError(f"{path}: not a file of weights, or cut off") from error


def _unwrapped(content: Any, path: Path) -> State:
    for _ in range(3):
        inner = [content[name] for name in _WRAPPERS if _is_mapping(content, name)]
        if not inner:
            break
        content = inner[0]
    tensors = content if isinstance(content, Mapping) else {}
    state = {str(name): value for name, value in tensors.items() if isinstance(value, Tensor)}
    if not state:
        raise CheckpointError(f"{path}: no state dict in it, neither at the top nor under 'model'")
    return state


def _is_mapping(content: Any, name: str) -> bool:
    return isinstance(content, Mapping) and isinstance(content.get(name), Mapping)


@dataclass(frozen=True)
class OfficialWeights:
    """An official state dict, sorted by what it is for.

    Attributes:
        encoder: weights of the encoder by official names, without prefix; `pos_embed` left out.
        head: `fc_norm.*` and `head.*` of a classifier on the mean of the tokens; else empty.
        positions: the table `pos_embed`, where the file holds it.
        left_over: names of the others: decoders, heads on one token.
    """

    encoder: State
    head: State
    positions: Tensor | None
    left_over: tuple[str, ...]


def sort_official(state: Mapping[str, Tensor], path: Path) -> OfficialWeights:
    """Find the encoder of VideoMAE, VideoMAE V2, MME or TrackMAE, under whatever prefix.

    Pre-training files have it under `encoder.`, fine-tuned ones at the top; training wrappers put
    `module.` or `backbone.` before.

    Raises:
        CheckpointError: no such encoder, two of them, or one with parts that VideoMAE has not.
    """
    ends = [name for name in state if f".{name}".endswith(f".{PATCH_EMBED}")]
    if len(ends) != 1:
        found = f"{len(ends)} of them: {', '.join(ends)}" if ends else f"it has {_some(state)}"
        raise CheckpointError(f"{path}: one {PATCH_EMBED} of VideoMAE is wanted; {found}")
    prefix = ends[0].removesuffix(PATCH_EMBED)
    inner = {
        name.removeprefix(prefix): tensor
        for name, tensor in state.items()
        if name.startswith(prefix)
    }
    outer = [name for name in state if not name.startswith(prefix)]
    parts = {
        name: tensor
        for name, tensor in inner.items()
        if name.startswith(("patch_embed.", "blocks.", "norm."))
    }
    others = inner.keys() - parts.keys() - {"pos_embed"}
    head = {name: inner[name] for name in inner if name.startswith(("fc_norm.", "head."))}
    if head.keys() != {"fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"}:
        head = {}
    foreign = [
        name
        for name in sorted(others)
        if not name.startswith(("fc_norm.", "head.", "decoder", "encoder_to_", "mask_token"))
    ]
    if foreign:
        raise CheckpointError(
            f"{path}: {foreign[0]} is no part of VideoMAE's encoder; without it the outputs would "
            "be others"
        )
    if head and "norm.weight" in parts:
        raise CheckpointError(
            f"{path}: has norms before and behind the mean of the tokens (norm, fc_norm); a "
            "classifier of VideoMAE has one of them"
        )
    left_over = tuple(sorted([*outer, *(prefix + name for name in others - head.keys())]))
    return OfficialWeights(parts, head, inner.get("pos_embed"), left_over)


def _some(state: Mapping[str, Tensor]) -> str:
    return ", ".join(list(state)[:3]) + (", …" if len(state) > 3 else "")
