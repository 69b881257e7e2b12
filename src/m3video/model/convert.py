"""Weights of other implementations -> ours, and back: state dict in, state dict out.

`m3video.model.importing` reads files and folders with these. Give the result to
`checkpoint.load_weights`, which refuses what does not fit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from m3video.errors import CheckpointError

State = dict[str, Tensor]
Renames = tuple[tuple[str, str], ...]
"""Pattern and replacement, applied to a key one after the other."""

_OFFICIAL_ENCODER: Renames = (
    (r"(^|\.)patch_embed\.proj\.", r"\1patch_embed."),
    (r"\.attn\.", ".attention."),
)
_VIDEOMAE: Renames = (
    *_OFFICIAL_ENCODER,
    (r"^encoder_to_decoder\.", "decoders.shared.embed."),
    (r"^decoder\.head\.", "heads.pixel.0."),
    (r"^decoder\.", "decoders.shared."),
)
_MME: Renames = (
    *_OFFICIAL_ENCODER,
    (r"^encoder_to_decoder\.0\.", "decoders.shared.embed."),
    (r"^decoder\.0\.head\.0\.", "heads.hog."),
    (r"^decoder\.0\.head\.1\.", "heads.trajectory."),
    (r"^decoder\.0\.", "decoders.shared."),
)
_TRANSFORMERS: Renames = (
    (r"\.attention\.attention\.", ".attention."),
    (r"\.attention\.output\.dense\.", ".attention.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"^videomae\.embeddings\.patch_embeddings\.projection\.", "encoder.patch_embed."),
    (r"^videomae\.encoder\.layer\.", "encoder.blocks."),
    (r"^videomae\.layernorm\.", "encoder.norm."),
    (r"^encoder_to_decoder\.", "decoders.shared.embed."),
    (r"^decoder\.decoder_layers\.", "decoders.shared.blocks."),
    (r"^decoder\.head\.", "heads.pixel.0."),
    (r"^decoder\.", "decoders.shared."),
)

_TO_TRANSFORMERS: Renames = (
    (r"^patch_embed\.", "embeddings.patch_embeddings.projection."),
    (r"^norm\.", "layernorm."),
    (r"^blocks\.", "encoder.layer."),
    (r"\.attention\.q_bias$", ".attention.attention.query.bias"),
    (r"\.attention\.v_bias$", ".attention.attention.value.bias"),
    (r"\.attention\.qkv\.", ".attention.attention.qkv."),
    (r"\.attention\.proj\.", ".attention.output.dense."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
)


def _rename(state: Mapping[str, Tensor], renames: Renames) -> State:
    renamed = {}
    for old_name, tensor in state.items():
        name = old_name
        for pattern, replacement in renames:
            name = re.sub(pattern, replacement, name)
        # The kernel of a 3-d convolution whose steps are its size is a matrix.
        renamed[name] = tensor.flatten(1) if name.endswith("patch_embed.weight") else tensor
    return renamed


def videomae_autoencoder(state: Mapping[str, Tensor]) -> State:
    """VideoMAE's pre-training weights -> a MaskedAutoencoder whose one target is `pixel`."""
    return _rename(state, _VIDEOMAE)


def mme_autoencoder(state: Mapping[str, Tensor]) -> State:
    """MME's pre-training weights -> a MaskedAutoencoder with the targets `hog` and `trajectory`,
    both with `mlp` heads (`sigmoid`, `tanh`)."""
    return _rename(state, _MME)


def transformers_autoencoder(state: Mapping[str, Tensor]) -> State:
    """transformers' VideoMAEForPreTraining -> a MaskedAutoencoder whose one target is `pixel`.

    Its final encoder norm is there only with `use_mean_pooling=False`, as in the published
    pre-training configs; otherwise build the encoder with `final_norm=False`.
    """
    return _rename(_fuse_qkv(state), _TRANSFORMERS)


def encoder_of(autoencoder: Mapping[str, Tensor]) -> State:
    """The VisionTransformer's part of a converted MaskedAutoencoder.

    Raises:
        CheckpointError: there is none.
    """
    part = {
        name.removeprefix("encoder."): tensor
        for name, tensor in autoencoder.items()
        if name.startswith("encoder.")
    }
    if "patch_embed.weight" not in part:
        some = ", ".join(list(autoencoder)[:3])
        raise CheckpointError(
            f"no encoder among the weights ({some}, …); give the state dict itself, converted, "
            "and not the file's outer mapping"
        )
    return part


def finetuned_encoder(state: Mapping[str, Tensor]) -> State:
    """VideoMAE's (or MME's) fine-tuned weights -> a VisionTransformer with `final_norm=False`.

    The classifier (`fc_norm` on the mean of the tokens, `head`) is left out.
    """
    kept = {
        name: tensor for name, tensor in state.items() if not name.startswith(("fc_norm.", "head."))
    }
    return _rename(_split_bias(kept), _OFFICIAL_ENCODER)


def transformers_encoder(state: Mapping[str, Tensor]) -> State:
    """The encoder of any of transformers' VideoMAE models -> a VisionTransformer.

    Raises:
        CheckpointError: there is none.
    """
    bare = ("embeddings.", "encoder.layer.", "layernorm.")  # as VideoMAEModel alone names them
    named = {
        f"videomae.{name}" if name.startswith(bare) else name: tensor
        for name, tensor in state.items()
    }
    return encoder_of(transformers_autoencoder(named))


def to_transformers(encoder: Mapping[str, Tensor], kernel: tuple[int, int, int]) -> State:
    """A VisionTransformer's weights -> those of transformers' VideoMAEModel, by its names.

    Args:
        encoder: the state dict.
        kernel: tubelet, patch, patch.
    """
    renamed = {}
    for old_name, tensor in encoder.items():
        name = old_name
        for pattern, replacement in _TO_TRANSFORMERS:
            name = re.sub(pattern, replacement, name)
        if name.endswith("qkv.weight"):
            stem = name.removesuffix("qkv.weight")
            for part, matrix in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                renamed[f"{stem}{part}.weight"] = matrix
        elif name.endswith("projection.weight"):
            renamed[name] = tensor.reshape(len(tensor), 3, *kernel)
        else:
            renamed[name] = tensor
    return renamed


def _split_bias(state: Mapping[str, Tensor]) -> State:
    """One bias for query, key and value (TrackMAE) -> the two that matter: that of the keys adds
    the same to all scores of a query."""
    split = {}
    for name, tensor in state.items():
        if name.endswith(".qkv.bias"):
            stem = name.removesuffix("qkv.bias")
            split[f"{stem}q_bias"], _, split[f"{stem}v_bias"] = tensor.chunk(3)
        else:
            split[name] = tensor
    return split


def _fuse_qkv(state: Mapping[str, Tensor]) -> State:
    """One matrix for query, key and value; biases by their older names."""
    fused = {}
    for name, tensor in state.items():
        if name.endswith(".query.weight"):
            stem = name.removesuffix("query.weight")
            parts = [state[f"{stem}{part}.weight"] for part in ("query", "key", "value")]
            fused[f"{stem}qkv.weight"] = torch.cat(parts)
        elif name.endswith((".query.bias", ".value.bias")):
            stem, part, _ = name.rsplit(".", 2)
            fused[f"{stem}.{part[0]}_bias"] = tensor
        elif not name.endswith((".key.weight", ".value.weight")):
            fused[name] = tensor
    return fused
