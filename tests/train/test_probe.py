"""The probe: features that hold the labels are found, noise is not, and no test video chooses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from m3video.config import ClipConfig, ProbeConfig
from m3video.errors import ConfigError
from m3video.model.checkpoint import save_model
from m3video.model.vit import VisionTransformer
from m3video.train.evaluate import evaluate_features
from m3video.train.features import Features, extract_features
from m3video.train.linear import GridPoint, fit_linear, nearest_neighbours
from m3video.train.probe import probe, probe_metadata
from m3video.train.splits import folds, hold_out
from m3video.video.augment import normalise
from m3video.video.loader import VideoClips, make_eval_loader
from m3video.video.manifest import load_manifest
from m3video.video.moving_shapes import CLASSES, MovingShapes
from m3video.video.sampling import plan_clip

CLIP = ClipConfig(frames=4, stride=2, size=(32, 48), patch=8)


def config(**changes: object) -> ProbeConfig:
    return ProbeConfig.model_validate(
        {"init": "x", "data": "y", "epochs": 20, "workers": 0, **changes}
    )


def clouds(count: int, classes: int, gap: float) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(count) % classes
    centres = torch.randn(classes, 16, generator=generator)
    return gap * centres[labels] + torch.randn(count, 16, generator=generator), labels


@pytest.mark.parametrize(("gap", "low", "high"), [(3.0, 0.95, 1.0), (0.0, 0.0, 0.45)])
def test_separable_features_are_found_and_noise_is_not(gap: float, low: float, high: float) -> None:
    values, labels = clouds(300, 4, gap)
    features = Features(values, labels, torch.arange(300), [])
    splits = folds(labels, None, 5, seed=0)
    result = evaluate_features(features, splits, names="abcd", config=config())
    assert low <= result["linear"] <= high
    assert low <= result["knn"] <= high
    assert result["chance"] == 0.25
    assert result["clips"]["test"] == 300, "every video is tested once"


def test_the_grid_in_one_pass_equals_its_members_alone() -> None:
    values, labels = clouds(100, 3, 1.0)
    grid = [GridPoint(0.1, 0.0), GridPoint(0.01, 0.1)]
    together = fit_linear(values, labels, grid, classes=3, config=config())
    for point, head in zip(grid, together, strict=True):
        (alone,) = fit_linear(values, labels, [point], classes=3, config=config())
        torch.testing.assert_close(head.weight, alone.weight, rtol=1e-4, atol=1e-6)
    assert (together[0].weight - together[1].weight).abs().max() > 1e-3


@pytest.mark.parametrize(("width", "threads"), [(16, 1), (40_000, 2)])
def test_small_fits_run_on_one_thread(
    width: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads that wait for each other after each small operation cost ten times the work."""
    seen: set[int] = set()
    entropy = torch.nn.functional.cross_entropy

    def noted(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        seen.add(torch.get_num_threads())
        return entropy(logits, labels)

    monkeypatch.setattr("torch.nn.functional.cross_entropy", noted)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        values, labels = torch.zeros(60, width), torch.arange(60) % 3
        fit_linear(values, labels, [GridPoint(0.1, 0)], classes=3, config=config(epochs=1))
        assert seen == {threads}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_separable_problem_is_solved_as_scipy_solves_it() -> None:
    """The optimum of the penalised loss, found by another optimiser (L-BFGS of SciPy)."""
    from scipy.optimize import minimize

    values, labels = clouds(90, 3, 0.7)
    decay = 0.05
    (head,) = fit_linear(
        values, labels, [GridPoint(0.3, decay)], classes=3, config=config(epochs=400)
    )

    def loss(flat: object) -> tuple[float, object]:
        parameters = torch.tensor(flat, dtype=torch.float64, requires_grad=True)
        weight, bias = parameters[:48].view(3, 16), parameters[48:]
        logits = values.double() @ weight.T + bias
        value = torch.nn.functional.cross_entropy(logits, labels)
        value = value + decay / 2 * parameters.square().sum()
        value.backward()
        assert parameters.grad is not None
        return value.item(), parameters.grad.numpy()

    best = minimize(loss, torch.zeros(51).double().numpy(), jac=True, method="L-BFGS-B").x
    torch.testing.assert_close(
        head.weight.flatten(), torch.tensor(best[:48]).float(), rtol=0, atol=2e-3
    )


def test_neighbours_vote_by_similarity() -> None:
    train = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [-0.1, 1.0], [0.1, 1.0]])
    labels = torch.tensor([0, 0, 1, 1, 1])
    test = torch.tensor([[1.0, 0.05], [0.05, 1.0]])
    # With k = 5 all vote: the two near ones must outweigh the three far ones.
    votes = nearest_neighbours(train, labels, test, classes=2, k=5)
    assert votes.tolist() == [0, 1]


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=4, max_size=20),
    count=st.integers(2, 4),
    seed=st.integers(0, 99),
)
def test_folds_test_everything_once_and_keep_groups_whole(
    sizes: list[int], count: int, seed: int
) -> None:
    groups = [str(number) for number, size in enumerate(sizes) for _ in range(size)]
    labels = torch.arange(len(groups)) % 3
    parts = folds(labels, groups, count, seed)
    tested = torch.cat([test for _, test in parts])
    assert sorted(tested.tolist()) == list(range(len(groups)))
    for train, test in parts:
        assert not {groups[i] for i in train} & {groups[i] for i in test}
        assert len(train) + len(test) == len(groups)


