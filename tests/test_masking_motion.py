"""Masks that follow motion: what is drawn from where, and that nothing breaks the count."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from m3video.errors import ConfigError
from m3video.masking import (
    hidden_count,
    make_mask,
    mask_noise,
    motion_mask,
)
from tests.test_masking import (
    MOTION,
    config_of,
    exact_floor,
    generator,
    ratios,
    seeds,
)


def bins_oracle(visible: int, places: int, high: float) -> int:
    """How many visible places are of the moving half: one after another, while there is room."""
    wanted = round(high * 100) * visible // 100
    moving, still = places - places // 2, places // 2
    taken = [0, 0]
    for number in range(visible):
        side = 0 if number < wanted else 1
        if taken[side] == (moving, still)[side]:
            side = 1 - side
        taken[side] += 1
    return taken[0]


@given(
    rows=st.integers(1, 7),
    columns=st.integers(2, 9),
    ratio=ratios,
    high=st.integers(0, 100).map(lambda percent: percent / 100),
    seed=seeds,
)
def test_bins_show_as_many_moving_places_as_asked(
    rows: int, columns: int, ratio: float, high: float, seed: int
) -> None:
    places = rows * columns
    count = exact_floor(ratio, places)
    assume(0 < count < places)
    motion = torch.randperm(2 * 3 * places, generator=generator(seed)).view(2, 3, places).float()
    config = config_of("motion-bins", ratio, high=high)
    mask = make_mask(config, (3, rows, columns), generator(seed), 2, motion.flatten(1))
    visible = ~mask.view(2, 3, places)[:, 0]
    rank = motion.double().mean(dim=1).argsort(dim=1, descending=True, stable=True)
    # equal means are ranked by chance: only clips whose halves are told apart by motion count
    mean = motion.double().mean(dim=1).gather(1, rank)
    half = places - places // 2
    assume(bool((mean[:, half - 1] > mean[:, half]).all()))
    shown = visible.gather(1, rank)[:, :half].sum(dim=1)
    assert (shown == bins_oracle(places - count, places, high)).all()


def test_bins_draw_evenly_within_a_half_even_when_most_is_still() -> None:
    """6 of 20 places move; of the moving half of 10 the other 4 are still ones, drawn by lot."""
    draws, visible_from_moving, visible_from_still = 6000, 5, 3
    motion = torch.zeros(1, 20)
    motion[0, 3:9] = torch.tensor([1.0, 2, 9, 4, 5, 6])
    config = config_of("motion-bins", 0.6, high=0.7)  # 8 visible: ⌊5.6⌋ of the moving half
    mask = make_mask(config, (1, 4, 5), generator(0), draws, motion.expand(draws, 20))
    shown = (~mask).float().mean(dim=0)
    moving = visible_from_moving / 10
    still = (4 * moving + 10 * visible_from_still / 10) / 14
    expected = torch.where(motion[0] > 0, moving, still)
    assert (shown - expected).abs().max() < 5 * (0.25 / draws) ** 0.5


def test_top_draws_by_motion() -> None:
    """With one place hidden in a frame, each is hidden as often as its share of the motion."""
    draws = 20000
    motion = torch.tensor([[1.0, 2, 3, 4, 0, 5, 1, 6, 1, 1, 1, 1]])  # two frames of 2 × 3
    config = config_of("motion-top", 0.2)
    mask = make_mask(config, (2, 2, 3), generator(0), draws, motion.expand(draws, 12))
    frames = motion.view(2, 6)
    expected = (frames / frames.sum(dim=1, keepdim=True)).flatten()
    share = mask.float().mean(dim=0)
    assert (share - expected).abs().max() < 5 * (0.25 / draws) ** 0.5


def test_top_hides_what_moves_before_what_is_still() -> None:
    """In one frame of three 10 of 42 places move, in another clip nothing: 29 are hidden."""
    draws = 2000
    motion = torch.zeros(draws, 3, 42)
    motion[:, 1, 5:15] = torch.rand(draws, 10, generator=generator(0)) + 0.5
    motion[-1] = 0
    config = config_of("motion-top", 0.7)
    mask = make_mask(config, (3, 6, 7), generator(1), draws, motion.flatten(1))
    share = mask.view(draws, 3, 42)[:-1].float().mean(dim=0)
    assert share[1, 5:15].min() > 0.99
    assert (share[1, 15:] - 19 / 32).abs().max() < 0.06
    assert (share[0] - 29 / 42).abs().max() < 0.06


@given(kind=st.sampled_from(MOTION), seed=seeds, power=st.integers(-20, 20))
def test_the_unit_of_motion_means_nothing(kind: str, seed: int, power: int) -> None:
    config, grid = config_of(kind, 0.6), (3, 4, 7)
    noise = mask_noise(grid, generator(seed), 2)
    motion = torch.rand(2, 84, generator=generator(seed + 1))
    mask = motion_mask(config, grid, motion, noise)
    assert torch.equal(motion_mask(config, grid, motion * 2.0**power, noise), mask)


@pytest.mark.parametrize("kind", MOTION)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 3e38, 1e-45, 0.0])
def test_no_motion_breaks_the_count(kind: str, value: float) -> None:
    config, grid = config_of(kind, 0.6), (2, 3, 5)
    everywhere = torch.full((4, 30), value)
    somewhere = torch.rand(4, 30, generator=generator(0))
    somewhere[:, ::3] = value
    for motion in (everywhere, somewhere):
        mask = make_mask(config, grid, generator(1), 4, motion)
        assert (mask.sum(dim=1) == hidden_count(config, grid)).all()


@pytest.mark.parametrize("kind", MOTION)
def test_unknown_motion_is_none(kind: str) -> None:
    config, grid = config_of(kind, 0.6), (2, 3, 5)
    motion = torch.rand(4, 30, generator=generator(0))
    motion[:, ::3] = float("nan")
    expected = make_mask(config, grid, generator(1), 4, motion.nan_to_num(0))
    assert torch.equal(make_mask(config, grid, generator(1), 4, motion), expected)


@pytest.mark.parametrize("kind", MOTION)
def test_a_clip_s_mask_does_not_depend_on_the_batch(kind: str) -> None:
    config, grid = config_of(kind, 0.6), (2, 3, 5)
    noise = mask_noise(grid, generator(0), 4)
    motion = torch.rand(4, 30, generator=generator(1)) * torch.tensor([[1e3], [1.0], [0], [1e-3]])
    whole = motion_mask(config, grid, motion, noise)
    for clip in range(4):
        one = slice(clip, clip + 1)
        assert torch.equal(motion_mask(config, grid, motion[one], noise[one]), whole[one])


@pytest.mark.parametrize("kind", MOTION)
def test_masks_of_the_same_motion_differ(kind: str) -> None:
    motion = torch.rand(1, 72, generator=generator(0)).expand(8, 72)
    mask = make_mask(config_of(kind, 0.5), (3, 4, 6), generator(1), 8, motion)
    assert len({tuple(row.tolist()) for row in mask}) == 8


@pytest.mark.parametrize("kind", MOTION)
def test_motion_masks_never_read_the_device(kind: str) -> None:
    """Tensors on `meta` have no numbers: what needs one, as a GPU would have to wait for, fails."""
    motion, noise = torch.empty(2, 30, device="meta"), torch.empty(2, 2, 30, device="meta")
    mask = motion_mask(config_of(kind, 0.6), (2, 3, 5), motion, noise)
    assert mask.shape == (2, 30)
    assert mask.device.type == "meta"


@pytest.mark.parametrize("kind", MOTION)
def test_missing_or_wrong_motion_is_refused(kind: str) -> None:
    config = config_of(kind, 0.5)
    with pytest.raises(ConfigError, match=rf"{kind} needs the motion of each token"):
        make_mask(config, (2, 3, 4), generator(0))
    with pytest.raises(ConfigError, match=r"motion is \[1, 12\], and the mask wants \[B, 24\]"):
        make_mask(config, (2, 3, 4), generator(0), motion=torch.zeros(1, 12))
    with pytest.raises(ConfigError, match=r"noise is \[1, 2, 24\], and motion of 2 clips wants"):
        make_mask(config, (2, 3, 4), generator(0), motion=torch.zeros(2, 24))
