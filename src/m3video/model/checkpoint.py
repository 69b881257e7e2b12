"""Weights on disk: safetensors and JSON, never pickle; every file whole or not at all.

A model directory holds `model.safetensors` and `config.json` (architecture, clip, normalisation,
labels of a classifier, version; `position_grid` of an encoder that was resized, `head_norm_eps`
where a classifier's norm differs from the encoder's in it). It is what `save_model` writes, and
`load_encoder` and `load_classifier` read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from m3video.config import ClipConfig, one_line
from m3video.errors import CheckpointError, ConfigError, NotWrittenError
from m3video.model.classifier import Classifier
from m3video.model.detector import Detector
from m3video.model.vit import VisionTransformer
from m3video.video.augment import MEAN, STD
from m3video.whole import write_json, written_whole

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
LABELS = "labels"
"""The key of config.json that makes the model a classifier."""
DETECTION = "detection"
"""The key of config.json that makes it a detector."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write safetensors whole or not at all. Tensors may be on any device and need not be dense.

    Raises:
        NotWrittenError: such as on a full disk.
    """
    dense = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with written_whole(path) as aside:
        aside.touch()
        mode = aside.stat().st_mode
        try:
            save_file(dense, aside)
            aside.chmod(mode)  # as the umask has it: safetensors makes files for the owner alone
        except SafetensorError as error:
            reason = f"{path}: cannot be written: {_reason(error)}"
            raise NotWrittenError.of(reason, error) from error


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        CheckpointError: the file is missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON: {_reason(error)}") from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read safetensors, onto the CPU.

    Raises:
        CheckpointError: the file is missing or not safetensors.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read as safetensors: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    return " ".join(str(error).split()) or type(error).__name__


def load_weights(module: nn.Module, tensors: Mapping[str, Tensor], source: str | Path) -> None:
    """Copy weights into a module; nothing may be missing, left over or of another shape.

    Args:
        module: Where they go.
        tensors: Its state dict.
        source: What the error calls them, such as the file.

    Raises:
        CheckpointError: the weights are not those of this module.
    """
    wanted = module.state_dict()
    missing = sorted(wanted.keys() - tensors.keys())
    surplus = sorted(tensors.keys() - wanted.keys())
    for names, problem in ((missing, "missing"), (surplus, "not part of the model")):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise CheckpointError(f"{source}: weights of another model: {names[0]}{more} {problem}")
    for name, tensor in wanted.items():
        if tensors[name].shape != tensor.shape:
            raise CheckpointError(
                f"{source}: weights of another model: {name} is {list(tensors[name].shape)}, "
                f"the model wants {list(tensor.shape)}"
            )
        if not tensors[name].is_floating_point():
            raise CheckpointError(
                f"{source}: {name} holds {tensors[name].dtype}, and weights are floating point"
            )
    module.load_state_dict(dict(tensors))


def save_model(
    model: VisionTransformer | Classifier | Detector,
    folder: Path,
    clip: ClipConfig,
    weights: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a model directory, whole or not at all, in place of one that is there.

    Args:
        model: An encoder, a classifier or a detector, on any device.
        folder: Directory to write.
        clip: The clips that it was trained on.
        weights: Its state dict, where the model itself holds parts alone.

    Raises:
        CheckpointError: the folder holds something that is no model.
    """
    weights = model.state_dict() if weights is None else weights
    encoder = model if isinstance(model, VisionTransformer) else model.encoder
    config: dict[str, Any] = {
        "m3video": version("m3video"),
        "architecture": encoder.architecture,
        "clip": clip.model_dump(mode="json"),
        "mean": list(MEAN),
        "std": list(STD),
    }
    if encoder.position_grid != encoder.tokens:
        config["position_grid"] = list(encoder.position_grid)
    if not isinstance(model, VisionTransformer):
        config[DETECTION if isinstance(model, Detector) else LABELS] = list(model.labels)
        if model.norm.eps != encoder.architecture["norm_eps"]:
            config["head_norm_eps"] = model.norm.eps
    if (folder / CONFIG).is_file() and read_json(folder / CONFIG) == config:
        # The same model with newer weights: replacing one file is an instant, a directory is not.
        write_tensors(folder / WEIGHTS, weights)
        return
    if folder.is_dir() and not (folder / CONFIG).is_file() and any(folder.iterdir()):
        raise CheckpointError(f"{folder}: not empty and no model; choose another folder")
    with written_whole(folder) as aside:
        aside.mkdir()
        write_tensors(aside / WEIGHTS, weights)
        write_json(aside / CONFIG, config)


def load_model(path: str | Path) -> VisionTransformer | Classifier:
    """Read the model of a run directory or a model directory, whichever it is, ready to use.

    Returns:
        The encoder, or the classifier with its `labels`, in evaluation mode, on the CPU. The
        encoder's `clip` says what input it wants; normalise frames with
        `m3video.video.augment.normalise`.

    Raises:
        CheckpointError: there is no model, or it is broken or of another kind.
    """
    model = _load(path)
    if isinstance(model, Detector):
        raise CheckpointError(
            f"{path}: a detector, which reads boxes, too, and is neither exported nor tested "
            "without them; m3video detect evaluate tests it"
        )
    return model


def load_encoder(path: str | Path) -> VisionTransformer:
    """Read the encoder of a run directory or a model directory; that of a classifier, too.

    Returns:
        As `load_model`. The encoder of a classifier or of a detector has no last norm.

    Raises:
        CheckpointError: there is no model, or it is broken or of another kind.
    """
    model = _load(path)
    return model if isinstance(model, VisionTransformer) else model.encoder


