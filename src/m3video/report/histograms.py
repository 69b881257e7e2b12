"""HOG, HOF and MBH turned back from the numbers of tokens into histograms at places."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from m3video.config import PretrainConfig
from m3video.report.grids import on_grid
from m3video.report.overlays import Bools, Floats
from m3video.report.scores import Outcome

HISTOGRAMS = ("hog", "hof", "mbh", "trajectory_hog", "trajectory_hof", "trajectory_mbh")
"""The targets that are histograms."""
STRONG = 0.95
"""Share of the histograms whose largest bin is drawn whole; larger ones are cut."""


@dataclass(frozen=True)
class Histograms:
    """Histograms to draw; t tubelets, S steps (1 on the grid), n places, P parts (2 for MBH)."""

    kind: str
    """hog, hof or mbh."""
    true: Floats
    """[t, S, n, P, bins]; the last bin of HOF is standing still."""
    predicted: Floats
    """[t, S, n, P, bins], not negative."""
    valid: Bools
    """[t, S, n]."""
    hidden: Bools
    """[t, n]."""
    centres: Floats
    """[n, 2] (x, y) in pixels: the cells, or where the points start."""
    spacing: float
    """Pixels from one place to the next."""
    strongest: float
    """The number that is drawn at full length."""


def histograms(config: PretrainConfig, name: str, outcome: Outcome) -> Histograms:
    """The histograms of one target of one clip; those of colour channels are averaged."""
    tokens = config.clip.tokens
    along = name.startswith("trajectory_")
    parts = [_split(config, name, value) for value in (outcome.true, outcome.predicted)]
    true, predicted = (on_grid(part, tokens) for part in parts)
    valid = on_grid(_split(config, name, outcome.valid.float()), tokens)[..., 0, 0] > 0
    time, height, width = true.shape[:3]
    spacing = config.clip.patch / (height // tokens[1])
    x = np.arange(width) * spacing + (spacing - 1) / 2
    y = np.arange(height) * spacing + (spacing - 1) / 2
    hidden = outcome.hidden.reshape(tokens).numpy()
    side = height // tokens[1]
    strong = true[valid].max(axis=(-2, -1)) if valid.any() else np.ones(1)
    return Histograms(
        kind=name.removeprefix("trajectory_") if along else name,
        true=_listed(true),
        predicted=_listed(predicted).clip(min=0),
        valid=valid.reshape(time, height * width, -1).swapaxes(1, 2),
        hidden=hidden.repeat(side, axis=1).repeat(side, axis=2).reshape(time, -1),
        centres=np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2),
        spacing=spacing,
        strongest=float(np.quantile(strong, STRONG)),
    )


def _listed(grid: NDArray[np.float32]) -> NDArray[np.float32]:
    """[t, h, w, S, …] → [t, S, h · w, …]."""
    time, height, width = grid.shape[:3]
    return grid.reshape(time, height * width, *grid.shape[3:]).swapaxes(1, 2)


def _split(config: PretrainConfig, name: str, values: Tensor) -> Tensor:
    """The numbers [N, D] of tokens as [N, place, S, P, bins], in the orders that targets state."""
    settings = getattr(config.targets, name)
    count, bins = len(values), settings.bins
    along = name.startswith("trajectory_")
    steps = config.motion.length if along else 1
    places = config.motion.seeds if along else (config.clip.patch // settings.cell) ** 2
    if name.endswith("hof"):
        return values.reshape(count, places, steps, 1, bins + 1)
    if name.endswith("mbh"):
        return values.reshape(count, places, steps, 2, bins)
    channels = 3 if settings.colour == "rgb" else 1
    if along:
        return values.reshape(count, places, steps, channels, bins).mean(dim=3, keepdim=True)
    return values.reshape(count, channels, places, 1, 1, bins).mean(dim=1)
