"""The order of tokens and seeds, the choice of targets, and what a view computes once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from m3video.config import TargetsConfig
from m3video.errors import ConfigError
from m3video.motion import trajectory
from m3video.motion.trajectory import seed_grid
from m3video.recipes import RECIPES, recipe_config
from m3video.targets import MAKERS, build_targets
from m3video.targets.base import by_patch
from tests.targets.clips import noise_view, settings


def test_seeds_are_grouped_into_their_patches_row_by_row() -> None:
    """On 2 × 2 × 3 tokens of 16 px: each seed lies in its patch, and their order is the rows'."""
    tokens = (2, 2, 3)
    seeds = seed_grid(32, 48, 8).expand(1, 2, -1, -1, -1)
    grouped = by_patch(seeds, tokens)
    assert grouped.shape == (1, 12, 4, 2)
    for number in range(12):
        row, column = number % 6 // 3, number % 3
        corner = torch.tensor([column * 16.0, row * 16.0])
        expected = corner + torch.tensor([[3.5, 3.5], [11.5, 3.5], [3.5, 11.5], [11.5, 11.5]])
        assert torch.equal(grouped[0, number], expected)
    times = torch.arange(2)[None, :, None, None].expand(1, 2, 4, 6)
    assert by_patch(times, tokens)[0, :, 0].tolist() == [0] * 6 + [1] * 6


def test_every_target_of_the_config_can_be_built() -> None:
    """Trap 8."""
    assert list(MAKERS) == list(TargetsConfig.model_fields)
    config = settings(targets={name: {"weight": 1} for name in MAKERS})
    makers = build_targets(config)
    assert list(makers) == list(MAKERS)
    view = noise_view(config)
    for name, maker in makers.items():
        target = maker(view)
        assert target.values.shape == (2, config.clip.token_count, maker.dim), name
        assert target.values.dtype == torch.float32, name
        assert target.valid.dtype == torch.bool, name
        assert target.valid.shape in {target.values.shape, (*target.values.shape[:2], 1)}, name
        assert target.values.isfinite().all(), name


def test_targets_without_a_weight_are_left_out() -> None:
    config = settings(targets={"hog": {"weight": 0.5}, "trajectory": {"weight": 0}})
    assert list(build_targets(config)) == ["hog"]


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_has_targets(name: str) -> None:
    config = recipe_config(name, data="moving-shapes", out=Path("run"))
    view = noise_view(config, batch=1)
    for maker in build_targets(config).values():
        assert maker(view).values.shape == (1, config.clip.token_count, maker.dim)


def test_the_released_variant_has_108_and_48_numbers() -> None:
    """HOG: 9 bins · 3 channels · 4 cells; trajectories: 4 points · 6 steps · 2."""
    makers = build_targets(recipe_config("mme-released", data="x", out=Path("run")))
    assert {name: maker.dim for name, maker in makers.items()} == {"hog": 108, "trajectory": 48}


def test_tracks_are_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    original = trajectory.follow
    monkeypatch.setattr(trajectory, "follow", lambda *args: calls.append(1) or original(*args))
    config = settings(targets={"trajectory": {"weight": 1}, "trajectory_hog": {"weight": 1}})
    view = noise_view(config)
    for maker in build_targets(config).values():
        maker(view)
    assert len(calls) == 1


def test_a_batch_gives_what_its_clips_give() -> None:
    config = settings(targets={name: {"weight": 1} for name in MAKERS})
    view = noise_view(config, batch=3)
    for name, maker in build_targets(config).items():
        together = maker(view)
        for clip in range(3):
            alone = type(view)(
                view.frames[clip, None], view.real[clip, None], view.plan, view.clip, view.motion
            )
            target = maker(alone)
            torch.testing.assert_close(target.values[0], together.values[clip], msg=name)
            assert torch.equal(target.valid[0], together.valid[clip]), name


def test_motion_energy_is_pixels_a_step_over_what_is_seen() -> None:
    """Patches move by (3, 4), 5 px a step; where nothing is seen nothing moves."""
    config = settings(targets={"trajectory": {"weight": 1}})
    view = noise_view(config, batch=1)
    flow = torch.zeros(1, len(view.plan.pairs), 2, 32, 48)
    flow[:, :, 0, :, 16:], flow[:, :, 1, :, 16:] = 3.0, 4.0
    view = type(view)(view.frames, view.real, view.plan, view.clip, view.motion, flow)
    energy = view.motion_energy.reshape(2, 2, 3)
    assert energy.shape == (2, 2, 3)
    assert (energy[:, :, 0] == 0).all()
    torch.testing.assert_close(energy[:, 0, 1], torch.full((2,), 5.0))
    real = view.real.clone()
    real[:, 1:] = False
    ended = type(view)(view.frames, real, view.plan, view.clip, view.motion, flow)
    assert (ended.motion_energy == 0).all()


def test_z_scores_of_one_point_are_refused() -> None:
    targets = {"trajectory": {"weight": 1, "normalise": "patch-std"}}
    with pytest.raises(ConfigError, match=r"motion\.seeds is 1: use 4 or 16 seeds"):
        build_targets(settings(targets=targets, motion={"seeds": 1, "length": 3}))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_targets_are_the_same_on_a_gpu() -> None:
    config = settings(targets={name: {"weight": 1} for name in MAKERS})
    view = noise_view(config)
    there = type(view)(view.frames.cuda(), view.real.cuda(), view.plan, view.clip, view.motion)
    for name, maker in build_targets(config).items():
        here, away = maker(view), maker(there)
        assert away.values.device.type == "cuda", name
        assert torch.equal(away.valid.cpu(), here.valid), name
        torch.testing.assert_close(away.values.cpu(), here.values, atol=1e-3, rtol=0, msg=name)
