"""One step of training a detector: binary cross-entropy of every action of every box."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from m3video.config import DetectTrainConfig
from m3video.model.detector import Detector
from m3video.model.vit import VisionTransformer
from m3video.train.detect_clips import ACTIONS, BOXES, PRESENT
from m3video.train.finetune import layer_groups
from m3video.train.step import StepResult, split, step_seed
from m3video.video.augment import normalise
from m3video.video.loader import Clips


class DetectorTrainer:
    """Detector and optimiser of a run, and how they take a step.

    Attributes:
        model: the detector, not compiled; its weights are what is saved.
        optimizer: AdamW, a group a layer.
        device: where.
    """

    def __init__(
        self,
        config: DetectTrainConfig,
        encoder: VisionTransformer,
        labels: tuple[str, ...],
        device: torch.device,
    ) -> None:
        self.config = config
        self.device = device
        settings = config.train
        torch.manual_seed(settings.seed)
        encoder.set_drop_path(settings.drop_path)
        self.model = Detector(encoder, labels).to(device).train()
        groups = layer_groups(
            self.model, layer_decay=settings.layer_decay, weight_decay=settings.weight_decay
        )
        fused = device.type in {"cpu", "cuda"}
        self.optimizer = torch.optim.AdamW(groups, betas=settings.betas, fused=fused)
        self._forward: Any = torch.compile(self.model) if settings.compile else self.model
        precision = settings.precision
        self._bf16 = precision == "bf16" or (precision == "auto" and device.type != "cpu")

    def step(self, clips: Clips, number: int, rate: float) -> StepResult:
        """Train on a batch; leave model and optimiser alone if loss or gradient is not finite.

        Args:
            clips: a batch of `TrainingKeyFrames`, on any device.
            number: of the step; anything random in it depends on this and the seed alone.
            rate: learning rate of the head.
        """
        torch.manual_seed(step_seed(self.config.train.seed, number))
        loss = self._accumulate(clips.to(self.device, non_blocking=True))
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = get_total_norm(gradients)
        total, grad_norm = torch.stack([loss, norm]).tolist()
        if math.isfinite(total) and math.isfinite(grad_norm):
            limit = self.config.train.clip_grad
            if limit is not None:
                clip_grads_with_norm_(self.model.parameters(), limit, norm)
            for group in self.optimizer.param_groups:
                group["lr"] = rate * group["lr_scale"]
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return StepResult(total, {"binary_cross_entropy": total}, grad_norm)

    def _accumulate(self, clips: Clips) -> Tensor:
        """Add up the gradients of all micro-batches; gives the mean over the batch's boxes.

        Micro-batches may hold unequal numbers of boxes: each counts by its share.
        """
        count = clips.extras[PRESENT].sum()
        total = torch.zeros((), device=self.device)
        for part in split(clips, self.config.train.accumulate):
            present = part.extras[PRESENT]
            rows = present.nonzero()[:, 0]
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16):
                logits = self._forward(normalise(part.frames), part.extras[BOXES][present], rows)
            loss = nn.functional.binary_cross_entropy_with_logits(
                logits.float(), part.extras[ACTIONS][present], reduction="none"
            )
            share = loss.mean(1).sum() / count
            torch.autograd.backward(share)
            total += share.detach()
        return total
