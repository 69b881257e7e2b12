"""Short fine-tuning in memory, as studies do; `classify` is the full recipe.

- Blocks learn the slower the farther they are from the classifier (layer-wise decay, arXiv
  2106.08254), so that what was pre-trained is kept where it is most general.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from m3video.config import ShortFinetuneConfig
from m3video.errors import DivergedError
from m3video.model.classifier import Classifier
from m3video.model.detector import Detector
from m3video.model.vit import VisionTransformer
from m3video.train.labelled import LabelledClips
from m3video.train.optim import REFERENCE_BATCH, Schedule, parameter_groups
from m3video.video.augment import normalise


def finetune(
    encoder: VisionTransformer,
    train: LabelledClips,
    test: LabelledClips,
    config: ShortFinetuneConfig,
    *,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """Train an encoder on labelled clips, all its weights, and test it once, at the end.

    Args:
        encoder: becomes a part of the classifier; its weights are changed.
        train: clips to learn from; every pass is in another order.
        test: clips to be right about.
        config: how to train.
        device: where.

    Returns:
        accuracy (0 to 1), by_texture (the same of the test clips of each texture; empty where they
        have none), loss (mean over the last twentieth of the steps), train_clips, test_clips.

    Raises:
        DivergedError: the loss is not finite.
    """
    model = Classifier(encoder, train.labels).to(device).train()
    groups = layer_groups(model, layer_decay=config.layer_decay, weight_decay=config.weight_decay)
    optimizer = torch.optim.AdamW(groups, betas=config.betas, fused=True)
    schedule = Schedule(
        config.steps,
        round(config.warmup * config.steps),
        config.lr * config.batch / REFERENCE_BATCH,
        0.0,
    )
    losses = []
    for step, rows in enumerate(_batches(len(train), config), start=1):
        clip, truth = _batch(train, rows, device)
        loss = nn.functional.cross_entropy(
            model(clip), truth, label_smoothing=config.label_smoothing
        )
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            raise DivergedError(f"fine-tuning: loss is not finite in step {step}; lower its lr")
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        for group in optimizer.param_groups:
            group["lr"] = schedule(step) * group["lr_scale"]
        optimizer.step()
    hits = predict(model, test, device=device) == torch.from_numpy(test.targets)
    few = max(1, len(losses) // 20)
    return {
        "accuracy": float(hits.float().mean()),
        "by_texture": _by_texture(hits, test.textures),
        "loss": sum(losses[-few:]) / few,
        "train_clips": len(train),
        "test_clips": len(test),
    }


def layer_groups(
    model: Classifier | Detector, *, layer_decay: float, weight_decay: float
) -> list[dict[str, Any]]:
    """AdamW's groups: matrices, which decay, and others, of each layer.

    `lr_scale` is layer_decay to the power of the layers above: 0 for norm and head, 1 for the last
    block, depth + 1 for the patch embedding.
    """
    encoder = model.encoder
    top = nn.ModuleList([model.norm, model.head])
    layers: list[nn.Module] = [top, *reversed(encoder.blocks), encoder.patch_embed]
    groups: list[dict[str, Any]] = []
    for above, layer in enumerate(layers):
        for group in parameter_groups(layer, weight_decay):
            groups.append({**group, "lr": 0.0, "lr_scale": layer_decay**above})
    return [group for group in groups if group["params"]]


@torch.inference_mode()
def predict(
    model: Classifier, clips: LabelledClips, *, device: torch.device | str = "cpu", batch: int = 32
) -> Tensor:
    """Predicted classes, int64 [V]."""
    model.eval()
    rows = torch.split(torch.arange(len(clips)), batch)
    return torch.cat([model(_batch(clips, part, device)[0]).argmax(1).cpu() for part in rows])


def _batches(count: int, config: ShortFinetuneConfig) -> list[Tensor]:
    """Rows of each step: passes over all clips, each in an order of its own, cut in batches."""
    generator = torch.Generator().manual_seed(config.seed)
    passes = -(-config.steps * config.batch // count)
    order = torch.cat([torch.randperm(count, generator=generator) for _ in range(passes)])
    return list(torch.split(order, config.batch)[: config.steps])


def _batch(clips: LabelledClips, rows: Tensor, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Normalised clips [B, 3, T, H, W] and their classes [B]."""
    picked = rows.numpy()
    frames = torch.from_numpy(clips.frames[picked]).to(device)
    return normalise(frames), torch.from_numpy(clips.targets[picked]).to(device)


def _by_texture(hits: Tensor, textures: tuple[str, ...]) -> dict[str, float]:
    right: dict[str, list[bool]] = {}
    for hit, texture in zip(hits.tolist(), textures, strict=bool(textures)):
        right.setdefault(texture, []).append(hit)
    return {texture: sum(found) / len(found) for texture, found in right.items()}
