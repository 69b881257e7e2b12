"""The verb evaluate: nothing depends on batches, and what is left out is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import m3video
from m3video.config import ClipConfig, EvaluateConfig, FinetuneConfig, save_config
from m3video.errors import CheckpointError, ConfigError
from m3video.model.checkpoint import save_model
from m3video.model.classifier import Classifier
from m3video.model.vit import VisionTransformer
from m3video.train.labelled_videos import with_split
from m3video.train.multiview import evaluate, format_evaluation
from m3video.video.augment import normalise
from m3video.video.manifest import Manifest, load_manifest, write_manifest
from m3video.video.reader import read_frames
from m3video.video.sampling import segment_starts
from m3video.video.views import dense_rows, view_crops
from tests.conftest import write_video

CLIP = ClipConfig(frames=4, stride=3, size=(32, 48), patch=8)
UT = Path(__file__).parents[3] / "shared" / "data" / "ut_interaction" / "manifest.csv"


def write_classifier(folder: Path, labels: tuple[str, ...]) -> Classifier:
    torch.manual_seed(0)
    encoder = VisionTransformer(
        frames=4, size=(32, 48), tubelet=2, patch=8, width=16, depth=2, heads=2
    )
    model = Classifier(encoder, labels)
    torch.nn.init.normal_(model.head.weight)
    save_model(model, folder, CLIP)
    return model.eval()


def config_of(model: Path, data: Path | str, out: Path, **changes: Any) -> EvaluateConfig:
    settings = {"workers": 0, "device": "cpu", **changes}
    return EvaluateConfig.model_validate(
        {**settings, "model": model, "data": str(data), "out": out}
    )


def test_probabilities_are_the_mean_over_clips_and_crops(tmp_path: Path, made_folder: Path) -> None:
    model = write_classifier(tmp_path / "m", ("left", "right", "up"))
    result = m3video.evaluate(
        config_of(tmp_path / "m", made_folder, tmp_path / "e", segments=2, crops=3)
    )
    assert result["videos"] == 6
    assert result["split"] == "all"
    assert result["unreadable"][0][0].endswith("broken.mp4")
    assert result["per_class"][2] == {"label": "up", "videos": 0, "top1": None, "top5": None}
    path = sorted(made_folder.rglob("*.mp4"))[0]
    frames = read_frames(path)
    shown = [
        crop(frames[dense_rows(CLIP, len(frames), start)].numpy())
        for start in segment_starts(len(frames), 10, 2)
        for crop in view_crops(72, 96, (32, 48), 3)
    ]
    with torch.inference_mode():
        clips = normalise(torch.stack([torch.from_numpy(view) for view in shown]))
        expected = model(clips).softmax(1).mean(0)
    line = (tmp_path / "e" / "predictions.csv").read_text().splitlines()[1].split(",")
    assert line[0] == str(path.absolute())
    found = dict(zip(line[2::2], map(float, line[3::2]), strict=True))
    for label, probability in zip(model.labels, expected.tolist(), strict=True):
        assert found[label] == pytest.approx(probability, abs=2e-6)


def test_batches_change_nothing(tmp_path: Path, made_folder: Path) -> None:
    write_classifier(tmp_path / "m", ("left", "right"))
    written = []
    for batch in (1, 5, 12):
        out = tmp_path / f"e-{batch}"
        evaluate(config_of(tmp_path / "m", made_folder, out, segments=2, crops=3, batch=batch))
        written.append((out / "predictions.csv").read_text())
    assert written[0] == written[1] == written[2]


def test_the_order_of_the_videos_changes_only_the_order_of_the_rows(
    tmp_path: Path, made_folder: Path
) -> None:
    write_classifier(tmp_path / "m", ("left", "right"))
    manifest = load_manifest(made_folder, labels_from_folders=True)
    results, rows = [], []
    for name, videos in (("there", manifest.videos), ("back", manifest.videos[::-1])):
        write_manifest(type(manifest)(videos), tmp_path / f"{name}.csv")
        out = tmp_path / name
        results.append(evaluate(config_of(tmp_path / "m", tmp_path / f"{name}.csv", out)))
        rows.append((out / "predictions.csv").read_text().splitlines()[1:])
    assert rows[0] == rows[1][::-1]
    for name in ("top1", "top5", "per_class"):
        assert results[0][name] == results[1][name]


def test_a_video_that_cannot_be_read_is_left_out_and_listed(
    tmp_path: Path, made_folder: Path
) -> None:
    write_classifier(tmp_path / "m", ("left", "right"))
    manifest = load_manifest(made_folder, labels_from_folders=True)
    write_manifest(manifest, tmp_path / "m.csv")
    manifest.videos[3].path.write_bytes(b"gone since it was indexed")
    result = evaluate(config_of(tmp_path / "m", tmp_path / "m.csv", tmp_path / "e", segments=2))
    assert result["videos"] == 5
    assert [path for path, _ in result["left_out"]] == [str(manifest.videos[3].path.absolute())]
    assert str(manifest.videos[3].path) not in (tmp_path / "e" / "predictions.csv").read_text()


def write_splits(folder: Path, path: Path, splits: list[str]) -> Path:
    manifest = load_manifest(folder, labels_from_folders=True)
    pairs = zip(manifest.videos, splits, strict=True)
    write_manifest(Manifest(tuple(with_split(video, split) for video, split in pairs)), path)
    return path


def test_splits(tmp_path: Path, made_folder: Path) -> None:
    write_classifier(tmp_path / "m", ("left", "right"))
    splits = ["train", "val", "val", "train", "val", "train"]
    data = write_splits(made_folder, tmp_path / "m.csv", splits)

    def counted(**changes: Any) -> tuple[str, int]:
        result = evaluate(config_of(tmp_path / "m", data, tmp_path / "e", **changes))
        return result["split"], result["videos"]

    assert counted() == ("val", 3)
    assert counted(split="train") == ("train", 3)
    assert counted(split="all") == ("all", 6)
    with pytest.raises(ConfigError, match="no video has the split `test`"):
        counted(split="test")
    write_splits(made_folder, tmp_path / "m.csv", [*splits[:5], "test"])
    assert counted() == ("test", 1)


def test_what_does_not_fit_is_one_line(tmp_path: Path, made_folder: Path) -> None:
    write_classifier(tmp_path / "m", ("left", "up"))
    with pytest.raises(ConfigError, match=r"label 'right' .* is not a class of .*left, up"):
        evaluate(config_of(tmp_path / "m", made_folder, tmp_path / "e"))
    with pytest.raises(ConfigError, match="moving-shapes has the classes"):
        evaluate(config_of(tmp_path / "m", "moving-shapes", tmp_path / "e"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not empty"):
        evaluate(config_of(tmp_path / "m", made_folder, tmp_path / "full"))
    encoder = VisionTransformer(
        frames=4, size=(32, 48), tubelet=2, patch=8, width=16, depth=2, heads=2
    )
    save_model(encoder, tmp_path / "encoder", CLIP)
    with pytest.raises(CheckpointError, match="an encoder without classes"):
        evaluate(config_of(tmp_path / "encoder", made_folder, tmp_path / "e"))
    assert not (tmp_path / "e").exists()


def test_videos_of_one_class_can_be_tested(tmp_path: Path, made_folder: Path) -> None:
    write_classifier(tmp_path / "m", ("left", "right"))
    lines = [f"{path},left" for path in sorted((made_folder / "left").iterdir())]
    (tmp_path / "m.csv").write_text("\n".join(["path,label", *lines]))
    result = evaluate(config_of(tmp_path / "m", tmp_path / "m.csv", tmp_path / "e", segments=1))
    assert result["videos"] == 3
    assert result["chance"] == 1
    (tmp_path / "m.csv").write_text(f"path\n{made_folder.parent / 'x.mp4'}\n")
    write_video(made_folder.parent / "x.mp4")
    with pytest.raises(ConfigError, match="no video has a label"):
        evaluate(config_of(tmp_path / "m", tmp_path / "m.csv", tmp_path / "e"))
    with pytest.raises(ConfigError, match="cannot be written to; choose another --out"):
        evaluate(config_of(tmp_path / "m", made_folder, made_folder.parent / "x.mp4" / "e"))


def test_a_classifier_that_tells_none_apart_is_told(tmp_path: Path, made_folder: Path) -> None:
    model = write_classifier(tmp_path / "m", ("left", "right"))
    torch.nn.init.zeros_(model.head.weight)
    torch.nn.init.zeros_(model.head.bias)
    save_model(model, tmp_path / "m", CLIP)
    both = evaluate(config_of(tmp_path / "m", made_folder, tmp_path / "e", segments=1, crops=1))
    assert "the classifier tells none apart" in format_evaluation(both)
    one = load_manifest(made_folder, labels_from_folders=True)
    only = tuple(video for video in one.videos if video.label == "left")
    write_manifest(Manifest(only), tmp_path / "left.csv")
    settings = config_of(tmp_path / "m", tmp_path / "left.csv", tmp_path / "f", segments=1, crops=1)
    result = evaluate(settings)
    assert result["top1"] == 1.0
    assert "apart" not in format_evaluation(result)


def test_segments_of_a_short_video_are_tested(tmp_path: Path) -> None:
    for label in ("a", "b"):
        write_video(tmp_path / "v" / label / "0.mp4", frames=3)
    write_classifier(tmp_path / "m", ("a", "b"))
    for sampling in ("dense", "segment"):
        out = tmp_path / sampling
        result = evaluate(config_of(tmp_path / "m", tmp_path / "v", out, sampling=sampling))
        assert result["videos"] == 2
        assert result["views"]["sampling"] == sampling


def test_real_clips(tmp_path: Path) -> None:
    if not UT.exists():
        pytest.skip("no ../shared/data/ut_interaction")
    lines = UT.read_text().splitlines()
    rows = [lines[0], *lines[1:7]]
    (tmp_path / "ut.csv").write_text(
        "\n".join([rows[0], *(f"{UT.parent}/{row}" for row in rows[1:])]) + "\n"
    )
    labels = tuple(sorted({row.split(",")[1] for row in lines[1:]}))
    write_classifier(tmp_path / "m", labels)
    result = evaluate(config_of(tmp_path / "m", tmp_path / "ut.csv", tmp_path / "e", segments=2))
    assert result["videos"] == 6
    assert result["left_out"] == []
    kept = json.loads((tmp_path / "e" / "confusion.json").read_text())
    assert sum(map(sum, kept["counts"])) == 6


def test_the_runs_own_views_are_the_default(tmp_path: Path, made_folder: Path) -> None:
    write_classifier(tmp_path / "run" / "model", ("left", "right"))
    trained = FinetuneConfig.model_validate(
        {
            "init": "i",
            "data": "d",
            "out": "o",
            "sampling": "segment",
            "views": {"segments": 2, "crops": 1},
        }
    )
    save_config(trained, tmp_path / "run" / "config.yaml")
    plain = {"segments": None, "crops": None}
    for model in (tmp_path / "run", tmp_path / "run" / "model"):
        found = evaluate(config_of(model, made_folder, tmp_path / "e", **plain))["views"]
        assert found == {"segments": 2, "crops": 1, "sampling": "segment", "stride": 3}
    chosen = {"segments": 1, "crops": 3, "sampling": "dense", "stride": 2}
    found = evaluate(config_of(tmp_path / "run", made_folder, tmp_path / "e", **chosen))["views"]
    assert found == chosen


def test_videos_that_were_trained_on_are_told(
    tmp_path: Path, made_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of three videos a class two are trained on, in a run that was moved since."""
    write_classifier(tmp_path / "run" / "model", ("left", "right"))
    trained = FinetuneConfig.model_validate({"init": "i", "data": "d", "out": "o", "labels": 2})
    save_config(trained, tmp_path / "run" / "config.yaml")
    manifest = load_manifest(made_folder, labels_from_folders=True)
    write_manifest(manifest, tmp_path / "run" / "manifest.csv")
    views = {"segments": 1, "crops": 1}
    (tmp_path / "link").symlink_to(made_folder)
    result = evaluate(config_of(tmp_path / "run", tmp_path / "link", tmp_path / "e", **views))
    assert result["trained_on"] == 4
    said = capsys.readouterr().err
    assert "4 of the 6 videos were trained on" in said
    assert "will be replaced" not in said
    (tmp_path / "run" / "manifest.csv").write_text("path,frames\na.mp4,x\n,\n")
    result = evaluate(config_of(tmp_path / "run", made_folder, tmp_path / "e", **views))
    assert result["trained_on"] is None, "a damaged list costs no evaluation"
    said = capsys.readouterr().err
    assert "were trained on" not in said
    assert f"the evaluation in {tmp_path / 'e'} will be replaced" in said
