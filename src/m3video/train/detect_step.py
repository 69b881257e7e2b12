"""One step of training a detector: binary cross-entropy of every action of every box."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from m3video.config import DetectTrainConfig
from m3video.model.detector import Detector
from m3video.model.vit import VisionTransformer
from m3video.train.detect_clips import ACTIONS, BOXES, PRESENT
from m3video.train.step import split
from m3video.train.tuning import TuningTrainer
from m3video.train.world import ALONE, World
from m3video.video.augment import normalise
from m3video.video.loader import Clips


class DetectorTrainer(TuningTrainer[Detector]):
    """Detector and optimiser of a run."""

    loss_name = "binary_cross_entropy"

    def __init__(
        self,
        config: DetectTrainConfig,
        encoder: VisionTransformer,
        labels: tuple[str, ...],
        device: torch.device,
        world: World = ALONE,
    ) -> None:
        torch.manual_seed(config.train.seed)
        super().__init__(config, Detector(encoder, labels), device, world)
        self._parts = config.train.accumulate

    def gradients(self, clips: Clips, step: int) -> Tensor:
        """Of the micro-batches of `TrainingKeyFrames`; gives the mean loss over the batch's boxes.

        Micro-batches may hold unequal numbers of boxes: each counts by its share.
        """
        clips = clips.to(self.device, non_blocking=True)
        count = self.world.sum(clips.extras[PRESENT].sum())
        total = torch.zeros((), device=self.device)
        for number, part in enumerate(split(clips, self._parts), start=1):
            samples = range(number * len(part.index))[-len(part.index) :]
            self.begin(step, samples, len(clips.index))
            present = part.extras[PRESENT]
            rows = present.nonzero()[:, 0]
            boxes = part.extras[BOXES][present]
            with self.parallel.last(number == self._parts):
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                    logits = self.parallel.forward(normalise(part.frames), boxes, rows)
                loss = nn.functional.binary_cross_entropy_with_logits(
                    logits.float(), part.extras[ACTIONS][present], reduction="none"
                )
                share = loss.mean(1).sum() / count
                self.parallel.backward(share)
            total += share.detach()
        return self.world.sum(total)
