"""Which hidden tokens are decoded: an exact number, by a running cell."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from m3video.errors import ConfigError
from m3video.masking import (
    CELL_STARTS,
    decode_mask,
    decoded_count,
    hidden_count,
    make_mask,
)
from tests.test_masking import (
    KINDS,
    config_of,
    exact_floor,
    generator,
    grids,
    motion_of,
    ratios,
    seeds,
)


@given(
    kind=st.sampled_from(KINDS),
    grid=grids,
    ratio=ratios,
    decode=st.integers(1, 100).map(lambda percent: percent / 100),
    seed=seeds,
    start=st.integers(0, CELL_STARTS - 1) | st.none(),
)
def test_an_exact_number_of_hidden_tokens_is_decoded(
    kind: str,
    grid: tuple[int, int, int],
    ratio: float,
    decode: float,
    seed: int,
    start: int | None,
) -> None:
    config = config_of(kind, ratio, decode=decode)
    try:
        hidden = hidden_count(config, grid)
    except ConfigError:
        assume(False)
    expected = max(1, exact_floor(decode, hidden))
    assert decoded_count(config, grid) == expected
    motion = motion_of(kind, (3, grid[0] * grid[1] * grid[2]), seed)
    mask = make_mask(config, grid, generator(seed), 3, motion)
    starts = None if start is None else torch.tensor([start, 0, 70_000])
    decoded = decode_mask(config, mask, grid, starts)
    assert decoded.dtype == torch.bool
    assert (decoded.sum(dim=1) == expected).all()
    assert not (decoded & ~mask).any()
    assert decode < 1 or torch.equal(decoded, mask)


@pytest.mark.parametrize("phases", [1, 2, 3])
@pytest.mark.parametrize("begin", [0, 1, 3])
def test_the_cell_runs(phases: int, begin: int) -> None:
    """Hidden frames of 6 × 10 are 15 cells of 2 × 2: each decodes 1, 2 or 3 places, whose turn it
    is, counted from left to right and down; every frame the turn is the next one's."""
    time, rows, columns = grid = (5, 6, 10)
    config = config_of("frame", 0.8, decode=phases / 4)
    mask = make_mask(config, grid, generator(3))
    start = torch.tensor([begin * (CELL_STARTS // 4)])
    decoded = decode_mask(config, mask, grid, start).view(grid)
    for frame in range(time):
        hidden = bool(mask.view(grid)[frame, 0, 0])
        for row in range(rows):
            for column in range(columns):
                turn = [[0, 1], [2, 3]][row % 2][column % 2]
                expected = hidden and (turn + frame + begin) % 4 < phases
                assert decoded[frame, row, column] == expected


@pytest.mark.parametrize("decode", [0.1, 0.5, 0.6])
def test_over_all_starts_every_hidden_token_is_decoded_equally_often(decode: float) -> None:
    config, grid = config_of("tube", 0.75, decode=decode), (4, 5, 8)
    mask = make_mask(config, grid, generator(0))
    draws = 4000
    starts = torch.randint(CELL_STARTS, (draws,), generator=generator(1))
    share = decode_mask(config, mask.expand(draws, -1), grid, starts).float().mean(dim=0)
    expected = decoded_count(config, grid) / hidden_count(config, grid)
    assert (share[mask[0]] - expected).abs().max() < 0.1
    assert (share[~mask[0]] == 0).all()


def test_part_of_a_phase_is_spread_over_the_clip() -> None:
    config, grid = config_of("tube", 0.9, decode=0.125), (8, 14, 14)
    mask = make_mask(config, grid, generator(0))
    decoded = decode_mask(config, mask, grid).view(8, 14, 14)
    assert decoded.sum() == 176
    in_frame = decoded.sum(dim=(1, 2))
    assert in_frame.min() >= 16
    assert in_frame.max() <= 28
    for half in (decoded[:, :7], decoded[:, :, :7]):
        assert 0.35 < half.sum() / decoded.sum() < 0.65


def test_decode_mask_never_reads_the_device() -> None:
    mask = torch.empty(2, 30, dtype=torch.bool, device="meta")
    start = torch.empty(2, dtype=torch.int64, device="meta")
    decoded = decode_mask(config_of("tube", 0.6, decode=0.5), mask, (2, 3, 5), start)
    assert decoded.shape == (2, 30)
