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
from m3video.report.panels import clip_films, numbers, timeline
from m3video.report.predictions import (
    displacements_in_pixels,
    on_grid,
    predict,
    reconstruct,
    track_error,
)
from m3video.targets import build_targets
from m3video.targets.base import ClipView, by_patch
from m3video.targets.pixel import PixelTarget
from m3video.targets.trajectory import normalise_displacements
from m3video.train.prepare import Prepare
from m3video.video.moving_shapes import MovingShapes
from m3video.video.sampling import plan_clip, plan_run, sample_generator

NORMALISATIONS = ("none", "patch-std", "clip-std", "sum-of-norms")


def config_of(recipe: str = "mme-tiny", **targets: Any) -> PretrainConfig:
    """A recipe on clips that are not square."""
    changes: dict[str, Any] = {"clip": {"size": (32, 48)}, "targets": targets}
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


def test_errors_are_distances_of_last_points() -> None:
    true = np.zeros((2, 3, 2))
    true[:, 2] = [[3, 4], [0, 0]]
    error = track_error(true, np.zeros((2, 3, 2)))
    assert error is not None
    assert (error.predicted, error.still, error.count) == (2.5, 2.5, 2)
    error = track_error(true, true)
    assert error is not None
    assert (error.predicted, error.still) == (0, 2.5)
    assert track_error(true[:0], true[:0]) is None


@pytest.mark.parametrize("normalise", NORMALISATIONS)
def test_a_model_that_knows_is_shown_as_true(normalise: str) -> None:
    config = config_of(
        pixel={"weight": 1.0},
        hog={"weight": 1.0, "cell": 4, "colour": "rgb"},
        trajectory={"normalise": normalise, "clamp": 20.0},
    )
    plan, clip = shapes_clip(config, index=3)
    sample = predict(Knowing(config, plan, clip), config, plan, clip, "shape")  # type: ignore[arg-type]
    assert sample.error is not None
    assert sample.error.still > 0.3
    assert sample.error.predicted < 1e-3
    assert sample.tracks is not None
    assert sample.predicted_tracks is not None
    (points, visible), (path, hidden) = sample.tracks, sample.predicted_tracks
    shown = hidden & visible[..., -1]
    np.testing.assert_allclose(path[shown], points[shown], atol=1e-3)
    assert set(sample.hogs) == {"on the grid", "along trajectories"}
    for hog in sample.hogs.values():
        known = hog.valid & hog.hidden[:, None]
        assert known.any()
        np.testing.assert_allclose(hog.predicted[known], hog.true[known], atol=1e-5)
    assert sample.reconstruction is not None
    inputs = sample.frames[list(plan.inputs)].astype(int)
    assert np.abs(sample.reconstruction - inputs).max() <= 1


def test_a_model_that_says_nothing_is_as_good_as_standing_still() -> None:
    config = config_of()
    plan, clip = shapes_clip(config)
    sample = predict(Knowing(config, plan, clip, 0.0), config, plan, clip, "")  # type: ignore[arg-type]
    assert sample.error is not None
    assert sample.error.predicted == pytest.approx(sample.error.still)


def test_mask_is_the_one_of_training() -> None:
    config = config_of()
    plan, clip = shapes_clip(config)
    sample = predict(Knowing(config, plan, clip), config, plan, clip, "")  # type: ignore[arg-type]
    prepared = Prepare(config, plan)(clip, sample_generator(config.train.seed, 0, 0))
    assert (sample.hidden.reshape(-1) == prepared.extras["mask"].numpy()).all()


def test_predictions_do_not_hang_on_where_targets_are_made() -> None:
    config = config_of()
    step = config.model_copy(update={"motion": config.motion.model_copy(update={"where": "step"})})
    assert config.motion.where == "worker"
    plan, clip = shapes_clip(config)
    knowing = Knowing(config, plan, clip)
    one, other = (predict(knowing, each, plan, clip, "") for each in (config, step))  # type: ignore[arg-type]
    assert one.error == other.error


@pytest.mark.parametrize(("stride", "length"), [(1, 6), (2, 6), (4, 6), (4, 0), (3, 2)])
def test_timeline_shows_every_raw_frame_and_whole_trajectories(stride: int, length: int) -> None:
    clip = config_of().clip.model_copy(update={"stride": stride})
    plan = plan_clip(clip, length)
    moments = timeline(plan, clip.tubelet)
    assert len(moments) == plan.span
    starts = [plan.offsets[row] for row in plan.starts]
    for time, now in enumerate(moments):
        assert plan.offsets[now.row] <= time
        assert plan.offsets[plan.inputs[now.input]] <= time
        assert now.step == min(time - starts[now.tubelet], length)
    for drawn in {now.tubelet for now in moments}:
        assert max(now.step for now in moments if now.tubelet == drawn) == length


def test_films_of_a_clip_are_of_one_length_and_say_what_they_are() -> None:
    config = config_of(pixel={"weight": 1.0}, hog={"weight": 1.0, "cell": 4})
    plan, clip = shapes_clip(config)
    knowing = Knowing(config, plan, clip)
    sample = predict(knowing, config, plan, clip, "<b>name</b>")  # type: ignore[arg-type]
    films = clip_films(sample)
    titles = [panel.title for panel in films.panels]
    assert titles[:4] == [
        "Input",
        "What the encoder sees",
        "True trajectories",
        "Predicted trajectories",
    ]
    assert "Reconstruction" in titles
    assert len([title for title in titles if "HOG" in title]) == 4
    for panel in films.panels:
        assert (panel.width, panel.height) == (6 * 48, 6 * 32)
        assert panel.title in panel.alt
    assert "0.00 px" in numbers(sample)
