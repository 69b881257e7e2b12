"""Few labels: exactly n a class, every draw another, settings chosen on none but these."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from rich.console import Console

from m3video.config import ClipConfig, ProbeConfig
from m3video.errors import ConfigError
from m3video.model.checkpoint import save_model
from m3video.model.vit import VisionTransformer
from m3video.train.evaluate import evaluate_features
from m3video.train.features import Features
from m3video.train.few_shot import few_shot_point
from m3video.train.linear import GridPoint, LinearProbe, NeighbourProbe, nearest_neighbours
from m3video.train.probe import format_result, probe
from m3video.train.splits import check_shots, draw_shots, hold_out_each


def config(**changes: object) -> ProbeConfig:
    return ProbeConfig.model_validate(
        {"init": "x", "data": "y", "epochs": 10, "workers": 0, **changes}
    )


def clouds(count: int, gap: float) -> Features:
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(count) % 3
    centres = torch.randn(3, 16, generator=generator)
    values = gap * centres[labels] + torch.randn(count, 16, generator=generator)
    return Features(values, labels, torch.arange(count), [])


@settings(max_examples=30, deadline=None)
@given(shots=st.integers(1, 5), draw=st.integers(0, 9), seed=st.integers(0, 9))
def test_a_draw_has_exactly_n_of_each_class(shots: int, draw: int, seed: int) -> None:
    labels = torch.tensor([0, 1, 2] * 10 + [1] * 20)
    train = torch.arange(5, 45)
    few = draw_shots(labels, train, shots, draw, seed)
    assert torch.bincount(labels[few]).tolist() == [shots] * 3
    assert len(set(few.tolist())) == 3 * shots
    assert set(few.tolist()) <= set(train.tolist())
    more = draw_shots(labels, train, shots + 1, draw, seed)
    assert set(few.tolist()) < set(more.tolist()), "more of the same draw"


def test_draws_and_seeds_differ() -> None:
    labels = torch.arange(300) % 3
    drawn = [
        tuple(draw_shots(labels, torch.arange(300), 5, draw, seed).tolist())
        for draw in range(5)
        for seed in range(3)
    ]
    assert len(set(drawn)) == 15


def test_a_class_with_fewer_videos_is_refused() -> None:
    labels = torch.tensor([0] * 10 + [1] * 3)
    split = (torch.arange(12), torch.tensor([12]))
    check_shots(labels, [split], (1, 2), ["walk", "run"])
    with pytest.raises(ConfigError, match=r"shots 3: label 'run' has only 2 training videos"):
        check_shots(labels, [split], (1, 3), ["walk", "run"])


def test_too_many_shots_are_refused_before_any_video_is_encoded(
    made_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = ClipConfig(frames=4, stride=2, size=(32, 48), patch=8)
    encoder = VisionTransformer(
        frames=4, size=(32, 48), tubelet=2, patch=8, width=32, depth=1, heads=2
    )
    save_model(encoder, tmp_path / "model", clip)

    def encode(*_: object, **__: object) -> None:
        raise AssertionError("a video was encoded")

    monkeypatch.setattr("m3video.train.probe.extract_features", encode)
    for data in (str(made_folder), "moving-shapes"):
        with pytest.raises(ConfigError, match=r"shots 9: label '.*' has only"):
            probe(
                config(init=tmp_path / "model", data=data, shots=(1, 9), folds=2, train_clips=100)
            )


def test_mean_and_standard_error_by_hand() -> None:
    features = clouds(90, 0.5)
    split = (torch.arange(60), torch.arange(60, 90))
    settings = config(kinds=("knn",), shots=(2,), draws=3, neighbours=1)
    found = evaluate_features(features, [split], names="abc", config=settings)["few_shot"]["knn"]
    values = features.values
    spread = (values - values[:60].mean(0)) / (values[:60].std(0) + 1e-6)
    hits = []
    for draw in range(3):
        few = draw_shots(features.labels, split[0], 2, draw, 0)
        votes = nearest_neighbours(spread[few], features.labels[few], spread[60:], classes=3, k=1)
        hits.append(float((votes == features.labels[60:]).sum()) / 30)
    assert found["2"]["accuracies"] == pytest.approx(hits)
    assert len(set(hits)) > 1
    mean = sum(hits) / 3
    deviation = (sum((hit - mean) ** 2 for hit in hits) / 2) ** 0.5
    assert found["2"]["mean"] == pytest.approx(mean)
    assert found["2"]["error"] == pytest.approx(deviation / 3**0.5)


def test_more_labels_say_more_and_folds_are_counted_together() -> None:
    features = clouds(150, 0.6)
    fifths = torch.arange(150) // 50
    splits = [
        ((fifths != fold).nonzero().squeeze(1), (fifths == fold).nonzero().squeeze(1))
        for fold in range(3)
    ]
    result = evaluate_features(
        features, splits, names="abc", config=config(shots=(1, 5, 20), draws=4)
    )
    few = result["few_shot"]["linear"]
    means = [few[count]["mean"] for count in ("1", "5", "20")]
    assert means == sorted(means)
    assert 1 / 3 < means[0] < means[2] <= 1
    for entry in few.values():
        whole = [150 * accuracy for accuracy in entry["accuracies"]]
        assert whole == pytest.approx([round(hit) for hit in whole]), "of all 150 test videos"
    row = format_result(result).splitlines()[1]
    assert row.endswith(f"{100 * means[2]:.1f} ± {100 * few['20']['error']:.1f}")


def test_fits_are_counted_and_each_kind_is_told_as_soon_as_it_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("m3video.train.progress.PLAIN_EVERY", 0)
    said = io.StringIO()
    features = clouds(30, 1.0)
    split = torch.arange(20), torch.arange(20, 30)
    asked = config(shots=(1, 2), draws=2, epochs=2)
    result = evaluate_features(
        features, [split, split], names="abc", config=asked, console=Console(file=said, width=10)
    )
    lines = said.getvalue().splitlines()
    counts = [f"{number}/10 fits" for number in range(1, 11)]
    assert [line.rpartition(": ")[2] for line in lines[:10]] == counts
    few = [f"{100 * result['few_shot']['linear'][shots]['mean']:.1f} %" for shots in ("1", "2")]
    right = f"{100 * result['linear']:.1f} %"
    assert lines[10] == f"linear probe: {right}, 1 a class {few[0]}, 2 a class {few[1]}"
    assert lines[11] == "k-NN: 1/10 fits", "the other kind has not begun before"


def test_settings_are_chosen_on_none_but_the_few(monkeypatch: pytest.MonkeyPatch) -> None:
    features = clouds(60, 1.0)
    grid = config(lr=(0.3, 0.01), weight_decay=(0.0, 0.1))
    probe = LinearProbe(features.values, features.labels, classes=3, config=grid)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def choose(kept: torch.Tensor, held: torch.Tensor) -> GridPoint:
        seen.append((kept, held))
        return GridPoint(0.3, 0.0)

    monkeypatch.setattr(probe, "choose", choose)
    few = draw_shots(features.labels, torch.arange(60), 5, 0, 0)
    assert few_shot_point(probe, features.labels, few, 5) == GridPoint(0.3, 0.0)
    ((kept, held),) = seen
    assert sorted([*kept.tolist(), *held.tolist()]) == few.tolist()
    assert torch.bincount(features.labels[held]).tolist() == [1, 1, 1]
    one = draw_shots(features.labels, torch.arange(60), 1, 0, 0)
    assert few_shot_point(probe, features.labels, one, 1) == GridPoint(0.01, 0.1)
    assert len(seen) == 1, "of one video a class none can be held out"
    neighbours = NeighbourProbe(features.values, features.labels, classes=3, config=grid)
    assert few_shot_point(neighbours, features.labels, few, 5) is None


def test_a_fifth_of_each_class_is_held_out() -> None:
    labels = torch.tensor([0] * 10 + [1] * 10 + [2] * 10)
    kept, held = hold_out_each(labels, torch.arange(30))
    assert torch.bincount(labels[held]).tolist() == [2, 2, 2]
    assert not set(kept.tolist()) & set(held.tolist())


@pytest.mark.parametrize(
    ("field", "value"),
    [("shots", (0,)), ("shots", (2, 2)), ("draws", 1), ("kinds", ()), ("kinds", ("knn", "knn"))],
)
def test_what_cannot_be_drawn_is_refused(field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field):
        config(**{field: value})
