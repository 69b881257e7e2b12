"""Frozen features: one vector a video, from an encoder that reads all tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track as progress
from torch import Tensor

from m3video.config import ClipConfig
from m3video.model.vit import VisionTransformer
from m3video.train.tokens import TokenFile
from m3video.train.world import ALONE, World
from m3video.video.augment import normalise
from m3video.video.loader import ClipSource, make_eval_loader


@dataclass(frozen=True)
class Features:
    """What the probes read.

    Attributes:
        values: float32 [V, D], the mean of the tokens of all clips of a video.
        labels: int64 [V].
        videos: int64 [V], the positions of the videos in the data set.
        unreadable: (path, reason) of the videos that are missing from it.
        groups: name of what each video belongs to and must not be split; None: each is alone.
        clips: int64 [M], the row in `values` of the video of each clip, in the order of encoding.
        tokens: float16 [M, N, D] of these clips, mapped from a file; None where they are not kept.
    """

    values: Tensor
    labels: Tensor
    videos: Tensor
    unreadable: list[tuple[str, str]]
    groups: list[str] | None = None
    clips: Tensor | None = None
    tokens: NDArray[np.float16] | None = None


@torch.inference_mode()
def extract_features(
    encoder: VisionTransformer,
    source: ClipSource,
    *,
    clip: ClipConfig,
    segments: int = 1,
    batch: int = 32,
    workers: int = 0,
    device: torch.device,
    title: str = "features",
    keep: TokenFile | None = None,
    world: World = ALONE,
) -> Features:
    """Encode every clip of `source` once and average over tokens and over the clips of a video.

    Item i of the source is clip i mod `segments` of video i div `segments`. A video that cannot be
    read is left out and listed: no other takes its place.

    Args:
        encoder: reads [B, 3, T, H, W] and gives [B, N, D].
        source: clips whose rows are exactly the T input frames, or whose plan `clip` describes.
        clip: T, H and W of the encoder.
        segments: clips a video.
        batch: clips at a time.
        workers: data worker processes.
        device: where the encoder runs.
        title: the name of the progress bar.
        keep: where the tokens of every clip go; what is there already stays before them.
        world: the processes that the videos are dealt out to. All get all features; the tokens go
            to the file of rank 0.
    """
    encoder = encoder.eval().to(device)
    sums = torch.zeros(len(source) // segments, encoder.width)
    counts = torch.zeros(len(source) // segments)
    labels = torch.full((len(source) // segments,), -1)
    unreadable: list[tuple[str, str]] = []
    encoded: list[Tensor] = []
    videos = world.deal(range(len(source) // segments))
    places = range(videos.start * segments, videos.stop * segments)
    loader = make_eval_loader(source, batch=batch, workers=workers, places=places)
    total = -(-len(places) // batch)
    console = world.console()
    before = 0 if keep is None else len(keep)
    for clips in progress(
        loader,
        description=title,
        total=total,
        transient=True,
        console=console,
        disable=not console.is_terminal,
    ):
        unreadable += [
            entry for entry in dict.fromkeys(clips.unreadable) if entry not in unreadable
        ]
        if len(clips.index) == 0:
            continue
        frames = normalise(clips.frames[:, : clip.frames].to(device))
        tokens = encoder(frames)
        pooled = tokens.float().mean(1).cpu()
        if keep is not None:
            keep.append(tokens)
        video = clips.index // segments
        encoded.append(video)
        sums.index_add_(0, video, pooled)
        counts.index_add_(0, video, torch.ones(len(video)))
        labels[video] = clips.label
    parts = world.gather((sums, counts, labels, unreadable, encoded))
    sums = torch.stack([part[0] for part in parts]).sum(0)  # a video is that of one process
    counts = torch.stack([part[1] for part in parts]).sum(0)
    labels = torch.stack([part[2] for part in parts]).amax(0)
    unreadable = list(dict.fromkeys(entry for part in parts for entry in part[3]))
    encoded = [video for part in parts for video in part[4]]
    if keep is not None:
        keep.collect(before, world)
    seen = counts > 0
    return Features(
        values=sums[seen] / counts[seen, None],
        labels=labels[seen],
        videos=seen.nonzero().squeeze(1),
        unreadable=unreadable,
        clips=(seen.cumsum(0) - 1)[torch.cat(encoded)] if encoded else torch.empty(0).long(),
        tokens=None if keep is None else keep.read(),
    )
