"""A model -> a folder that transformers' VideoMAE loads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from m3video.errors import ConfigError
from m3video.model import convert
from m3video.model.checkpoint import CONFIG, WEIGHTS
from m3video.model.classifier import Classifier
from m3video.model.export import Model, check_deviation, deviation, encoder_of
from m3video.model.hf import HEAD_NORM_EPS, OURS
from m3video.model.vit import VisionTransformer, sine_cosine_positions
from m3video.video.augment import MEAN, STD
from m3video.whole import write_json, written_whole


def write_transformers(model: Model, out: Path) -> tuple[float, str]:
    """Write config.json, model.safetensors and preprocessor_config.json.

    An encoder becomes a VideoMAEModel, a classifier a VideoMAEForVideoClassification.

    Returns:
        The largest difference of the outputs, as a share of ours, and what a user must know of it.

    Raises:
        ConfigError: transformers is not installed, or the encoder was resized.
        CheckpointError: transformers computes something else.
    """
    transformers = _transformers()
    encoder = encoder_of(model)
    _check_positions(encoder)
    settings = _config(encoder)
    state = convert.to_transformers(encoder.state_dict(), _kernel(encoder))
    if isinstance(model, Classifier):
        names = dict(enumerate(model.labels))
        settings["id2label"], settings["label2id"] = names, {v: k for k, v in names.items()}
        settings["use_mean_pooling"] = True
        settings[OURS]["head_norm_eps"] = model.norm.eps
        theirs = transformers.VideoMAEForVideoClassification(
            transformers.VideoMAEConfig(**settings)
        )
        state = {f"videomae.{name}": tensor for name, tensor in state.items()}
        state |= {f"fc_norm.{k}": v for k, v in model.norm.state_dict().items()}
        state |= {f"classifier.{k}": v for k, v in model.head.state_dict().items()}
    else:
        theirs = transformers.VideoMAEModel(transformers.VideoMAEConfig(**settings))
    theirs.load_state_dict(state)
    theirs.eval()
    found, note = _compare(model, theirs)
    with written_whole(out) as aside:
        aside.mkdir()
        with _no_progress_bars(transformers):
            theirs.save_pretrained(aside)
        mode = (aside / CONFIG).stat().st_mode  # safetensors makes files for the owner alone
        (aside / WEIGHTS).chmod(mode)
        write_json(aside / "preprocessor_config.json", _preprocessor(encoder))
    return found, note


def _transformers() -> Any:
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise ConfigError(
            "format hf: transformers is not installed; pip install 'm3video[hf]'"
        ) from error
    return transformers


@contextmanager
def _no_progress_bars(transformers: Any) -> Iterator[None]:
    logging = transformers.utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _preprocessor(encoder: VisionTransformer) -> dict[str, Any]:
    """What makes transformers' image processor prepare frames for this encoder.

    It resizes the shorter edge and cuts out the middle: of square clips the largest centred crop,
    as ours; of others a part of it, since it cannot fit an aspect.
    """
    height, width = encoder.clip.size
    return {
        "image_processor_type": "VideoMAEImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": max(height, width)},
        "resample": 2,  # bilinear
        "do_center_crop": True,
        "crop_size": {"height": height, "width": width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(MEAN),
        "image_std": list(STD),
    }


def _check_positions(encoder: VisionTransformer) -> None:
    table = sine_cosine_positions(encoder.clip.token_count, encoder.width)
    if not torch.allclose(encoder.positions, table, atol=1e-6):
        t, h, w = encoder.position_grid
        clip = encoder.clip
        raise ConfigError(
            f"format hf: the encoder was resized from {t * clip.tubelet} frames of "
            f"{h * clip.patch}×{w * clip.patch}, and transformers computes positions of its own; "
            "export it before it is resized, or use another format"
        )


def _kernel(encoder: VisionTransformer) -> tuple[int, int, int]:
    clip = encoder.clip
    return clip.tubelet, clip.patch, clip.patch


def _config(encoder: VisionTransformer) -> dict[str, Any]:
    """Arguments of VideoMAEConfig."""
    clip, shape = encoder.clip, encoder.architecture
    height, width = clip.size
    return {
        "image_size": height if height == width else [height, width],
        "patch_size": clip.patch,
        "num_frames": clip.frames,
        "tubelet_size": clip.tubelet,
        "hidden_size": shape["width"],
        "num_hidden_layers": shape["depth"],
        "num_attention_heads": shape["heads"],
        "intermediate_size": len(encoder.state_dict()["blocks.0.mlp.fc1.weight"]),
        "layer_norm_eps": shape["norm_eps"],
        "use_mean_pooling": not shape["final_norm"],
        OURS: {"stride": clip.stride},
    }


def _compare(model: Model, theirs: nn.Module) -> tuple[float, str]:
    """Deviation, and a note where it comes from the epsilon that transformers does not let set."""

    def outputs(clips: Tensor) -> Tensor:
        found = theirs(clips.transpose(1, 2))
        tensor: Tensor = found.logits if isinstance(model, Classifier) else found.last_hidden_state
        return tensor

    if not isinstance(model, Classifier) or model.norm.eps == HEAD_NORM_EPS:
        found = deviation(model, outputs)
        check_deviation(found, 1e-5, "transformers")
        return found, ""
    ours, model.norm.eps = model.norm.eps, HEAD_NORM_EPS
    try:
        check_deviation(deviation(model, outputs), 1e-5, "transformers")
    finally:
        model.norm.eps = ours
    note = (
        f"transformers' classifier has {HEAD_NORM_EPS:g} in the norm before the head, this one "
        f"{ours:g}: its logits differ by as much; m3video import restores it"
    )
    return deviation(model, outputs), note
