"""Probabilities of many views of a video, averaged, exactly and in any order.

Every probability is rounded to a multiple of 2⁻⁴⁰ before it is added in float64, where sums of up
to 8192 such numbers between 0 and 1 are exact: neither the order of the views nor how they are
dealt out to batches or processes changes the average.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from rich.progress import track as progress
from torch import Tensor

from m3video.model.classifier import Classifier
from m3video.train.world import ALONE, World
from m3video.video.augment import normalise
from m3video.video.loader import Clips, ClipSource, make_eval_loader

UNIT = 2.0**40


@dataclass
class ViewScores:
    """Sums of the probabilities of each video.

    Args:
        videos: V.
        views: of each video; one with fewer is left out.
        classes: C.
    """

    videos: int
    views: int
    classes: int
    sums: Tensor = field(init=False)
    """float64 [V, C], multiples of 1."""
    seen: Tensor = field(init=False)
    """bool [V, views]."""

    def __post_init__(self) -> None:
        self.sums = torch.zeros(self.videos, self.classes, dtype=torch.float64)
        self.seen = torch.zeros(self.videos, self.views, dtype=torch.bool)

    def add(self, probabilities: Tensor, video: Tensor, view: Tensor) -> None:
        """Add views; one that was seen before counts no second time.

        Args:
            probabilities: [n, C].
            video: int64 [n], below V.
            view: int64 [n], below the number of views.
        """
        for row, number, place in zip(
            probabilities.double().cpu(), video.tolist(), view.tolist(), strict=True
        ):
            if not self.seen[number, place]:
                self.seen[number, place] = True
                self.sums[number] += (row * UNIT).round()

    @property
    def whole(self) -> Tensor:
        """The videos of which every view was added: int64 [n], ascending."""
        return self.seen.all(1).nonzero().squeeze(1)

    def averages(self) -> Tensor:
        """float64 [n, C] of the `whole` videos; rows add up to 1, but for rounding."""
        return self.sums[self.whole] / UNIT / self.views


@torch.inference_mode()
def predict_views(
    model: Classifier,
    source: ClipSource,
    *,
    segments: int,
    crops: int,
    batch: int,
    workers: int,
    device: torch.device,
    bf16: bool = False,
    title: str = "testing",
    world: World = ALONE,
) -> tuple[ViewScores, list[tuple[str, str]]]:
    """Probabilities of all views of all videos of a source.

    Args:
        model: the classifier; it is moved to the device and put in evaluation mode.
        source: item i is clip i mod `segments` of video i div `segments`, with its crops: frames
            [crops, T, H, W, 3].
        segments: clips of a video.
        crops: of each clip.
        batch: clips at a time; all their crops go through the model together.
        workers: data worker processes.
        device: where the model runs.
        bf16: whether in bf16 autocast.
        title: of the progress bar.
        world: the processes that the clips are dealt out to; all get all sums.

    Returns:
        The sums, and (path, reason) of each video that could not be read.
    """
    model = model.eval().to(device)
    scores = ViewScores(len(source) // segments, segments * crops, len(model.labels))
    unreadable: dict[str, str] = {}
    places = world.deal(range(len(source)))
    loader = make_eval_loader(source, batch=batch, workers=workers, places=places)
    for clips in _bar(loader, -(-len(places) // batch), title, world):
        for path, reason in clips.unreadable:
            unreadable.setdefault(path, reason)
        if len(clips.index) == 0:
            continue
        inputs = normalise(clips.frames.to(device).flatten(0, 1))
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            logits = model(inputs)
        items = clips.index.repeat_interleave(crops)
        crop = torch.arange(crops).repeat(len(clips.index))
        view = items % segments * crops + crop
        scores.add(logits.float().softmax(1), items // segments, view)
    for part in world.gather(unreadable):
        unreadable = {**part, **unreadable}
    found = world.gather((scores.sums, scores.seen))
    scores.sums = torch.stack([sums for sums, _ in found]).sum(0)
    scores.seen = torch.stack([seen for _, seen in found]).any(0)
    return scores, sorted(unreadable.items())


def _bar(loader: Iterable[Clips], total: int, title: str, world: World) -> Iterable[Clips]:
    console = world.console()
    return progress(
        loader,
        description=title,
        total=total,
        transient=True,
        console=console,
        disable=not console.is_terminal,
    )
