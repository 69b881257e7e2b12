"""Weights of VideoMAE and its kin -> a model directory: the verb `import`.

- The architecture is read from the shapes; heads, which no shape tells, from config or width.
- The encoder is taken, and the classifier where there is one; what is left over is listed.
- What would make the outputs others is refused, in one line.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from m3video.config import ClipConfig, one_line
from m3video.config.weights import ImportConfig
from m3video.errors import CheckpointError, ConfigError
from m3video.model import convert
from m3video.model.checkpoint import load_weights, save_model
from m3video.model.classifier import Classifier
from m3video.model.hf import FolderConfig, read_folder
from m3video.model.vit import VisionTransformer, sine_cosine_positions
from m3video.model.weight_files import PATCH_EMBED, State, read_weights, sort_official

_HEADS = {1280: 16, 1408: 16, 1664: 16}
"""Of the published widths whose heads are not 64 wide (H; giant and gigantic of VideoMAE V2)."""
_NORM_EPS = 1e-6


@dataclass(frozen=True)
class Imported:
    """What became of foreign weights.

    Attributes:
        model: the encoder or the classifier, in evaluation mode.
        used: tensors that were taken.
        left_over: names of those that were not.
        missing: names, in our terms, of what the source does not have and is zero.
    """

    model: VisionTransformer | Classifier
    used: int
    left_over: tuple[str, ...]
    missing: tuple[str, ...]

    def describe(self) -> str:
        """A few lines for the terminal."""
        model = self.model
        encoder = model.encoder if isinstance(model, Classifier) else model
        clip, shape = encoder.clip, encoder.architecture
        height, width = clip.size
        kind, norm = "encoder", "" if shape["final_norm"] else ", without a last norm"
        if isinstance(model, Classifier):
            kind, norm = f"classifier of {len(model.labels)} classes", ""
        return "\n".join(
            [
                f"{kind}: width {shape['width']}, depth {shape['depth']}, heads {shape['heads']}"
                f"{norm}",
                f"clips: {clip.frames} frames, {clip.stride} apart, of {height}×{width}; tokens of "
                f"{clip.tubelet}×{clip.patch}×{clip.patch}",
                f"used: {self.used} tensors",
                f"left over: {_groups(self.left_over)}",
                f"missing, so zero: {_groups(self.missing)}",
            ]
        )


def import_weights(config: ImportConfig) -> Imported:
    """Turn weights of VideoMAE, VideoMAE V2, MME, TrackMAE or transformers into a model directory.

    Args:
        config: the source, where the model directory is written, and what no file tells.

    Returns:
        The model, and what of the source was used.

    Raises:
        CheckpointError: the source cannot be read, is another model, or would compute something
            else here; or the model directory cannot be written.
        ConfigError: an option contradicts the source.
    """
    out = config.out
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ConfigError(f"out {out}: there is something already; choose another --out")
    if not config.source.exists():
        raise CheckpointError(f"{config.source}: no such file or folder")
    imported = _from_folder(config) if config.source.is_dir() else _from_file(config)
    model = imported.model
    encoder = model.encoder if isinstance(model, Classifier) else model
    save_model(model, out, encoder.clip)
    return imported


def _from_file(config: ImportConfig) -> Imported:
    """An official file."""
    path = config.source
    sorted_ = sort_official(read_weights(path), path)
    kernel = sorted_.encoder[PATCH_EMBED].shape
    if len(kernel) != 5 or kernel[1] != 3 or kernel[3] != kernel[4]:
        raise CheckpointError(
            f"{path}: {PATCH_EMBED} is {list(kernel)}; a model of RGB videos with square patches "
            "has [width, 3, frames, patch, patch]"
        )
    weights = convert.finetuned_encoder(sorted_.encoder)
    clip = _clip(
        {
            "frames": config.frames or 16,
            "size": config.size or (224, 224),
            "stride": config.stride or 4,
            "tubelet": kernel[2],
            "patch": kernel[4],
        }
    )
    if sorted_.positions is not None:
        _check_positions(sorted_.positions, clip, path)
    encoder = _encoder(weights, clip, config.heads or _heads(kernel[0]), _NORM_EPS, path)
    missing = _load_encoder(encoder, weights, path)
    if not sorted_.head:
        if config.labels is not None:
            raise ConfigError(f"labels {config.labels}: {path} has no classifier (fc_norm, head)")
        return Imported(encoder.eval(), len(sorted_.encoder), sorted_.left_over, missing)
    classifier = _classifier(encoder, _head_names(sorted_.head, "head"), config.labels, None, path)
    used = len(sorted_.encoder) + len(sorted_.head)
    return Imported(classifier, used, sorted_.left_over, missing)


def _from_folder(config: ImportConfig) -> Imported:
    """A folder that transformers wrote."""
    path = config.source
    state, folder = read_folder(path)
    clip = _clip(_agreeing(config, folder))
    weights = convert.transformers_encoder(state)
    norm_eps = folder.layer_norm_eps
    encoder = _encoder(weights, clip, folder.heads, norm_eps, path)
    missing = _load_encoder(encoder, weights, path)
    parts = ("videomae.", "embeddings.", "encoder.layer.", "layernorm.")
    others = {name for name in state if not name.startswith(parts)}
    head = {name: state[name] for name in others if name.startswith(("fc_norm.", "classifier."))}
    if len(head) < 4:
        if config.labels is not None:
            raise ConfigError(f"labels {config.labels}: {path} has no classifier on the mean")
        used = len(state) - len(others)
        return Imported(encoder.eval(), used, tuple(sorted(others)), missing)
    classifier = _classifier(
        encoder, _head_names(head, "classifier"), config.labels, folder.labels, path
    )
    classifier.norm.eps = folder.head_norm_eps
    left_over = tuple(sorted(others - head.keys()))
    return Imported(classifier, len(state) - len(left_over), left_over, missing)


def _agreeing(config: ImportConfig, folder: FolderConfig) -> dict[str, Any]:
    """The clip of a folder; options may repeat what it says, and only the stride is free."""
    for name, given, known in (
        ("frames", config.frames, folder.clip["frames"]),
        ("size", config.size, folder.clip["size"]),
        ("heads", config.heads, folder.heads),
    ):
        if given is not None and given != known:
            raise ConfigError(f"{name} {given}: config.json of {config.source} says {known}")
    return {**folder.clip, "stride": config.stride or folder.clip["stride"]}


def _clip(settings: dict[str, Any]) -> ClipConfig:
    try:
        return ClipConfig.model_validate(settings)
    except ValidationError as error:
        raise ConfigError(
            f"{one_line(error)}; give the --frames and --size that the weights were trained on"
        ) from error


def _heads(width: int) -> int:
    heads = _HEADS.get(width, width // 64)
    if width not in _HEADS and width % 64:
        raise ConfigError(f"width {width} is of no published model; give its attention --heads")
    return heads


def _encoder(
    weights: State, clip: ClipConfig, heads: int, norm_eps: float, path: Path
) -> VisionTransformer:
    """An encoder of the architecture that the shapes tell, with random weights."""
    width = len(weights["patch_embed.weight"])
    numbers = {
        int(found[1])
        for name in weights
        if (found := re.match(r"blocks\.(\d+)\.", name)) is not None
    }
    if not numbers:
        raise CheckpointError(f"{path}: the encoder has no blocks; is the file whole?")
    # Before an encoder of this depth and width is built, which a strange file could make endless.
    lost = next(number for number in itertools.count() if number not in numbers)
    if lost < max(numbers):
        raise CheckpointError(
            f"{path}: has block {max(numbers)} and no block {lost}; is the file whole?"
        )
    hidden = _hidden(weights, width, path)
    try:
        with torch.random.fork_rng(devices=[]):  # the random weights are overwritten
            encoder = VisionTransformer(
                **clip.model_dump(exclude={"stride"}),
                width=width,
                depth=lost,
                heads=heads,
                mlp_ratio=_ratio(hidden, width),
                norm_eps=norm_eps,
                final_norm="norm.weight" in weights,
            )
    except ConfigError as error:
        raise ConfigError(f"{error}; give the right attention --heads") from error
    encoder.clip = clip
    return encoder


def _hidden(weights: State, width: int, path: Path) -> int:
    """Width of the MLPs, once the first block has the shapes of an encoder of this width."""
    for name, rows in (("attention.qkv.weight", 3 * width), ("mlp.fc1.weight", None)):
        tensor = weights.get(f"blocks.0.{name}")
        if tensor is None:
            raise CheckpointError(f"{path}: the first block has no {name}; is the file whole?")
        if tensor.ndim != 2 or tensor.shape[1] != width or rows not in (None, len(tensor)):
            raise CheckpointError(
                f"{path}: {name} of the first block is {list(tensor.shape)}, of an encoder of "
                f"width {width} it would be [{rows or 'any number'}, {width}]"
            )
    return len(weights["blocks.0.mlp.fc1.weight"])


def _ratio(hidden: int, width: int) -> float:
    """hidden / width, so that it gives `hidden` again when it is multiplied and cut off."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf)