def test_folds_spread_labels_evenly() -> None:
    labels = torch.arange(60) % 6
    for _, test in folds(labels, None, 5, seed=1):
        assert torch.bincount(labels[test], minlength=6).tolist() == [2] * 6


def test_more_folds_than_groups_are_refused() -> None:
    with pytest.raises(ConfigError, match="only 2 groups"):
        folds(torch.tensor([0, 1, 0]), ["a", "b", "a"], 3, seed=0)


def test_features_are_the_mean_token_of_each_video() -> None:
    source = MovingShapes(clips=6, clip=CLIP, plan=plan_clip(CLIP, 0), texture="noise", fixed=True)
    encoder = small_encoder()
    features = extract_features(
        encoder, source, clip=CLIP, segments=2, batch=4, device=torch.device("cpu")
    )
    (clips,) = make_eval_loader(source, batch=6, workers=0)
    tokens = encoder(normalise(clips.frames)).mean(1)
    expected = (tokens[0::2] + tokens[1::2]) / 2
    torch.testing.assert_close(features.values, expected, rtol=1e-4, atol=1e-5)
    assert features.videos.tolist() == [0, 1, 2]


def small_encoder() -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(
        frames=4, size=(32, 48), tubelet=2, patch=8, width=32, depth=1, heads=2
    ).eval()


def test_untrained_is_another_encoder_of_the_same_kind(tmp_path: Path) -> None:
    save_model(small_encoder(), tmp_path / "model", CLIP)
    settings = {
        "init": tmp_path / "model",
        "data": "moving-shapes",
        "train_clips": 26,
        "test_clips": 13,
        "epochs": 3,
    }
    trained = probe(config(**settings, out=tmp_path / "a.json", seed=1))
    untrained = probe(config(**settings, out=tmp_path / "b.json", untrained=True, seed=1))
    assert trained["labels"] == list(CLASSES)
    assert trained["confusion"] != untrained["confusion"]
    assert json.loads((tmp_path / "b.json").read_text()) == untrained


def test_moving_shapes_are_tested_on_noise_and_on_photographs(tmp_path: Path) -> None:
    save_model(small_encoder(), tmp_path / "model", CLIP)
    sizes = {"init": tmp_path / "model", "data": "moving-shapes", "train_clips": 26, "epochs": 2}
    both = probe(config(**sizes, test_clips=27))
    parts = both["by_texture"]
    assert list(parts) == ["noise", "photo"]
    assert both["linear"] * 27 == pytest.approx(parts["noise"] * 14 + parts["photo"] * 13)
    assert both["clips"] == {"train": 26, "test": 27}
    photo = probe(config(**sizes, test_clips=13, texture="photo"))
    assert photo["by_texture"] == {"photo": photo["linear"]}


def test_metadata_that_tells_the_label_is_found_out(labelled: Path, tmp_path: Path) -> None:
    """Labels that follow the length of the video need no encoder."""
    lines = ["path,label,frames,fps,width,height,duration"]
    for number in range(40):
        frames = 30 + 20 * (number % 2) + number % 5
        lines.append(f"{labelled.parent / '1.mp4'},{'ab'[number % 2]},{frames},25,96,72,1")
    path = tmp_path / "lengths.csv"
    path.write_text("\n".join(lines))
    result = probe_metadata(config(data=str(path), epochs=20))
    assert result["linear"] == 1
    assert result["clips"]["test"] == 40
    assert result["labels"] == ["a", "b"]


