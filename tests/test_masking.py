"""Masks: exact counts, the structure of each kind, nothing favoured but what should be."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from m3video.config import MaskConfig
from m3video.errors import ConfigError
from m3video.masking import (
    BLOCKS,
    _first_blocks,
    hidden_count,
    make_mask,
    random_mask,
    tube_mask,
)

KINDS = ("tube", "random", "frame", "block", "motion-bins", "motion-top")
MOTION = ("motion-bins", "motion-top")
grids = st.tuples(st.integers(1, 8), st.integers(1, 9), st.integers(1, 9))
ratios = st.integers(1, 99).map(lambda percent: percent / 100)
seeds = st.integers(0, 2**31)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def config_of(kind: str, ratio: float, **others: float) -> MaskConfig:
    return MaskConfig.model_validate({"kind": kind, "ratio": ratio, **others})


def motion_of(kind: str, shape: tuple[int, int], seed: int) -> Tensor | None:
    """How far tokens go, in pixels, for the kinds that ask; a third of them stay where they are."""
    if kind not in MOTION:
        return None
    far = torch.rand(shape, generator=generator(seed + 1)) * 9 - 3
    return far.clamp(min=0)


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


@given(kind=st.sampled_from(KINDS), grid=grids, ratio=ratios, seed=seeds, batch=st.integers(1, 3))
def test_counts_are_exact_and_known_before(
    kind: str, grid: tuple[int, int, int], ratio: float, seed: int, batch: int
) -> None:
    time, rows, columns = grid
    units = {"frame": time, "random": time * rows * columns, "block": time * rows * columns}
    unit = units.get(kind, rows * columns)
    count = exact_floor(ratio, unit)
    assume(0 < count < unit)
    expected = count * time * rows * columns // unit
    config = config_of(kind, ratio)
    assert hidden_count(config, grid) == expected
    motion = motion_of(kind, (batch, time * rows * columns), seed)
    mask = make_mask(config, grid, generator(seed), batch, motion)
    assert mask.shape == (batch, time * rows * columns)
    assert mask.dtype == torch.bool
    assert (mask.sum(dim=1) == expected).all()
    places = mask.view(batch, time, rows * columns)
    if kind == "frame":
        assert (places == places[..., :1]).all()
    if kind in {"tube", "motion-bins"}:
        assert (places == places[:, :1]).all()
    if kind == "motion-top":
        assert (places.sum(dim=2) == count).all()


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("tube", "##..###.#... ##..###.#..."),
        ("random", ".#..###.#... ####.#.#.#.."),
        ("frame", "............ ############"),
        ("block", "#...#...##.. ###...###.##"),
        ("motion-bins", "..###.#...## ..###.#...##"),
        ("motion-top", "......###### ....#..#####"),
    ],
)
def test_golden(kind: str, expected: str) -> None:
    """A change here changes every run that is repeated or resumed."""
    motion = torch.arange(24.0)[None] if kind in MOTION else None
    mask = make_mask(config_of(kind, 0.5), (2, 3, 4), generator(7), motion=motion)
    drawn = "".join("#" if hidden else "." for hidden in mask[0])
    assert f"{drawn[:12]} {drawn[12:]}" == expected


def test_true_means_hidden() -> None:
    config = MaskConfig(kind="tube", ratio=0.9)
    mask = make_mask(config, (8, 14, 14), generator(0))
    assert mask.sum() == 8 * 176  # VideoMAE hides 176 of 196 places
    assert hidden_count(config, (8, 14, 14)) == 8 * 176


def test_the_count_survives_floating_point() -> None:
    assert 0.29 * 100 < 29
    assert hidden_count(MaskConfig(kind="tube", ratio=0.29), (1, 10, 10)) == 29


@pytest.mark.parametrize("kind", ["tube", "random", "frame", "motion-bins", "motion-top"])
def test_every_place_is_hidden_equally_often(kind: str) -> None:
    """Where nothing moves, motion favours nothing either."""
    config = config_of(kind, 0.6, high=0.9)
    draws = 4000
    still = torch.zeros(draws, 75) if kind in MOTION else None
    share = make_mask(config, (5, 3, 5), generator(1), draws, still).float().mean(dim=0)
    deviation = (0.6 * 0.4 / draws) ** 0.5
    assert (share - 0.6).abs().max() < 5 * deviation


@pytest.mark.parametrize("kind", ["tube", "random"])
def test_pairs_of_places_are_hidden_independently_but_for_the_count(kind: str) -> None:
    config = config_of(kind, 0.5)
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


def likeness(mask: Tensor, grid: tuple[int, int, int], axis: int) -> float:
    """Correlation of tokens with the next ones along an axis."""
    cells = mask.float().view(-1, *grid)
    size = grid[axis] - 1
    pairs = [cells.narrow(axis + 1, start, size).flatten() for start in (0, 1)]
    return float(torch.corrcoef(torch.stack(pairs))[0, 1])


@pytest.mark.parametrize("grid", [(8, 6, 14), (6, 14, 8)])
def test_blocks_are_connected_in_time_and_space(grid: tuple[int, int, int]) -> None:
    mask = make_mask(config_of("block", 0.2), grid, generator(0), batch=200)
    scattered = make_mask(config_of("random", 0.2), grid, generator(0), batch=200)
    for axis in range(3):
        assert likeness(mask, grid, axis) > 0.55
        assert abs(likeness(scattered, grid, axis)) < 0.02
    transposed = (grid[0], grid[2], grid[1])
    assert likeness(mask, transposed, 1) < 0.45


def test_blocks_reach_the_corners_nearly_as_often_as_the_middle() -> None:
    mask = make_mask(config_of("block", 0.4), (4, 6, 10), generator(0), batch=6000)
    share = mask.float().mean(dim=0)
    assert share.min() > 0.3
    assert share.max() < 0.5


def test_a_block_is_a_box_of_either_shape_and_no_larger_than_the_ratio() -> None:
    time, rows, columns = grid = (6, 9, 13)
    blocks = _first_blocks(300, grid, 0.5, generator(0)).view(-1, *grid)
    shapes = []
    for first in blocks == BLOCKS:
        spans = [first.nonzero()[:, axis].unique() for axis in range(3)]
        frames, height, width = (len(span) for span in spans)
        assert first.sum() == frames * height * width > 0
        assert all(span[-1] - span[0] + 1 == len(span) for span in spans)
        assert height * width <= 0.5 * rows * columns + height / 2  # a width is a whole number
        shapes.append((frames, height, width))
    assert {frames for frames, _, _ in shapes} == set(range(1, time + 1))
    assert {height for _, height, _ in shapes} == set(range(1, rows + 1))
    assert max(width for _, _, width in shapes) > 11
    assert sum(height > 1.5 * width for _, height, width in shapes) > 50
    assert sum(width > 1.5 * height for _, height, width in shapes) > 50


def test_the_first_blocks_are_hidden_and_one_is_trimmed() -> None:
    config, grid = config_of("block", 0.4), (6, 9, 13)
    mask = make_mask(config, grid, generator(0), 50)
    blocks = _first_blocks(50, grid, 0.4, generator(0))
    for hidden, number in zip(mask, blocks, strict=True):
        last = number[hidden].min()
        assert hidden[number > last].all()
        assert last > 0
    trimmed = blocks == torch.where(mask, blocks, BLOCKS).amin(dim=1, keepdim=True)
    assert 0.2 < mask[trimmed].float().mean() < 0.8
    frame = torch.arange(6).repeat_interleave(9 * 13).expand_as(mask).float()
    assert abs(frame[trimmed & mask].mean() - frame[trimmed & ~mask].mean()) < 0.4


def test_narrow_frames_have_blocks_as_large_as_wide_ones() -> None:
    covered = [
        (_first_blocks(4000, grid, 0.5, generator(0)) == BLOCKS).float().mean().item()
        for grid in ((4, 3, 30), (4, 30, 3), (4, 9, 10))
    ]
    assert covered[0] == pytest.approx(covered[1], rel=0.1)
    assert covered[0] > 0.9 * covered[2]


@pytest.mark.parametrize(
    ("kind", "ratio", "grid"),
    [
        ("tube", 0.2, (8, 2, 2)),
        ("random", 0.01, (1, 3, 3)),
        ("tube", 0.5, (8, 1, 1)),
        ("frame", 0.4, (2, 9, 9)),
        ("frame", 0.9, (1, 9, 9)),
        ("block", 0.01, (1, 3, 3)),
        ("motion-bins", 0.2, (8, 2, 2)),
        ("motion-top", 0.2, (8, 2, 2)),
    ],
)
def test_hiding_nothing_or_all_is_refused(
    kind: str, ratio: float, grid: tuple[int, int, int]
) -> None:
    config = config_of(kind, ratio)
    motion = torch.zeros(1, grid[0] * grid[1] * grid[2])
    with pytest.raises(ConfigError, match=rf"mask ratio {ratio} hides 0 of"):
        make_mask(config, grid, generator(0), motion=motion)
    with pytest.raises(ConfigError, match="at least one must be hidden and one visible"):
        hidden_count(config, grid)
