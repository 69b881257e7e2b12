"""Masks: exact counts, the same places in a tube, nothing favoured."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from m3video.config import MaskConfig
from m3video.errors import ConfigError
from m3video.masking import hidden_count, make_mask, random_mask, tube_mask

grids = st.tuples(st.integers(1, 8), st.integers(1, 9), st.integers(1, 9))
ratios = st.integers(1, 99).map(lambda percent: percent / 100)
seeds = st.integers(0, 2**31)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def exact_floor(ratio: float, places: int) -> int:
    """⌊ratio · places⌋ in whole percents, without floating point."""
    return round(ratio * 100) * places // 100


@given(grid=grids, ratio=ratios, seed=seeds, batch=st.integers(1, 4))
def test_tube_hides_the_same_exact_number_of_places_in_every_frame(
    grid: tuple[int, int, int], ratio: float, seed: int, batch: int
) -> None:
    time, rows, columns = grid
    count = exact_floor(ratio, rows * columns)
    assume(0 < count < rows * columns)
    mask = tube_mask(batch, grid, ratio, generator(seed))
    assert mask.shape == (batch, time * rows * columns)
    assert mask.dtype == torch.bool
    frames = mask.view(batch, time, rows * columns)
    assert (frames.sum(dim=2) == count).all()
    assert (frames == frames[:, :1]).all()
    assert hidden_count(MaskConfig(kind="tube", ratio=ratio), grid) == time * count


@given(grid=grids, ratio=ratios, seed=seeds, batch=st.integers(1, 4))
def test_random_hides_an_exact_number_of_tokens(
    grid: tuple[int, int, int], ratio: float, seed: int, batch: int
) -> None:
    time, rows, columns = grid
    tokens = time * rows * columns
    count = exact_floor(ratio, tokens)
    assume(0 < count < tokens)
    mask = random_mask(batch, grid, ratio, generator(seed))
    assert mask.shape == (batch, tokens)
    assert (mask.sum(dim=1) == count).all()
    assert hidden_count(MaskConfig(kind="random", ratio=ratio), grid) == count


def test_true_means_hidden() -> None:
    config = MaskConfig(kind="tube", ratio=0.9)
    mask = make_mask(config, (8, 14, 14), generator(0))
    assert mask.sum() == 8 * 176  # VideoMAE hides 176 of 196 places
    assert hidden_count(config, (8, 14, 14)) == 8 * 176


def test_the_count_survives_floating_point() -> None:
    assert 0.29 * 100 < 29
    assert hidden_count(MaskConfig(kind="tube", ratio=0.29), (1, 10, 10)) == 29


@pytest.mark.parametrize("kind", ["tube", "random"])
def test_every_place_is_hidden_equally_often(kind: str) -> None:
    config = MaskConfig.model_validate({"kind": kind, "ratio": 0.6})
    draws = 4000
    share = make_mask(config, (2, 3, 5), generator(1), batch=draws).float().mean(dim=0)
    deviation = (0.6 * 0.4 / draws) ** 0.5
    assert (share - 0.6).abs().max() < 5 * deviation


@pytest.mark.parametrize("kind", ["tube", "random"])
def test_pairs_of_places_are_hidden_independently_but_for_the_count(kind: str) -> None:
    config = MaskConfig.model_validate({"kind": kind, "ratio": 0.5})
    mask = make_mask(config, (1, 2, 5), generator(2), batch=8000).float()
    together = (mask.T @ mask / 8000)[~torch.eye(10, dtype=torch.bool)]
    expected = 5 / 10 * 4 / 9
    assert (together - expected).abs().max() < 5 * (expected * (1 - expected) / 8000) ** 0.5


def test_clips_of_a_batch_differ_and_a_seed_repeats() -> None:
    config = MaskConfig(kind="tube", ratio=0.5)
    first = make_mask(config, (2, 6, 4), generator(3), batch=8)
    assert len({tuple(row.tolist()) for row in first}) == 8
    assert torch.equal(first, make_mask(config, (2, 6, 4), generator(3), batch=8))
    assert not torch.equal(first, make_mask(config, (2, 6, 4), generator(4), batch=8))


def test_random_differs_from_frame_to_frame() -> None:
    frames = random_mask(1, (4, 6, 6), 0.5, generator(0)).view(4, 36)
    assert not (frames == frames[:1]).all()


@pytest.mark.parametrize(
    ("kind", "ratio", "grid"),
    [("tube", 0.2, (8, 2, 2)), ("random", 0.01, (1, 3, 3)), ("tube", 0.5, (8, 1, 1))],
)
def test_hiding_nothing_or_all_is_refused(
    kind: str, ratio: float, grid: tuple[int, int, int]
) -> None:
    config = MaskConfig.model_validate({"kind": kind, "ratio": ratio})
    with pytest.raises(ConfigError, match=rf"mask ratio {ratio} hides 0 of"):
        make_mask(config, grid, generator(0))
    with pytest.raises(ConfigError, match="at least one must be hidden and one visible"):
        hidden_count(config, grid)
