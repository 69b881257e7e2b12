"""The attentive probe: a learned query looks at all tokens of a clip, and a linear layer follows.

As in V-JEPA (arXiv 2404.08471, section 4 "frozen evaluation"): cross-attention from one learned
query, added to that query, a two-layer MLP with GELU, LayerNorm, linear.

- All learning rates and weight decays are fitted in one pass over the tokens.
- A query that is the same for all clips needs no key and no value of any token: (Wk x) · q is
  x · (Wkᵀ q), and a weighted mean of Wv x is Wv times the weighted mean of x. So a token costs
  D products a head in place of 2 D².
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from m3video.config import ProbeConfig
from m3video.model.vit import Mlp, initialise
from m3video.train.batches import threads_for
from m3video.train.linear import GridPoint, make_grid
from m3video.train.optim import parameter_groups

BATCH = 64
"""Clips a step."""
HEAD_WIDTH = 64
"""Numbers of a token that one head of the attention reads, where that divides its width."""


class AttentivePool(nn.Module):
    """Tokens -> one vector: multi-head cross-attention from one learned query."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Parameter(torch.empty(width))
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width, bias=False)  # a bias would cancel in the softmax
        self.v = nn.Linear(width, width)
        self.proj = nn.Linear(width, width)
        self.apply(initialise)
        nn.init.trunc_normal_(self.query, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, N, D] -> [B, D]."""
        h, D = self.heads, tokens.shape[-1]
        query = self.q(self.query).view(h, D // h) * (D // h) ** -0.5
        asked = torch.einsum("hd,hde->he", query, self.k.weight.view(h, D // h, D))
        share = (tokens @ asked.T).softmax(1)
        mean = share.transpose(1, 2) @ tokens  # [B, h, D]
        value = torch.einsum("bhe,hde->bhd", mean, self.v.weight.view(h, D // h, D)).flatten(1)
        return cast(Tensor, self.proj(value + self.v.bias))


class AttentiveClassifier(nn.Module):
    """Layer-normalised tokens -> logits; see the top of the file. The last layer starts at zero."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.pool = AttentivePool(width, width // HEAD_WIDTH if width % HEAD_WIDTH == 0 else 1)
        self.norm1 = nn.LayerNorm(width)
        self.mlp = Mlp(width, 4 * width)
        self.mlp.apply(initialise)
        self.norm2 = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, N, D] -> [B, C]."""
        x = self.pool.query + self.pool(tokens)
        x = x + self.mlp(self.norm1(x))
        return cast(Tensor, self.head(self.norm2(x)))


class AttentiveProbe:
    """The attentive probe of videos; see `m3video.train.linear.Probe`.

    Fitted to clips, each with the label of its video; a video's classes are the mean of the
    probabilities of its clips.

    Args:
        tokens: float16 [M, N, D] of clips, as `m3video.train.tokens` packs them.
        clips: int64 [M], the video of each clip.
        labels: int64 [V].
        classes: C.
        config: the grid, epochs and seed.
        device: where it is fitted.
    """

    def __init__(
        self,
        tokens: NDArray[np.float16],
        clips: Tensor,
        labels: Tensor,
        *,
        classes: int,
        config: ProbeConfig,
        device: torch.device,
    ) -> None:
        self.tokens, self.clips, self.labels = tokens, clips, labels
        self.classes, self.config, self.device = classes, config, device
        self.grid = make_grid(config.attentive_lr, config.attentive_weight_decay)

    def choose(self, kept: Tensor, held: Tensor) -> GridPoint:
        """See `Probe`; the whole grid is fitted in one pass."""
        found = self._predict(self.fit(kept, self.grid), held)
        hits = [(classes == self.labels[held]).float().mean() for classes in found]
        return self.grid[int(torch.stack(hits).argmax())]

    def predict(self, train: Tensor, test: Tensor, point: GridPoint | None) -> Tensor:
        """See `Probe`."""
        assert point is not None
        (found,) = self._predict(self.fit(train, [point]), test)
        return found

    def fit(self, rows: Tensor, grid: Sequence[GridPoint]) -> list[AttentiveClassifier]:
        """Fit one classifier a grid point to videos, all in one pass over their tokens."""
        models = self._fresh(len(grid))
        optimiser = torch.optim.AdamW(
            [
                {**group, "lr": point.lr}
                for model, point in zip(models, grid, strict=True)
                for group in parameter_groups(model, point.weight_decay)
            ]
        )
        clips = torch.isin(self.clips, rows).nonzero().squeeze(1)
        batch = min(BATCH, len(clips))
        steps = self.config.attentive_epochs * -(-len(clips) // batch)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        generator = torch.Generator().manual_seed(self.config.seed)
        with threads_for(batch * self.tokens[0].size * models[0].pool.heads):
            for _ in range(self.config.attentive_epochs):
                order = clips[torch.randperm(len(clips), generator=generator)]
                for part in torch.split(order, batch):
                    tokens, truth = self._read(part), self.labels[self.clips[part]].to(self.device)
                    losses = [nn.functional.cross_entropy(model(tokens), truth) for model in models]
                    optimiser.zero_grad()
                    torch.autograd.backward(losses)
                    optimiser.step()
                    schedule.step()
        return models

    def _fresh(self, count: int) -> list[AttentiveClassifier]:
        """Classifiers that all begin alike; torch's global generator is left as it was."""
        models = []
        with torch.random.fork_rng(devices=[]):
            for _ in range(count):
                torch.manual_seed(self.config.seed)
                models.append(AttentiveClassifier(self.tokens.shape[2], self.classes))
        return [model.to(self.device) for model in models]

    def _read(self, clips: Tensor) -> Tensor:
        """float32 [B, N, D], on the device."""
        picked: NDArray[Any] = self.tokens[clips.numpy()]
        return torch.from_numpy(picked).to(self.device).float()

    @torch.no_grad()
    def _predict(self, models: Sequence[nn.Module], rows: Tensor) -> list[Tensor]:
        """Classes of videos by each classifier, int64 [U]."""
        chances = torch.zeros(len(models), len(self.labels), self.classes)
        for part in torch.split(torch.isin(self.clips, rows).nonzero().squeeze(1), BATCH):
            tokens = self._read(part)
            for model, chance in zip(models, chances, strict=True):
                chance.index_add_(0, self.clips[part], model(tokens).softmax(1).cpu())
        return list(chances[:, rows].argmax(2))