def test_videos_without_labels_are_refused(tmp_path: Path, made_clip: Path) -> None:
    save_model(small_encoder(), tmp_path / "model", CLIP)
    (tmp_path / "videos.csv").write_text(f"path\n{made_clip}\n")
    with pytest.raises(ConfigError, match="no video has a label; give its videos one in a column"):
        probe(config(init=tmp_path / "model", data=str(tmp_path / "videos.csv")))


def test_out_that_is_a_folder_is_refused_and_left_alone(tmp_path: Path) -> None:
    save_model(small_encoder(), tmp_path / "model", CLIP)
    with pytest.raises(ConfigError, match="is a folder; give the name of a JSON file"):
        probe(config(init=tmp_path / "model", data="moving-shapes", out=tmp_path / "model"))
    assert len(list((tmp_path / "model").iterdir())) == 2


@pytest.fixture
def labelled(tmp_path: Path, made_clip: Path) -> Path:
    """A CSV of eight videos of two labels in four scenes; the file named first is broken."""
    save_model(small_encoder(), tmp_path / "model", CLIP)
    lines = ["path,label,scene,split"]
    for number in range(8):
        path = tmp_path / f"{number}.mp4"
        shutil.copy(made_clip, path)
        part = ("train", "train", "val", "test")[number // 2]
        lines.append(f"{path.name},{'ab'[number % 2]},{number % 4},{part}")
    (tmp_path / "0.mp4").write_bytes(b"not a video")
    (tmp_path / "videos.csv").write_text("\n".join(lines))
    return tmp_path / "videos.csv"


def test_the_column_split_decides_and_test_goes_before_val(labelled: Path) -> None:
    settings = {"init": labelled.parent / "model", "data": str(labelled), "epochs": 1}
    result = probe(config(**settings))
    assert result["clips"] == {"train": 3, "test": 2}
    assert [path for path, _ in result["unreadable"]] == [str(labelled.parent / "0.mp4")]
    assert json.loads((labelled.parent / "model" / "probe-videos.json").read_text()) == result
    labelled.write_text(labelled.read_text().replace("test", "train"))
    assert probe(config(**settings))["clips"] == {"train": 5, "test": 2}
    labelled.write_text(labelled.read_text().replace("val", "dev"))
    with pytest.raises(ConfigError, match=r"column split holds 'dev', 'train'; it must name"):
        probe(config(**settings))
    text = labelled.read_text().replace("dev", "val")
    labelled.write_text(
        text.replace(",b,1,train", ",a,1,train").replace(",b,3,train", ",a,3,train")
    )
    with pytest.raises(ConfigError, match="split `train` must have two or more labels"):
        probe(config(**settings))
    labelled.write_text(text.replace(",b,1,val", ",,1,val"))
    with pytest.raises(ConfigError, match=r"5\.mp4 has no label; give it one, or leave it out"):
        probe(config(**settings))
    with pytest.raises(ConfigError, match=r"0\.mp4 cannot be written to; choose another --out"):
        probe(config(**settings, out=labelled.parent / "0.mp4" / "probe.json"))


def test_a_group_is_a_column_of_the_manifest(labelled: Path) -> None:
    text = labelled.read_text()
    labelled.write_text("\n".join(line.rpartition(",")[0] for line in text.splitlines()))
    settings = {"init": labelled.parent / "model", "data": str(labelled), "epochs": 1}
    assert probe(config(**settings, group="scene", folds=4))["clips"]["test"] == 7
    with pytest.raises(ConfigError, match="only 4 groups of videos"):
        probe(config(**settings, group="scene", folds=5))
    with pytest.raises(ConfigError, match="no column 'person' to group by; there are: scene"):
        probe(config(**settings, group="person"))


def test_a_video_that_breaks_after_the_scan_is_listed_once(labelled: Path) -> None:
    manifest = load_manifest(labelled)
    source = VideoClips(manifest, clip=CLIP, plan=plan_clip(CLIP, 0), augment=None, segments=3)
    manifest.videos[1].path.write_bytes(b"not a video")
    features = extract_features(
        small_encoder(), source, clip=CLIP, segments=3, batch=8, device=torch.device("cpu")
    )
    assert [path for path, _ in features.unreadable] == [str(manifest.videos[1].path)]
    assert features.videos.tolist() == [0, 2, 3, 4, 5, 6]


def test_k_is_how_many_neighbours_vote() -> None:
    values, labels = clouds(60, 3, 1.0)
    features = Features(values, labels, torch.arange(60), [])
    splits = folds(labels, None, 5, seed=0)
    for k in (1, 48):
        result = evaluate_features(features, splits, names="abc", config=config(neighbours=k))
        hits = 0
        for train, test in splits:
            spread = (values - values[train].mean(0)) / values[train].std(0)
            votes = nearest_neighbours(spread[train], labels[train], spread[test], classes=3, k=k)
            hits += int((votes == labels[test]).sum())
        assert result["knn"] == pytest.approx(hits / 60, abs=0.02), k


def test_features_are_standardised_by_the_training_videos_alone() -> None:
    """A test video far away changes nothing of what is said of the others."""
    values, labels = clouds(80, 2, 1.0)
    train, test = torch.arange(60), torch.arange(60, 80)
    far = values.clone()
    far[-1] = 1e4
    hits = []
    for these in (values, far):
        features = Features(these, labels, torch.arange(80), [])
        result = evaluate_features(features, [(train, test)], names="ab", config=config())
        hits.append(round(20 * result["linear"]))
    assert abs(hits[0] - hits[1]) <= 1
    assert hits[0] >= 16


def test_settings_reach_the_features(
    tmp_path: Path, labelled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, object]] = []

    def extract(encoder: object, source: VideoClips | MovingShapes, **settings: object) -> Features:
        asked.append({**settings, "source": source})
        count = len(source) // int(str(settings.get("segments", 1)))
        return Features(torch.randn(count, 4), torch.arange(count) % 2, torch.arange(count), [])

    monkeypatch.setattr("m3video.train.probe.extract_features", extract)
    settings = {"init": tmp_path / "model", "batch": 3, "workers": 1, "epochs": 1}
    probe(config(**settings, data="moving-shapes", texture="photo", train_clips=9, test_clips=5))
    probe(config(**settings, data=str(labelled), segments=3))
    shapes = [entry["source"] for entry in asked[:2]]
    assert [(source.clips, source.texture) for source in shapes] == [(9, "photo"), (5, "photo")]
    numbers = [range(source.offset, source.offset + source.clips) for source in shapes]
    assert not set(numbers[0]) & set(numbers[1])
    assert len(asked[2]["source"]) == 3 * 7
    assert all((entry["batch"], entry["workers"]) == (3, 1) for entry in asked)


