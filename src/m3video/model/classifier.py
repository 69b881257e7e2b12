"""Encoder -> classes: the classifier that is fine-tuned."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from m3video.model.vit import VisionTransformer


class Classifier(nn.Module):
    """Clip -> logits: encoder, mean over all tokens, LayerNorm, linear layer.

    The norm stands behind the mean and not before it, as in VideoMAE (arXiv 2203.12602, appendix);
    that of the encoder, where it has one, is moved there with its weights. The linear layer starts
    at zero.

    Args:
        encoder: becomes a part of the classifier, and loses its norm to it.
        labels: the names of the classes.
    """

    def __init__(self, encoder: VisionTransformer, labels: tuple[str, ...]) -> None:
        super().__init__()
        self.labels = labels
        self.norm: nn.LayerNorm = encoder.take_norm()
        self.encoder = encoder
        self.head = nn.Linear(encoder.width, len(labels))
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, clip: Tensor) -> Tensor:
        """[B, 3, T, H, W] -> [B, C]."""
        return cast(Tensor, self.head(self.norm(self.encoder.mean(clip))))
