"""Which labelled videos a classifier is trained on, and which it is tested on.

Labels are those that a list or a manifest gives; of a folder they are its class folders.

A manifest's column `split` says which: `train` is trained on, `test`, or else `val`, is tested.
Without the column all videos are trained on, unless a share is held out (as `val`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from rich.console import Console

from m3video.config import EvaluateConfig, FinetuneConfig
from m3video.errors import ConfigError
from m3video.train.batches import absolute
from m3video.train.progress import say
from m3video.video.columns import Videos
from m3video.video.manifest import Manifest, Video, is_list, load_manifest

SPLITS = ("train", "val", "test")


def read_labelled(data: str, workers: int, console: Console, *, least: int) -> Manifest:
    """Find labelled videos; what cannot be read is named.

    Args:
        data: a folder of class folders, a manifest or a list.
        workers: processes that scan.
        console: where unreadable files are named.
        least: labels that there must be.

    Raises:
        ManifestError: no such data.
        ConfigError: fewer labels, or a split that is not train, val or test.
    """
    manifest = load_labelled(data, workers)
    for entry in manifest.unreadable:
        say(console, f"unreadable: {entry.path}: {entry.reason}")
    check_labels(manifest, data, least=least)
    named = {split_of(video) for video in manifest.videos}
    if named != {""} and not named <= set(SPLITS):
        found = ", ".join(repr(name) for name in sorted(named))
        raise ConfigError(
            f"{data}: column split holds {found}; it must name train, val or test for every video"
        )
    return absolute(manifest)


def load_labelled(data: str, workers: int) -> Manifest:
    """Find videos and their labels; there may be none.

    A list says its labels itself: of one without any, the folders are where its videos happen to
    lie, as `videos`, and no classes.

    Raises:
        ManifestError: no such data.
    """
    by_folder = not is_list(data)
    return load_manifest(
        data, workers=workers, labels_from_folders=by_folder, decode=False, progress=True
    )


def check_labels(manifest: Manifest, data: str, *, least: int) -> None:
    """Refuse fewer labels than are needed.

    Raises:
        ConfigError: there are fewer.
    """
    labels = manifest.labels
    if len(labels) >= least:
        return
    if labels:
        raise ConfigError(
            f"{data}: the only label is {labels[0]!r}; there must be videos of two or more labels"
        )
    remedy = (
        "give its videos one in a column `label`, or write it by m3video index (shards: m3video "
        "pack) with --labels-from-folders"
        if is_list(data)
        else "give class folders, or a manifest with a column `label`"
    )
    raise ConfigError(f"{data}: no video has a label; {remedy}")


def split_of(video: Video) -> str:
    """What the column `split` says; empty where there is none."""
    return video.extra.get("split", "")


def hold_out(manifest: Manifest, share: float, seed: int) -> Manifest:
    """Give every video a split: the last `share` of each class, in random order, is `val`.

    At least one video of each class stays in `train`.
    """
    generator = torch.Generator().manual_seed(seed)
    splits = {}
    by_label: dict[str | None, list[int]] = {label: [] for label in (*manifest.labels, None)}
    for number, video in enumerate(manifest.videos):
        by_label[video.label].append(number)
    for rows in by_label.values():
        order = [rows[i] for i in torch.randperm(len(rows), generator=generator).tolist()]
        kept = max(len(rows) - round(share * len(rows)), min(len(rows), 1))
        splits.update({row: "train" if n < kept else "val" for n, row in enumerate(order)})
    videos = Videos(with_split(video, splits[row]) for row, video in enumerate(manifest.videos))
    return Manifest(videos, manifest.unreadable)


def with_split(video: Video, split: str) -> Video:
    """The same video with its split."""
    return replace(video, extra={**video.extra, "split": split})


def training_videos(manifest: Manifest, config: FinetuneConfig) -> Videos:
    """The videos to train on: the first `config.labels` of each class of `train`.

    Raises:
        ConfigError: there are none, one has no label, or all have the same.
    """
    chosen = Videos(_to_train_on(manifest, config))
    if not chosen:
        raise ConfigError(
            f"{config.data}: no video that can be read has the split `train`; the column split "
            "must name some, or leave the column out and use --val-share"
        )
    if len(chosen.labels) < 2:
        raise ConfigError(
            f"{config.data}: all videos to train on have the label {chosen[0].label!r}; there "
            "must be two or more"
        )
    return chosen


def _to_train_on(manifest: Manifest, config: FinetuneConfig) -> Iterator[Video]:
    split = "train" if any(split_of(video) for video in manifest.videos) else ""
    counts = dict.fromkeys(manifest.labels, 0)
    for video in manifest.videos:
        if split_of(video) != split:
            continue
        if video.label is None:
            raise ConfigError(
                f"{config.data}: {video.path} is to be trained on, and has no label; give it one, "
                "or leave it out of the list"
            )
        counts[video.label] += 1
        if config.labels is None or counts[video.label] <= config.labels:
            yield video


def never_trained(labels: Sequence[str], videos: Sequence[Video]) -> list[str]:
    """The classes that no training video has: a classifier cannot come to say them."""
    known = {video.label for video in videos}
    return [label for label in labels if label not in known]


def held_out(manifest: Manifest) -> tuple[str, Videos]:
    """The name of the split that is tested, and its videos with a label; "" where none is."""
    for split in ("test", "val"):
        found = Videos(v for v in manifest.videos if split_of(v) == split and v.label is not None)
        if found:
            return split, found
    return "", Videos()


def tested_videos(
    manifest: Manifest, config: EvaluateConfig, labels: tuple[str, ...]
) -> tuple[str, Sequence[Video]]:
    """The split that `evaluate` tests and its videos.

    Raises:
        ConfigError: there are none, one has no label, or a label that the model does not know.
    """
    videos: Sequence[Video]
    split, videos = held_out(manifest) if config.split == "auto" else (config.split, Videos())
    if split in SPLITS and not videos:
        videos = Videos(video for video in manifest.videos if split_of(video) == split)
    if not videos and config.split in {"auto", "all"}:
        split, videos = "all", manifest.videos
    if not videos:
        raise ConfigError(
            f"{config.data}: no video has the split `{config.split}`; "
            "use --split auto, or all for every video"
        )
    for video in videos:
        if video.label is None:
            raise ConfigError(
                f"{config.data}: {video.path} has no label to be tested against; give it one, or "
                "leave it out of the list"
            )
        if video.label not in labels:
            raise ConfigError(
                f"{config.data}: label {video.label!r} ({video.path}) is not a class of "
                f"{config.model}, which knows {', '.join(labels[:5])}"
                f"{', …' if len(labels) > 5 else ''}"
            )
    return split, videos