def test_the_grid_is_chosen_from_on_videos_that_it_was_not_fitted_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One member knows by heart what it was fitted to; the other is right about all else."""
    values, labels = torch.eye(20), torch.arange(20) % 2
    fitted: list[int] = []

    def fit(
        rows: torch.Tensor, given: torch.Tensor, grid: list[GridPoint], **_: object
    ) -> list[torch.nn.Linear]:
        fitted.append(len(rows))
        known = rows.amax(0) > 1  # the one of each row, standardised
        heads = []
        for point in grid:
            head = torch.nn.Linear(20, 2, bias=False).requires_grad_(False)
            right = known if point.lr == 0.3 else ~known
            head.weight.copy_(torch.nn.functional.one_hot(torch.where(right, labels, 1 - labels)).T)
            heads.append(head)
        return heads

    monkeypatch.setattr("m3video.train.linear.fit_linear", fit)
    grid = config(lr=(0.3, 0.1), weight_decay=(0.0,))
    features = Features(values, labels, torch.arange(20), [])
    result = evaluate_features(
        features, [(torch.arange(20), torch.arange(20))], names="ab", config=grid
    )
    assert result["chosen"] == [{"lr": 0.1, "weight_decay": 0.0}]
    assert fitted == [16, 20], "the chosen one is fitted again to all"


def test_settings_are_chosen_on_whole_groups() -> None:
    groups = [name for name in "abcdefghij" for _ in range(3)]
    kept, held = hold_out(groups, seed=0)
    assert sorted([*kept.tolist(), *held.tolist()]) == list(range(30))
    assert len(held) == 6, "a fifth of the groups"
    assert not {groups[i] for i in kept} & {groups[i] for i in held}
    with pytest.raises(ConfigError, match="only one group"):
        hold_out(["a"] * 5, seed=0)
