"""One step of fine-tuning: erase, mix, cross-entropy, update at the rate of each layer."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from m3video.config import FinetuneConfig
from m3video.model.classifier import Classifier
from m3video.model.vit import VisionTransformer
from m3video.train.augment import ERASED
from m3video.train.ema import add_average, update_average
from m3video.train.finetune import layer_groups
from m3video.train.mixing import draw_mix, mix_clips, mix_labels
from m3video.train.step import StepResult, step_seed
from m3video.video.augment import normalise
from m3video.video.erasing import erase
from m3video.video.loader import Clips


class ClassifierTrainer:
    """Classifier and optimiser of a run, and how they take a step.

    Attributes:
        model: the classifier, not compiled, with the average of its weights as a part if wanted.
        optimizer: AdamW, a group a layer.
        device: where.
        bf16: whether in bf16 autocast.
    """

    def __init__(
        self,
        config: FinetuneConfig,
        encoder: VisionTransformer,
        labels: tuple[str, ...],
        device: torch.device,
    ) -> None:
        self.config = config
        self.device = device
        settings = config.train
        torch.manual_seed(settings.seed)
        encoder.set_drop_path(settings.drop_path)
        self.model = Classifier(encoder, labels).to(device).train()
        self._average = None if settings.ema is None else add_average(self.model)
        groups = layer_groups(
            self.model, layer_decay=settings.layer_decay, weight_decay=settings.weight_decay
        )
        fused = device.type in {"cpu", "cuda"}
        self.optimizer = torch.optim.AdamW(groups, betas=settings.betas, fused=fused)
        self._forward: Any = torch.compile(self.model) if settings.compile else self.model
        precision = settings.precision
        self.bf16 = precision == "bf16" or (precision == "auto" and device.type != "cpu")

    @property
    def result(self) -> Classifier:
        """What is saved and tested: the average of the weights where there is one."""
        return self.model if self._average is None else self._average

    def step(self, clips: Clips, number: int, rate: float) -> StepResult:
        """Train on a batch; leave model and optimiser alone if loss or gradient is not finite.

        Args:
            clips: a batch that `AugmentSamples` has seen, on any device.
            number: of the step; anything random in it depends on this and the seed alone.
            rate: learning rate of the head.
        """
        torch.manual_seed(step_seed(self.config.train.seed, number))
        loss = self._accumulate(*self.batch(clips, number))
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
            if self._average is not None and self.config.train.ema is not None:
                update_average(self._average, self.model, self.config.train.ema)
        self.optimizer.zero_grad(set_to_none=True)
        return StepResult(total, {"cross_entropy": total}, grad_norm)

    @torch.no_grad()
    def batch(self, clips: Clips, number: int) -> tuple[Tensor, Tensor]:
        """What a step trains on: clips [B · repeats, 3, T, H, W] and labels [B · repeats, C].

        Draws from torch's generator.
        """
        settings, repeats = self.config.augment, clips.frames.shape[1]
        inputs = normalise(clips.frames.to(self.device, non_blocking=True).flatten(0, 1))
        erase(inputs, clips.extras[ERASED].flatten(0, 1).tolist())
        labels = clips.label.to(self.device).repeat_interleave(repeats)
        truth = nn.functional.one_hot(labels, len(self.model.labels)).float()
        mix = draw_mix(
            (inputs.shape[-2], inputs.shape[-1]),
            mixup=settings.mixup,
            cutmix=settings.cutmix,
            cutmix_share=settings.cutmix_share,
            rng=np.random.default_rng((self.config.train.seed, number)),
        )
        # A shift of `repeats` mixes samples of different videos.
        return mix_clips(inputs, mix, repeats), mix_labels(truth, mix, repeats)

    def _accumulate(self, inputs: Tensor, truth: Tensor) -> Tensor:
        """Add up the gradients of equal micro-batches; gives the loss of the whole batch."""
        parts = self.config.train.accumulate
        smoothing = self.config.train.label_smoothing
        total = torch.zeros((), device=self.device)
        for clip, labels in zip(inputs.chunk(parts), truth.chunk(parts), strict=True):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                logits = self._forward(clip)
            loss = nn.functional.cross_entropy(logits.float(), labels, label_smoothing=smoothing)
            torch.autograd.backward(loss / parts)
            total += loss.detach() / parts
        return total