def _load_encoder(encoder: VisionTransformer, weights: State, path: Path) -> tuple[str, ...]:
    """Load, and tell which attention biases were not there; a model without any has zeros."""
    wanted = encoder.state_dict()
    biases = [name for name in wanted if name.endswith(("q_bias", "v_bias"))]
    missing = [name for name in biases if name not in weights]
    if len(missing) < len(biases):  # some are there: a file of which a part is lost
        missing = []
    zeros = {name: torch.zeros_like(wanted[name]) for name in missing}
    load_weights(encoder, {**weights, **zeros}, path)
    return tuple(missing)


def _check_positions(table: Tensor, clip: ClipConfig, path: Path) -> None:
    """Refuse positions that are not those which an encoder for these clips computes."""
    if table.ndim < 2 or table.numel() != math.prod(table.shape[-2:]):
        raise CheckpointError(
            f"{path}: its pos_embed is {list(table.shape)}; [1, tokens, width] is wanted"
        )
    count, width = table.shape[-2:]
    if (
        table.float().reshape(count, width) - sine_cosine_positions(count, width)
    ).abs().max() > 0.02:
        raise CheckpointError(
            f"{path}: its pos_embed was learned or interpolated; only fixed sine-cosine positions "
            "can be imported"
        )
    if count != clip.token_count:
        height, across = clip.size
        raise ConfigError(
            f"{path}: its pos_embed is for {count} tokens, and {clip.frames} frames of "
            f"{height}×{across} have {clip.token_count}; give --frames and --size"
        )


