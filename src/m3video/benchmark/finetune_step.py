"""Our fine-tuning step against that of transformers' VideoMAEForVideoClassification, same size.

- Same weights, clips, labels, and arithmetic (SDPA); AdamW in both, ours with a group a layer.
- Timed: forward, cross-entropy, backward, AdamW, without augmentation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from m3video.config import ClipConfig, FinetuneTrain
from m3video.errors import ConfigError
from m3video.model import convert
from m3video.model.checkpoint import load_weights
from m3video.model.classifier import Classifier
from m3video.model.vit import SIZES, build_encoder
from m3video.train.finetune import layer_groups
from m3video.video.augment import normalise

CLASSES = 400

Losses = dict[str, Callable[[], Tensor]]
Groups = dict[str, list[dict[str, Any]]]


def finetune_sides(
    size: str, clip: ClipConfig, batch: int, device: torch.device
) -> tuple[dict[str, nn.Module], Losses, Groups]:
    """Both models with the same weights, the loss of each, and what AdamW trains of it.

    Args:
        size: of the encoder, one of `SIZES`.
        clip: T, height and width.
        batch: clips.
        device: where.

    Raises:
        ConfigError: transformers is not installed.
    """
    generator = torch.Generator().manual_seed(0)
    shape = (batch, clip.frames, *clip.size, 3)
    frames = torch.randint(256, shape, dtype=torch.uint8, generator=generator).to(device)
    truth = torch.randint(CLASSES, (batch,), generator=generator).to(device)
    inputs = normalise(frames)
    their_inputs = inputs.transpose(1, 2).contiguous()
    theirs = _transformers_classifier(size, clip)
    ours = Classifier(build_encoder(clip, size), tuple(str(n) for n in range(CLASSES)))
    state = theirs.state_dict()
    encoder = convert.transformers_encoder(state)
    parts = {f"encoder.{name}": tensor for name, tensor in encoder.items()}
    for name in ("weight", "bias"):
        parts[f"norm.{name}"] = state[f"fc_norm.{name}"]
        parts[f"head.{name}"] = state[f"classifier.{name}"]
    load_weights(ours, parts, "transformers")
    ours, theirs = ours.to(device).train(), theirs.to(device)

    def our_loss() -> Tensor:
        return nn.functional.cross_entropy(ours(inputs), truth)

    def their_loss() -> Tensor:
        loss: Tensor = theirs(their_inputs, labels=truth).loss
        return loss

    train = FinetuneTrain()
    groups = layer_groups(ours, layer_decay=train.layer_decay, weight_decay=train.weight_decay)
    for group in groups:
        group["lr"] = train.lr * group["lr_scale"]
    everything: list[dict[str, Any]] = [{"params": list(theirs.parameters()), "lr": train.lr}]
    return (
        {"ours": ours, "transformers": theirs},
        {"ours": our_loss, "transformers": their_loss},
        {"ours": groups, "transformers": everything},
    )


def _transformers_classifier(size: str, clip: ClipConfig) -> nn.Module:
    try:
        from transformers import VideoMAEConfig, VideoMAEForVideoClassification
    except ImportError as error:
        raise ConfigError(
            "transformers, which this compares with, is not installed; "
            "install it with: pip install 'm3video[hf]'"
        ) from error
    width, depth, heads, hidden = SIZES[size]
    settings: dict[str, Any] = {
        "image_size": list(clip.size),
        "patch_size": clip.patch,
        "num_frames": clip.frames,
        "tubelet_size": clip.tubelet,
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "intermediate_size": hidden,
        "layer_norm_eps": 1e-6,
        "use_mean_pooling": True,
        "num_labels": CLASSES,
        "attn_implementation": "sdpa",
    }
    model: nn.Module = VideoMAEForVideoClassification(VideoMAEConfig(**settings))
    return model.train()
