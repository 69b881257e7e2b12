"""The films of a clip: what they show when, and how large they may be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from m3video.report.painters import clip_painters, scales, target_painters
from m3video.report.panels import ALL_FILMS, FILM, clip_films, film_limit, numbers, timeline
from m3video.report.predictions import Sample, predict
from m3video.video.sampling import plan_clip
from tests.report.test_predictions import EVERYTHING, Knowing, config_of, shapes_clip


@pytest.fixture(scope="module")
def known() -> Sample:
    """All targets of one clip, predicted by a model that knows them."""
    config = config_of(**EVERYTHING)
    plan, clip = shapes_clip(config, index=3)
    return predict(Knowing(config, plan, clip), config, plan, clip, "<b>name</b>")


@pytest.mark.parametrize(
    ("stride", "length", "step"),
    [(1, 6, 1), (2, 6, 1), (4, 6, 1), (4, 0, 1), (3, 2, 1), (2, 1, 1), (2, 3, 2), (4, 6, 4)],
)
def test_timeline_shows_every_raw_frame_and_whole_trajectories(
    stride: int, length: int, step: int
) -> None:
    clip = config_of().clip.model_copy(update={"stride": stride})
    plan = plan_clip(clip, length, step)
    moments = timeline(plan, clip.tubelet)
    assert len(moments) == plan.span
    starts = [plan.offsets[row] for row in plan.starts]
    for time, now in enumerate(moments):
        assert plan.offsets[now.row] <= time
        assert plan.offsets[plan.inputs[now.input]] <= time
        assert starts[now.newest] <= time
        assert now.newest == len(starts) - 1 or time < starts[now.newest + 1]
        assert now.step == min((time - starts[now.tubelet]) // step, length)
        # the points of this step are those of a frame that has been read
        assert plan.starts[now.tubelet] + now.step <= now.row
    for drawn in {now.tubelet for now in moments}:
        assert max(now.step for now in moments if now.tubelet == drawn) == length


def test_tubelets_with_nothing_hidden_give_way() -> None:
    clip = config_of().clip
    plan = plan_clip(clip, 6)
    hidden = np.array([[False], [True], [False], [True]])
    assert {now.tubelet for now in timeline(plan, clip.tubelet)} == {0, 2}
    assert {now.tubelet for now in timeline(plan, clip.tubelet, hidden)} == {0, 1, 3}


def test_every_target_has_truth_prediction_and_difference(known: Sample) -> None:
    shown = scales([known])
    rows = {
        name: [title for title, _ in target_painters(known, name, shown, 1)]
        for name in known.outcomes
    }
    assert list(rows) == list(EVERYTHING)
    in_units = {"pixel", "flow", "trajectory"}
    for name, titles in rows.items():
        unit = ["Difference"] if name in in_units else []
        assert titles == ["Truth", "Prediction", *unit, "Error"]


def test_what_a_knowing_model_is_shown_to_miss_is_nothing(known: Sample) -> None:
    shown = scales([known])
    hidden = known.hidden.any()
    assert hidden
    for name in known.outcomes:
        films = dict(target_painters(known, name, shown, 6))
        for now in timeline(known.plan, known.tubelet)[:10]:
            for title in {"Difference", "Error"} & set(films):
                picture = films[title](now)
                assert picture.max() < 80, (name, title)  # no heat: dark, or the grey of visible
            if name not in {"pixel", "trajectory"}:
                tubelet = now.tubelet if name.startswith("trajectory") else now.newest
                masked = known.hidden[tubelet].repeat(48, axis=0).repeat(48, axis=1)
                same = films["Truth"](now)[masked] == films["Prediction"](now)[masked]
                assert same.mean() > 0.95, name  # strokes reach over the edge of a patch


def test_an_error_lights_up_in_its_patch_alone(known: Sample) -> None:
    shown = scales([known])
    for name, outcome in known.outcomes.items():
        token = int(outcome.scored.any(dim=1).nonzero()[0])
        _, row, column = np.unravel_index(token, known.hidden.shape)
        kept = outcome.predicted[token].clone()
        outcome.predicted[token] += 100
        films = dict(target_painters(known, name, shown, 6))
        picture = films["Error"](timeline(known.plan, known.tubelet)[0])
        outcome.predicted[token] = kept
        lit = np.argwhere(picture.max(-1) > 200)
        top, left = 48 * row, 48 * column
        assert lit.min(axis=0).tolist() == [top, left]
        assert lit.max(axis=0).tolist() == [top + 47, left + 47]


def test_films_of_a_clip_are_of_one_size_and_say_what_they_are() -> None:
    config = config_of(flow={"weight": 1.0, "cell": 4})
    plan, clip = shapes_clip(config, index=3)
    sample = predict(Knowing(config, plan, clip), config, plan, clip, "a clip")
    films = clip_films(sample, scales([sample]))
    assert [panel.title for panel in films.panels] == ["Input", "What the encoder sees"]
    assert [row.title for row in films.targets] == [
        "Flow",
        "Trajectories",
        "HOG along trajectories",
    ]
    for row in films.targets:
        for panel in row.panels:
            assert (panel.width, panel.height) == (6 * 48, 6 * 32)
            assert panel.alt == f"{panel.title}: {row.title}, a clip"
    assert "Is 0.00 px" in films.targets[0].numbers
    assert "Ends 0.00 px" in numbers(sample, "trajectory")
    assert numbers(sample, "trajectory_hog") == ""


def test_a_video_of_one_frame_has_films_and_no_motion_to_score() -> None:
    config = config_of(**EVERYTHING)
    plan, clip = shapes_clip(config, index=3)
    real = torch.zeros_like(clip.real)
    real[0] = True
    short = replace(clip, real=real, frames=clip.frames[:1].expand_as(clip.frames).clone())
    model: Any = Knowing(config, plan, short)
    sample = predict(model, config, plan, short, "short")
    assert sample.paths is not None
    assert sample.paths.error is None
    films = clip_films(sample, scales([sample]))
    rows = {row.title: [panel.title for panel in row.panels] for row in films.targets}
    assert rows["Flow"] == rows["Trajectories"] == ["Truth", "Prediction", "Difference"]
    assert rows["Pixels"][-1] == "Error"
    assert [row.numbers for row in films.targets] == [""] * len(EVERYTHING)


def test_many_films_share_the_room_of_a_page(known: Sample) -> None:
    shown = scales([known])
    count = 2 + 3 * 4 + 6 * 3
    assert film_limit([known] * 4, shown) == ALL_FILMS // (4 * count)
    assert film_limit([], shown) == FILM
    titles = [title for title, _ in clip_painters(known, shown, 1)]
    assert titles == ["Input", "What the encoder sees"]