def load_classifier(path: str | Path) -> Classifier:
    """Read the classifier of a run directory or a model directory.

    Raises:
        CheckpointError: as `load_model`, or it is an encoder without classes.
    """
    model = load_model(path)
    if not isinstance(model, Classifier):
        raise CheckpointError(
            f"{path}: an encoder without classes; fine-tune it first with m3video finetune"
        )
    return model


def load_detector(path: str | Path) -> Detector:
    """Read the detector of a run directory or a model directory.

    Raises:
        CheckpointError: as `load_encoder`, or it is none.
    """
    model = _load(path)
    if not isinstance(model, Detector):
        raise CheckpointError(f"{path}: no detector; train one first with m3video detect train")
    return model


def _load(path: str | Path) -> VisionTransformer | Classifier | Detector:
    folder = model_folder(Path(path))
    config = read_json(folder / CONFIG)
    tensors = read_tensors(folder / WEIGHTS)
    encoder = _build(config, tensors, folder)
    model: VisionTransformer | Classifier | Detector = encoder
    for key, kind in ((LABELS, Classifier), (DETECTION, Detector)):
        if config.get(key) is not None:
            model = _with_head(kind, encoder, config, key, folder / CONFIG)
    load_weights(model, tensors, folder / WEIGHTS)
    return model.eval()


def _with_head(
    kind: type[Classifier] | type[Detector],
    encoder: VisionTransformer,
    config: dict[str, Any],
    key: str,
    source: Path,
) -> Classifier | Detector:
    labels = config[key]
    if not (
        isinstance(labels, list)
        and labels
        and all(isinstance(label, str) for label in labels)
        and len(set(labels)) == len(labels)
    ):
        raise CheckpointError(f"{source}: {key}: different names in a list are wanted")
    with torch.random.fork_rng(devices=[]):  # the random weights are overwritten
        model = kind(encoder, tuple(labels))
    eps = config.get("head_norm_eps", model.norm.eps)
    if not isinstance(eps, float) or not 0 < eps < 1:
        raise CheckpointError(f"{source}: head_norm_eps {eps!r} must be a number between 0 and 1")
    model.norm.eps = eps
    return model


def model_folder(path: Path) -> Path:
    """The model directory of a run, or the path itself if it is one.

    Raises:
        CheckpointError: neither.
    """
    for folder in (path / "model", path):
        if (folder / CONFIG).is_file():
            return folder
    kind = (
        "a file"
        if path.is_file()
        else "a directory without a model"
        if path.exists()
        else "not there"
    )
    raise CheckpointError(
        f"{path}: {kind}; give a run directory that has model/, or a model directory "
        f"({CONFIG} and {WEIGHTS})"
    )


def _build(config: Any, tensors: Mapping[str, Tensor], folder: Path) -> VisionTransformer:
    """The encoder that a config describes, with random weights."""
    path = folder / CONFIG
    try:
        clip = ClipConfig.model_validate(config["clip"])
        architecture = dict(config["architecture"])
        normalisation = (tuple(config["mean"]), tuple(config["std"]))
    except (KeyError, TypeError, ValueError) as error:
        reason = one_line(error) if isinstance(error, ValidationError) else f"no {_reason(error)}"
        raise CheckpointError(f"{path}: not the config of an m3video model: {reason}") from error
    if normalisation != (tuple(MEAN), tuple(STD)):
        raise CheckpointError(
            f"{path}: wants frames of mean and deviation {normalisation}, this version of m3video "
            f"normalises with {(tuple(MEAN), tuple(STD))}"
        )
    _check_extent(architecture, tensors, folder)
    kept = clip.model_dump(exclude={"stride"})
    grid = _position_grid(config, path)
    try:
        with torch.random.fork_rng(devices=[]):  # the random weights are overwritten
            encoder = VisionTransformer(**kept, **architecture, position_grid=grid)
    except (TypeError, ConfigError, RuntimeError) as error:  # RuntimeError: of memory
        raise CheckpointError(
            f"{path}: not an architecture of m3video: {_reason(error)}"
        ) from error
    encoder.clip = clip
    return encoder


def _check_extent(
    architecture: Mapping[str, Any], tensors: Mapping[str, Tensor], folder: Path
) -> None:
    """Refuse a width or depth that the weights have not, before as much memory is taken."""
    depth, width = architecture.get("depth"), architecture.get("width")
    blocks = sum(name.endswith(".mlp.fc1.weight") for name in tensors)
    widths = [len(v) for k, v in tensors.items() if k.endswith("patch_embed.bias") and v.ndim == 1]
    if None not in (depth, width) and (depth != blocks or [width] != widths):
        raise CheckpointError(
            f"{folder / CONFIG}: says width {width} and depth {depth}, and {WEIGHTS} holds "
            f"width {', '.join(map(str, widths)) or 'unknown'} and depth {blocks}: they do not "
            "belong together"
        )


def _position_grid(config: dict[str, Any], path: Path) -> tuple[int, int, int] | None:
    """Of the table that positions are read from; None: the encoder was not resized."""
    grid = config.get("position_grid")
    if grid is None:
        return None
    try:
        time, rows, columns = grid
    except (TypeError, ValueError):
        time, rows, columns = 0, 0, 0
    if not all(type(count) is int and 0 < count < 2**16 for count in (time, rows, columns)):
        raise CheckpointError(
            f"{path}: position_grid {grid!r} must be three counts: time, rows and columns"
        )
    return time, rows, columns