def _head_names(head: State, linear: str) -> State:
    return {
        "norm.weight": head["fc_norm.weight"],
        "norm.bias": head["fc_norm.bias"],
        "head.weight": head[f"{linear}.weight"],
        "head.bias": head[f"{linear}.bias"],
    }


def _classifier(
    encoder: VisionTransformer,
    head: State,
    file: Path | None,
    known: tuple[str, ...] | None,
    path: Path,
) -> Classifier:
    """The encoder with norm and linear layer, and the names of its classes."""
    if head["head.weight"].ndim != 2:
        shape = list(head["head.weight"].shape)
        raise CheckpointError(f"{path}: its classifier is {shape}; [classes, width] is wanted")
    count = len(head["head.weight"])
    if file is not None:
        labels = read_labels(file, count)
    elif known is not None and len(known) == count:
        labels = known
    else:
        labels = tuple(str(number) for number in range(count))
    with torch.random.fork_rng(devices=[]):
        classifier = Classifier(encoder, labels)
    inner = {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    load_weights(classifier, {**inner, **head}, path)
    return classifier.eval()


def read_labels(path: Path, count: int) -> tuple[str, ...]:
    """Names of classes: one a line, or JSON, a list or an object {"id": "name"}.

    Args:
        path: the file.
        count: how many there must be.

    Raises:
        ConfigError: cannot be read, another number of names, or a name twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        parse = _json_labels if path.suffix == ".json" else _line_labels
        labels = parse(text)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"labels {path}: cannot be read as names of classes: {reason}") from error
    if len(labels) != count:
        raise ConfigError(f"labels {path}: {len(labels)} names for a classifier of {count} classes")
    twice = [name for name, times in Counter(labels).items() if times > 1]
    if twice:
        raise ConfigError(f"labels {path}: {twice[0]!r} is the name of two classes")
    return labels


def _line_labels(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def _json_labels(text: str) -> tuple[str, ...]:
    value = json.loads(text)
    if isinstance(value, dict):
        numbers = {int(key): name for key, name in value.items()}
        if sorted(numbers) != list(range(len(numbers))):
            raise ValueError("the ids of the classes must be 0, 1, 2, …")
        value = [numbers[number] for number in range(len(numbers))]
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ValueError('a list of names, or {"0": "name", …} is wanted')
    return tuple(value)


def _groups(names: tuple[str, ...]) -> str:
    """Names by their first part, with counts: decoder (64), mask_token (1)."""
    if not names:
        return "nothing"
    counts = Counter(name.split(".")[0] for name in names)
    return ", ".join(f"{name} ({count})" for name, count in counts.items())
