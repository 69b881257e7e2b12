"""Which tokens are hidden from the encoder. True means hidden; every clip hides the same number.

A ratio r of n places hides ⌊r·n⌋ of them (VideoMAE's rule: 0.9 of 14 × 14 is 176), so counts are
exact, known before anything is drawn, and the same for every clip of a batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from m3video.config import MaskConfig
from m3video.errors import ConfigError

Grid = tuple[int, int, int]
"""Token grid (time, rows, columns)."""


def _count(ratio: float, places: int) -> int:
    # 0.29 · 100 is 28.999…96 in floating point; what was meant is 29.
    count = int(ratio * places + 1e-9)
    if not 0 < count < places:
        raise ConfigError(
            f"mask ratio {ratio} hides {count} of {places} places; at least one must be hidden "
            f"and one visible: choose a ratio from {1 / places:.3g} to {1 - 1 / places:.3g}, or "
            "more or smaller patches"
        )
    return count


def _draw(batch: int, places: int, count: int, generator: torch.Generator) -> Tensor:
    """bool [batch, places] with `count` True in each row, every such row equally likely."""
    order = torch.rand(batch, places, generator=generator).argsort(dim=1)
    return torch.zeros(batch, places, dtype=torch.bool).scatter_(1, order[:, :count], True)


def tube_mask(batch: int, tokens: Grid, ratio: float, generator: torch.Generator) -> Tensor:
    """The same places hidden in every frame (arXiv 2203.12602, 3.3): bool [B, N].

    Raises:
        ConfigError: the ratio hides none or all of the rows × columns places.
    """
    time, rows, columns = tokens
    places = rows * columns
    return _draw(batch, places, _count(ratio, places), generator).repeat(1, time)


def random_mask(batch: int, tokens: Grid, ratio: float, generator: torch.Generator) -> Tensor:
    """Tokens hidden anywhere in space and time: bool [B, N].

    Raises:
        ConfigError: the ratio hides none or all of the tokens.
    """
    time, rows, columns = tokens
    places = time * rows * columns
    return _draw(batch, places, _count(ratio, places), generator)


def hidden_count(config: MaskConfig, tokens: Grid) -> int:
    """How many of a clip's tokens `make_mask` hides.

    Raises:
        ConfigError: none or all of them.
    """
    time, rows, columns = tokens
    if config.kind == "tube":
        return time * _count(config.ratio, rows * columns)
    return _count(config.ratio, time * rows * columns)


def make_mask(
    config: MaskConfig, tokens: Grid, generator: torch.Generator, batch: int = 1
) -> Tensor:
    """A mask as configured: bool [batch, N], True where hidden.

    Raises:
        ConfigError: the ratio hides nothing or everything.
    """
    draw = tube_mask if config.kind == "tube" else random_mask
    return draw(batch, tokens, config.ratio, generator)
