"""Training a whole encoder and a head: what fine-tuning and detection have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from m3video.config import DetectTrainConfig, FinetuneConfig
from m3video.model.classifier import Classifier
from m3video.model.detector import Detector
from m3video.train.finetune import layer_groups
from m3video.train.parallel import Parallel
from m3video.train.step import step_seed
from m3video.train.update import StepResult, update
from m3video.train.world import World
from m3video.video.loader import Clips

M = TypeVar("M", Classifier, Detector)


class TuningTrainer(ABC, Generic[M]):
    """Model and optimiser of a run, and how they take a step.

    Attributes:
        model: not compiled; its weights are what is saved.
        optimizer: AdamW, a group a layer.
        device: where.
        bf16: whether in bf16 autocast.
    """

    loss_name: ClassVar[str]

    def __init__(
        self,
        config: FinetuneConfig | DetectTrainConfig,
        model: M,
        device: torch.device,
        world: World,
    ) -> None:
        settings = config.train
        self.device = device
        self.world = world
        self.seed, self.clip_grad = settings.seed, settings.clip_grad
        model.encoder.set_drop_path(settings.drop_path)
        self.model: M = model.train()
        self.parallel = Parallel(self.model, settings, world, device)
        groups = layer_groups(
            self.model, layer_decay=settings.layer_decay, weight_decay=settings.weight_decay
        )
        fused = device.type in {"cpu", "cuda"}
        self.optimizer = torch.optim.AdamW(groups, betas=settings.betas, fused=fused)
        precision = settings.precision
        self.bf16 = precision == "bf16" or (precision == "auto" and device.type != "cpu")

    def step(self, clips: Clips, number: int, rate: float) -> StepResult:
        """Train on a batch; leave model and optimiser alone if loss or gradient is not finite.

        Args:
            clips: a batch as the run's source gives it, on any device.
            number: of the step; anything random in it depends on this and the seed alone.
            rate: learning rate of the head.
        """
        loss = self.gradients(clips, number)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]
        losses = {self.loss_name: loss}
        result, taken = update(self.model, self.optimizer, loss, losses, self.clip_grad)
        self.updated(taken)
        return result

    def begin(self, number: int, samples: range, count: int) -> None:
        """Before a micro-batch: what is drawn is that of the whole batch, however it is cut.

        Args:
            number: of the step.
            samples: places of the micro-batch's samples among this process's.
            count: samples of this process.
        """
        torch.manual_seed(step_seed(self.seed, number))
        self.parallel.draw(samples, count)

    @abstractmethod
    def gradients(self, clips: Clips, step: int) -> Tensor:
        """Add up the gradients of a batch's micro-batches; gives the loss of the whole batch."""

    def updated(self, taken: Tensor) -> None:
        """The weights have just changed, if `taken` (bool, a scalar on the device)."""
