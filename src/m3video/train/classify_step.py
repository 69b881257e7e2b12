"""One step of fine-tuning: erase, mix, cross-entropy, update at the rate of each layer."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from m3video.config import FinetuneConfig
from m3video.model.classifier import Classifier
from m3video.model.vit import VisionTransformer
from m3video.train.augment import ERASED
from m3video.train.checkpoint import part_of
from m3video.train.ema import AVERAGE, add_average, update_average
from m3video.train.mixing import draw_mix, mix_clips, mix_labels
from m3video.train.step import step_seed
from m3video.train.tuning import TuningTrainer
from m3video.train.world import ALONE, World
from m3video.video.augment import normalise
from m3video.video.erasing import erase
from m3video.video.loader import Clips


class ClassifierTrainer(TuningTrainer[Classifier]):
    """Classifier and optimiser of a run; the average of the weights, if wanted, is a part of it."""

    loss_name = "cross_entropy"

    def __init__(
        self,
        config: FinetuneConfig,
        encoder: VisionTransformer,
        labels: tuple[str, ...],
        device: torch.device,
        world: World = ALONE,
    ) -> None:
        torch.manual_seed(config.train.seed)
        model = Classifier(encoder, labels)
        self._average = None if config.train.ema is None else add_average(model)
        super().__init__(config, model, device, world)
        self.config = config

    @property
    def result(self) -> Classifier:
        """What is saved and tested: the average of the weights where there is one."""
        return self.model if self._average is None else self._average

    def result_weights(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """The state dict of `result`, out of that of `model`."""
        prefix = f"{AVERAGE}."
        if self._average is not None:
            return part_of(weights, prefix)
        return weights

    @torch.no_grad()
    def batch(self, clips: Clips, number: int) -> tuple[Tensor, Tensor]:
        """What a step trains on: clips [B · repeats, 3, T, H, W] and labels [B · repeats, C].

        What is drawn depends on the run's seed and the step's number.
        """
        settings, repeats = self.config.augment, clips.frames.shape[1]
        inputs = normalise(clips.frames.to(self.device, non_blocking=True).flatten(0, 1))
        # By the place in the batch of all processes, so that their number changes nothing.
        places = range(self.world.rank * len(inputs), (self.world.rank + 1) * len(inputs))
        seeds = [step_seed(self.seed, number, place) for place in places]
        erase(inputs, clips.extras[ERASED].flatten(0, 1).tolist(), seeds)
        labels = clips.label.to(self.device, non_blocking=True).repeat_interleave(repeats)
        truth = nn.functional.one_hot(labels, len(self.model.labels)).float()
        mix = draw_mix(
            (inputs.shape[-2], inputs.shape[-1]),
            mixup=settings.mixup,
            cutmix=settings.cutmix,
            cutmix_share=settings.cutmix_share,
            rng=np.random.default_rng((self.config.train.seed, number)),
        )
        # A shift of `repeats` mixes samples of different videos: each with one of the next video.
        others = torch.cat([inputs[repeats:], self.world.next_part(inputs[:repeats])])
        after = torch.cat([truth[repeats:], self.world.next_part(truth[:repeats])])
        return mix_clips(inputs, others, mix), mix_labels(truth, after, mix)

    def gradients(self, clips: Clips, step: int) -> Tensor:
        """Of equal micro-batches of what `AugmentSamples` has seen; gives the mean loss."""
        inputs, truth = self.batch(clips, step)
        parts = self.config.train.accumulate
        smoothing = self.config.train.label_smoothing
        total = torch.zeros((), device=self.device)
        for number, (clip, labels) in enumerate(
            zip(inputs.chunk(parts), truth.chunk(parts), strict=True), start=1
        ):
            self.begin(step, range(number * len(clip))[-len(clip) :], len(inputs))
            with self.parallel.last(number == parts):
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                    logits = self.parallel.forward(clip)
                loss = nn.functional.cross_entropy(
                    logits.float(), labels, label_smoothing=smoothing
                )
                share = loss / (parts * self.world.size)
                self.parallel.backward(share)
            total += share.detach()
        return self.world.sum(total)

    def updated(self, taken: Tensor) -> None:
        """Let the average follow."""
        if self._average is not None and self.config.train.ema is not None:
            update_average(self._average, self.model, self.config.train.ema, taken)
