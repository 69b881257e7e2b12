"""Folders of transformers' VideoMAE, read without transformers.

What its config.json says is checked as far as it changes the outputs. transformers computes its own
table of positions, ends an encoder with a norm where `use_mean_pooling` is false, and classifies
the mean of the tokens, behind a norm whose epsilon is always torch's default, where it is true.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m3video.errors import CheckpointError
from m3video.model.checkpoint import CONFIG, WEIGHTS, read_json
from m3video.model.weight_files import State, read_weights
from m3video.video.augment import MEAN, STD

HEAD_NORM_EPS = 1e-5
"""Of the norm before transformers' classifier, whatever its config says."""
OURS = "m3video"
"""What config.json keeps for us, under this name: what transformers has no place for."""


@dataclass(frozen=True)
class FolderConfig:
    """What config.json says.

    Attributes:
        clip: frames, size, stride, tubelet, patch.
        heads: attention heads.
        layer_norm_eps: of the encoder's norms.
        head_norm_eps: of the norm before the classifier.
        labels: names of the classes, or None where it has none of its own.
    """

    clip: dict[str, Any]
    heads: int
    layer_norm_eps: float
    head_norm_eps: float
    labels: tuple[str, ...] | None


def read_folder(path: Path) -> tuple[State, FolderConfig]:
    """Weights and config of a folder that `save_pretrained` of transformers' VideoMAE wrote.

    Raises:
        CheckpointError: another model, parts missing, or settings that are not to be had here.
    """
    if not (path / CONFIG).is_file():
        raise CheckpointError(f"{path}: a folder without {CONFIG}; give transformers' or a .pth")
    config = read_json(path / CONFIG)
    if not isinstance(config, dict) or config.get("model_type") != "videomae":
        kind = config.get("model_type") if isinstance(config, dict) else None
        if isinstance(config, dict) and "architecture" in config:
            raise CheckpointError(f"{path}: a model directory of m3video already; use it as it is")
        raise CheckpointError(
            f"{path}: {CONFIG} is of model_type {kind!r}, not 'videomae'; if its weights have "
            "VideoMAE's official names, give their file itself"
        )
    read = _read_config(config, path)
    _check_preprocessor(path)
    for name in (WEIGHTS, "pytorch_model.bin"):
        if (path / name).is_file():
            return read_weights(path / name), read
    raise CheckpointError(
        f"{path}: neither {WEIGHTS} nor pytorch_model.bin in it; weights in several files must be "
        "saved again as one (save_pretrained with a larger max_shard_size)"
    )


def _read_config(config: Mapping[str, Any], path: Path) -> FolderConfig:
    wanted = {"num_channels": 3, "hidden_act": "gelu"}
    for name, value in wanted.items():
        if config.get(name, value) != value:
            raise CheckpointError(
                f"{path}: {CONFIG}: {name} {config[name]!r} cannot be had here, only {value!r}"
            )
    heads, eps = config.get("num_attention_heads", 12), config.get("layer_norm_eps", 1e-12)
    if type(heads) is not int or heads < 1 or not isinstance(eps, int | float):
        raise CheckpointError(
            f"{path}: {CONFIG}: num_attention_heads {heads!r} and layer_norm_eps {eps!r} must be "
            "numbers"
        )
    patch = config.get("patch_size", 16)
    height, width = _pair(config.get("image_size", 224))
    if isinstance(patch, list):
        if len(set(patch)) != 1:
            raise CheckpointError(f"{path}: {CONFIG}: patches of {patch} are not square")
        patch = patch[0]
    ours = config.get(OURS)
    ours = ours if isinstance(ours, dict) else {}
    head_norm_eps = ours.get("head_norm_eps", HEAD_NORM_EPS)
    if not isinstance(head_norm_eps, float) or not 0 < head_norm_eps < 1:
        raise CheckpointError(
            f"{path}: {CONFIG}: {OURS}: head_norm_eps {head_norm_eps!r} must be a number between 0 "
            "and 1"
        )
    names = config.get("id2label")
    labels = None
    if isinstance(names, dict) and set(names) == {str(number) for number in range(len(names))}:
        listed = tuple(str(names[str(number)]) for number in range(len(names)))
        # Without names of one's own transformers says LABEL_0, LABEL_1, …
        own = any(name != f"LABEL_{number}" for number, name in enumerate(listed))
        labels = listed if own and len(set(listed)) == len(listed) else None
    return FolderConfig(
        clip={
            "frames": config.get("num_frames", 16),
            "size": (height, width),
            "stride": ours.get("stride", 4),
            "tubelet": config.get("tubelet_size", 2),
            "patch": patch,
        },
        heads=heads,
        layer_norm_eps=float(eps),
        head_norm_eps=head_norm_eps,
        labels=labels,
    )


def _pair(size: Any) -> tuple[Any, Any]:
    return (size[0], size[1]) if isinstance(size, list) and len(size) == 2 else (size, size)


def _check_preprocessor(path: Path) -> None:
    """Refuse weights that want frames normalised in another way."""
    file = path / "preprocessor_config.json"
    if not file.is_file():
        return
    found = read_json(file)
    for name, ours in (("image_mean", MEAN), ("image_std", STD)):
        values = found.get(name, list(ours)) if isinstance(found, dict) else None
        if values != list(ours):
            raise CheckpointError(
                f"{file}: {name} {values}: m3video normalises with {list(ours)} only"
            )
