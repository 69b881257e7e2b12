"""Which videos are trained on and which are held out."""

from __future__ import annotations

from pathlib import Path

import pytest

from m3video.config import FinetuneConfig
from m3video.errors import ConfigError
from m3video.train.labelled_videos import (
    hold_out,
    never_trained,
    split_of,
    training_videos,
    with_split,
)
from m3video.video.manifest import Manifest, Video


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
