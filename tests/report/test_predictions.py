"""Predictions turned back into pictures: what a model that knows the truth would be shown as."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from m3video.config import PretrainConfig, TrajectoryConfig
from m3video.recipes import recipe_config
from m3video.report.grids import on_grid
from m3video.report.overlays import GREY
from m3video.report.painters import clip_painters, scales
from m3video.report.panels import timeline
from m3video.report.predictions import displacements_in_pixels, predict, reconstruct
from m3video.report.scores import scores
from m3video.targets import build_targets
from m3video.targets.base import ClipView, by_patch
from m3video.targets.pixel import PixelTarget
from m3video.targets.trajectory import normalise_displacements
from m3video.train.prepare import Prepare
from m3video.video.moving_shapes import MovingShapes
from m3video.video.sampling import plan_run, sample_generator

NORMALISATIONS = ("none", "patch-std", "clip-std", "sum-of-norms")


def config_of(
    recipe: str = "mme-tiny",
    motion: dict[str, Any] | None = None,
    mask: dict[str, Any] | None = None,
    **targets: Any,
) -> PretrainConfig:
    """A recipe on clips that are not square."""
    changes: dict[str, Any] = {"clip": {"size": (32, 48)}, "targets": targets}
    changes |= {"motion": motion or {}, "mask": mask or {}}
    return recipe_config(recipe, data="moving-shapes", out=Path("unused"), changes=changes)


def shapes_clip(config: PretrainConfig, index: int = 0) -> Any:
    plan = plan_run(config)
    source = MovingShapes(clips=13, clip=config.clip, plan=plan, texture="noise", fixed=True)
    return plan, source.clip(index, 0, sample_generator(0, 0, index))


class Knowing:
    """In place of the model: predicts the targets of one clip exactly, or zeros."""

    def __init__(self, config: PretrainConfig, plan: Any, clip: Any, factor: float = 1.0) -> None:
        view = ClipView(clip.frames[None], clip.real[None], plan, config.clip, config.motion)
        makers = build_targets(config)
        self.values = {name: factor * maker(view).values for name, maker in makers.items()}

    def __call__(self, clip: Tensor, mask: Tensor) -> dict[str, dict[str, Tensor]]:
        self.mask = mask[0]
        hidden = {name: value[mask][None] for name, value in self.values.items()}
        return {"predictions": hidden}


@pytest.mark.parametrize("normalise", NORMALISATIONS)
def test_displacements_come_back_in_pixels(normalise: Any) -> None:
    config = TrajectoryConfig(weight=1, normalise=normalise)
    generator = torch.Generator().manual_seed(0)
    moved = torch.randn(2, 6, 4, 5, 2, generator=generator) * 3
    moved[0, 0] = 2.5  # moves as one
    moved[0, 1] = 0.0
    valid = torch.rand(2, 6, 4, 5, 1, generator=generator) > 0.2
    values, known = normalise_displacements(moved, valid, config)
    back = displacements_in_pixels(values, moved, valid, config)
    known = known.expand_as(moved)
    torch.testing.assert_close(back[known], moved[known], rtol=1e-5, atol=1e-5)


def test_grids_and_patches_are_inverse() -> None:
    grid = torch.arange(2 * 6 * 10 * 3, dtype=torch.float32).reshape(1, 2, 6, 10, 3)
    patches = by_patch(grid, (2, 3, 5))
    assert (on_grid(patches[0], (2, 3, 5)) == grid[0].numpy()).all()


@pytest.mark.parametrize("normalised", [True, False])
def test_true_pixels_reconstruct_the_frames(normalised: bool) -> None:
    config = config_of("videomae-tiny", pixel={"normalise": normalised})
    plan, clip = shapes_clip(config)
    view = ClipView(clip.frames[None], clip.real[None], plan, config.clip, config.motion)
    target = PixelTarget(config)(view)
    inputs = clip.frames[list(plan.inputs)].numpy()
    hidden = np.zeros(config.clip.tokens, bool)
    hidden[1, 2:, 1:4] = True
    filled = reconstruct(inputs, target.values[0], hidden, config.clip, normalised)
    assert np.abs(filled.astype(int) - inputs).max() <= 1
    empty = reconstruct(inputs, 0 * target.values[0], hidden, config.clip, False)
    changed = (empty != inputs).any(-1)
    assert changed[2:4, 16:, 8:32].mean() > 0.9
    assert not np.delete(changed, [2, 3], axis=0).any()
    assert not changed[:, :16].any()


EVERYTHING: dict[str, Any] = {
    "pixel": {"weight": 1.0},
    "hog": {"weight": 1.0, "cell": 4, "colour": "rgb"},
    "flow": {"weight": 1.0, "cell": 4, "clamp": 20.0, "scale": 1.5},
    "hof": {"weight": 1.0, "cell": 4, "bins": 6},
    "mbh": {"weight": 1.0, "cell": 4},
    "trajectory": {"weight": 1.0, "clamp": 20.0},
    "trajectory_hog": {"weight": 1.0, "cell": 4},
    "trajectory_hof": {"weight": 1.0, "cell": 4},
    "trajectory_mbh": {"weight": 1.0, "cell": 4, "bins": 5},
}


@pytest.mark.parametrize("normalise", NORMALISATIONS)
def test_a_model_that_knows_is_shown_as_true(normalise: str) -> None:
    targets = {**EVERYTHING, "trajectory": {"normalise": normalise, "clamp": 20.0}}
    config = config_of(**targets)
    plan, clip = shapes_clip(config, index=3)
    sample = predict(Knowing(config, plan, clip), config, plan, clip, "shape")
    paths, flow = sample.paths, sample.flow
    assert paths is not None
    assert paths.error is not None
    assert paths.error.still > 0.3
    assert paths.error.predicted < 1e-3
    assert paths.predicted is not None
    shown = paths.hidden & paths.visible[..., -1]
    np.testing.assert_allclose(paths.predicted[shown], paths.true[shown], atol=1e-3)
    assert flow is not None
    assert flow.error is not None
    assert flow.error.still > 0.05
    assert flow.error.predicted < 1e-5
    assert set(sample.histograms) == set(EVERYTHING) - {"pixel", "flow", "trajectory"}
    for found in sample.histograms.values():
        known = found.valid & found.hidden[:, None]
        assert known.any()
        np.testing.assert_allclose(found.predicted[known], found.true[known], atol=1e-5)
    assert sample.reconstruction is not None
    inputs = sample.frames[list(plan.inputs)].astype(int)
    assert np.abs(sample.reconstruction - inputs).max() <= 1
    explained = {name: found.explained for name, found in scores([sample.outcomes]).items()}
    assert explained == dict.fromkeys(EVERYTHING, 1.0)


def test_flow_of_a_cell_is_the_mean_of_its_pixels_in_pixels() -> None:
    config = config_of(
        "flow-tiny", motion={"flow": "dis-fast"}, flow={"cell": 4, "clamp": 20.0, "scale": 3.0}
    )
    plan, clip = shapes_clip(config, index=3)
    assert plan.length == 1
    sample = predict(Knowing(config, plan, clip), config, plan, clip, "")
    assert sample.paths is None
    assert sample.flow is not None
    view = ClipView(clip.frames[None], clip.real[None], plan, config.clip, config.motion)
    flow = view.first_flow[0].numpy()
    assert sample.flow.true.shape == (4, 8, 12, 2)
    for cell in ((0, 0, 0), (1, 7, 2), (3, 4, 11)):
        time, row, column = cell
        pixels = flow[time, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        np.testing.assert_allclose(sample.flow.true[cell], pixels.mean((1, 2)), atol=1e-4)


def test_true_paths_are_relative_to_the_camera_where_its_motion_is_removed() -> None:
    config = config_of(motion={"camera": True}, trajectory={"clamp": 20.0})
    plan, clip = shapes_clip(config, index=3)
    sample = predict(Knowing(config, plan, clip), config, plan, clip, "")
    paths = sample.paths
    assert paths is not None
    assert paths.relative
    assert paths.predicted is not None
    tracks = ClipView(clip.frames[None], clip.real[None], plan, config.clip, config.motion).tracks
    assert (tracks.points.diff(dim=-2) - tracks.displacements).abs().max() > 0.05
    np.testing.assert_allclose(np.diff(paths.true, axis=-2), tracks.displacements[0], atol=1e-4)
    shown = paths.hidden & paths.visible[..., -1]
    np.testing.assert_allclose(paths.predicted[shown], paths.true[shown], atol=1e-3)


@pytest.mark.parametrize(
    "mask",
    [
        {"kind": "tube", "ratio": 0.5, "decode": 0.5},
        {"kind": "frame", "ratio": 0.5},
        {"kind": "random", "ratio": 0.6},
        {"kind": "block", "ratio": 0.4},
        {"kind": "motion-bins", "ratio": 0.7},
        {"kind": "motion-top", "ratio": 0.7},
    ],
    ids=lambda mask: mask["kind"],
)
def test_every_mask_is_shown_and_all_it_hides_is_predicted(mask: dict[str, Any]) -> None:
    config = config_of(mask=mask)
    plan, clip = shapes_clip(config, index=3)
    knowing = Knowing(config, plan, clip)
    sample = predict(knowing, config, plan, clip, "")
    assert (sample.hidden.reshape(-1) == knowing.mask.numpy()).all()
    outcome = sample.outcomes["trajectory"]
    assert outcome.scored.any(dim=1).sum() > 0.8 * sample.hidden.sum()
    assert scores([sample.outcomes])["trajectory"].explained == 1.0
    scale = 256 // 48 + 1
    for now in timeline(plan, sample.tubelet, sample.hidden.reshape(4, -1)):
        (_, paint), (_, masked), *_ = clip_painters(sample, scales([sample]), scale)
        # a patch that is shown has its own pixels, one that is hidden is one grey
        picture, inputs = masked(now), paint(now)
        hidden = sample.hidden[now.input // sample.tubelet].repeat(8 * scale, 0)
        hidden = hidden.repeat(8 * scale, 1)
        assert (picture[hidden] == GREY).all()
        assert (picture[~hidden] == inputs[~hidden]).all()


def test_tracks_that_only_the_mask_needs_are_shown_without_a_prediction() -> None:
    config = config_of("videomae-tiny", mask={"kind": "motion-bins", "ratio": 0.7})
    plan, clip = shapes_clip(config, index=3)
    sample = predict(Knowing(config, plan, clip), config, plan, clip, "")
    assert sample.paths is not None
    assert sample.paths.predicted is None
    titles = [title for title, _ in clip_painters(sample, scales([sample]), 2)]
    assert titles == ["Input", "What the encoder sees", "Where points go"]


def test_a_model_that_says_nothing_is_as_good_as_standing_still() -> None:
    config = config_of()
    plan, clip = shapes_clip(config)
    sample = predict(Knowing(config, plan, clip, 0.0), config, plan, clip, "")
    assert sample.paths is not None
    assert sample.paths.error is not None
    assert sample.paths.error.predicted == pytest.approx(sample.paths.error.still)


@pytest.mark.parametrize("kind", ["tube", "motion-bins"])
def test_mask_is_the_one_of_training(kind: str) -> None:
    config = config_of(mask={"kind": kind})
    plan, clip = shapes_clip(config)
    sample = predict(Knowing(config, plan, clip), config, plan, clip, "")
    prepared = Prepare(config, plan)(clip, sample_generator(config.train.seed, 0, 0))
    assert (sample.hidden.reshape(-1) == prepared.extras["mask"].numpy()).all()


def test_predictions_do_not_hang_on_where_targets_are_made() -> None:
    config = config_of()
    step = config.model_copy(update={"motion": config.motion.model_copy(update={"where": "step"})})
    assert config.motion.where == "worker"
    plan, clip = shapes_clip(config)
    knowing = Knowing(config, plan, clip)
    one, other = (predict(knowing, each, plan, clip, "") for each in (config, step))
    assert one.paths is not None
    assert other.paths is not None
    assert one.paths.error == other.paths.error
