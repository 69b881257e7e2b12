"""Which videos are trained on and which are held out."""

from __future__ import annotations

from pathlib import Path

import pytest

from m3video.config import FinetuneConfig
from m3video.errors import ConfigError
from m3video.train.labelled_videos import (
    check_labels,
    hold_out,
    load_labelled,
    never_trained,
    split_of,
    training_videos,
    with_split,
)
from m3video.video.index import index
from m3video.video.manifest import Manifest, Video
from m3video.video.pack import pack


def videos_of(labels: str) -> Manifest:
    return Manifest(
        tuple(
            Video(Path(f"{n}.mp4"), frames=9, fps=25, width=48, height=32, duration=1, label=label)
            for n, label in enumerate(labels)
        )
    )


def test_a_share_of_each_class_is_held_out() -> None:
    manifest = hold_out(videos_of("aaaaaaaaaabbbbbc"), 0.4, seed=0)
    counts = {
        (label, split): sum(v.label == label and split_of(v) == split for v in manifest.videos)
        for label in "abc"
        for split in ("train", "val")
    }
    assert counts == {
        ("a", "train"): 6, ("a", "val"): 4,
        ("b", "train"): 3, ("b", "val"): 2,
        ("c", "train"): 1, ("c", "val"): 0,
    }  # fmt: skip
    assert hold_out(videos_of("aaaabbbb"), 0.5, 1) == hold_out(videos_of("aaaabbbb"), 0.5, 1)
    assert hold_out(videos_of("aaaabbbb"), 0.5, 1) != hold_out(videos_of("aaaabbbb"), 0.5, 2)


def test_the_first_videos_of_each_class_are_trained_on() -> None:
    config = FinetuneConfig.model_validate({"init": "i", "data": "d", "out": "o", "labels": 2})
    chosen = training_videos(videos_of("abaabbb"), config)
    assert [video.path.stem for video in chosen] == ["0", "1", "2", "4"]


def test_one_class_cannot_be_learned() -> None:
    config = FinetuneConfig.model_validate({"init": "i", "data": "d", "out": "o"})
    manifest = Manifest(
        tuple(with_split(v, "train" if v.label == "a" else "val") for v in videos_of("aab").videos)
    )
    with pytest.raises(ConfigError, match="all videos to train on have the label 'a'"):
        training_videos(manifest, config)


def test_a_class_that_is_only_tested_is_never_trained() -> None:
    videos = videos_of("abcab").videos
    assert never_trained(("a", "b", "c"), videos) == []
    assert never_trained(("a", "b", "c"), videos[:2]) == ["c"]


def test_no_label_is_taken_from_where_the_videos_of_a_list_lie(
    made_folder: Path, tmp_path: Path
) -> None:
    """The folders are classes of the folder itself; a manifest and shards say so or do not."""
    assert load_labelled(str(made_folder), 0).labels == ("left", "right")
    for given in (True, False):
        manifest, shards = tmp_path / "m.csv", tmp_path / f"shards-{given}"
        index(made_folder, manifest, labels_from_folders=given, workers=0)
        pack(made_folder, shards, labels_from_folders=given, workers=0)
        for source in (manifest, shards, shards / "index.csv"):
            found = load_labelled(str(source), 0)
            assert found.labels == (("left", "right") if given else ())
    (tmp_path / "paths.csv").write_text(f"path\n{made_folder}/left/0.mp4\n")
    (tmp_path / "paths.txt").write_text(f"{made_folder}/left/0.mp4\n")
    for source in (manifest, shards, tmp_path / "paths.csv", tmp_path / "paths.txt"):
        words = "no video has a label; give its videos one in a column `label`, or write it by"
        with pytest.raises(ConfigError, match=words):
            check_labels(load_labelled(str(source), 0), str(source), least=1)


def test_a_folder_with_too_few_class_folders_is_told_so(made_folder: Path) -> None:
    source = str(made_folder / "left")
    with pytest.raises(ConfigError, match="no video has a label; give class folders"):
        check_labels(load_labelled(source, 0), source, least=1)
    one = videos_of("aa")
    check_labels(one, source, least=1)
    with pytest.raises(ConfigError, match="the only label is 'a'; there must be videos of two"):
        check_labels(one, source, least=2)
