"""From videos to batches of clips.

- An item's key is (epoch, index): workers hold no state, so their number changes nothing, and a run
  that begins at step k gets what an uninterrupted one would get there.
- A clip that cannot be read is never dropped in silence: the next index takes its place, up to ten
  times, and `Clips.unreadable` says which and why.
- A file that crashes or hangs a worker counts as one that cannot be read from then on (`watch`).
- Frames are cropped and resized as they are decoded, and copied once more, into the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from m3video.config import AugmentConfig, ClipConfig
from m3video.errors import VideoError
from m3video.video.augment import Crop, largest_crop, random_crop
from m3video.video.manifest import Manifest, Video
from m3video.video.order import TrainingOrder
from m3video.video.reader import VideoReader
from m3video.video.sampling import (
    ClipPlan,
    random_start,
    sample_generator,
    segment_starts,
    span_rows,
)
from m3video.video.spans import UnreadableError, cut_span, naming
from m3video.video.vector_reader import VectorReader
from m3video.video.watch import STALL_SECONDS, WatchedBatches
from m3video.video.workers import WorkerLoader, one_thread

FLOW = "flow"
"""The extra of a clip that holds flow [P, 2, H, W] of the plan's pairs, if the source knows it."""
REPLACEMENTS = 10
"""How many following indices are tried in place of one that cannot be read."""


@dataclass
class Clips:
    """A batch of clips; before collation one clip, without B."""

    frames: Tensor
    """uint8 [B, R, H, W, 3], RGB: the rows of the plan."""
    real: Tensor
    """bool [B, R]: False where the video has ended and its last frame is repeated."""
    label: Tensor
    """int64 [B]: position in the source's labels; -1 where there is none."""
    index: Tensor
    """int64 [B]: the index that was asked for, also where another clip took its place."""
    extras: dict[str, Tensor] = field(default_factory=dict)
    """Each [B, ...]: what `prepare` made."""
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    """(path, reason) of what could not be read while this batch was made."""

    def _map(self, change: Callable[[Tensor], Tensor]) -> Clips:
        return replace(
            self,
            frames=change(self.frames),
            real=change(self.real),
            label=change(self.label),
            index=change(self.index),
            extras={name: change(value) for name, value in self.extras.items()},
        )

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Clips:
        """On another device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def record_stream(self, stream: torch.Stream) -> None:
        """Tell the allocator of a GPU that a stream uses the tensors, which another one made."""
        for tensor in (self.frames, self.real, self.label, self.index, *self.extras.values()):
            tensor.record_stream(stream)

    def pin_memory(self) -> Clips:
        """In page-locked memory, from which copies to a GPU need not wait."""
        return self._map(lambda tensor: tensor.pin_memory())


Prepare = Callable[[Clips, torch.Generator], Clips]
"""Work on one clip (no B) in the workers, with the clip's generator."""


class ClipSource(Protocol):
    """A data set of clips."""

    labels: tuple[str, ...]

    def __len__(self) -> int: ...

    def clip(self, index: int, epoch: int, generator: torch.Generator) -> Clips:
        """One clip, without B. All that is drawn comes from `generator`.

        Raises:
            VideoError: it cannot be read.
        """
        ...


@runtime_checkable
class RepeatedSource(ClipSource, Protocol):
    """A data set that can give several clips of whatever it reads."""

    repeats: int
    """How many."""

    def clips(self, index: int, epoch: int, generator: torch.Generator) -> list[Clips]:
        """So many clips, each as `clip` gives them."""
        ...


def _named(error: VideoError) -> tuple[str, str]:
    """Path and reason."""
    if isinstance(error, UnreadableError):
        return error.named
    path, _, reason = str(error).partition(": ")
    return path, reason


class VideoClips:
    """Clips of the videos of a manifest.

    Args:
        manifest: the videos.
        clip: size of the frames.
        plan: which frames are read.
        augment: how spans and crops are drawn. None is for testing: the spans are `segments` equal
            parts of the video, the crop is the largest in the centre.
        segments: clips of a video; index // segments is the video.
        repeats: clips of a span, each with a random crop of its own. They share the span: another
            one would need frames decoded that the first does not.
        flow: give the motion that the videos' codecs found as the extra `FLOW`, cropped as the
            frames are. It is zero where the video has ended.
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        clip: ClipConfig,
        plan: ClipPlan,
        augment: AugmentConfig | None,
        segments: int = 1,
        repeats: int = 1,
        flow: bool = False,
    ) -> None:
        self.manifest = manifest
        self.repeats = repeats
        self.labels = manifest.labels
        self._clip = clip
        self._plan = plan
        self._augment = augment
        self._segments = segments
        self._flow = flow

    def __len__(self) -> int:
        return len(self.manifest.videos) * self._segments

    def clip(self, index: int, epoch: int, generator: torch.Generator) -> Clips:
        """One clip; see `ClipSource`. The epoch matters only through `generator`."""
        return self.clips(index, epoch, generator)[0]

    def clips(self, index: int, epoch: int, generator: torch.Generator) -> list[Clips]:
        """All clips of a span; see `RepeatedSource`."""
        number, segment = divmod(index, self._segments)
        video = self.manifest.videos[number]
        label = -1 if video.label is None else self.labels.index(video.label)
        with naming(video.path):
            frames, real, extras = self._span(video, segment, generator)
        return [
            Clips(
                frames=sample,
                real=torch.tensor(real),
                label=torch.tensor(label),
                index=torch.tensor(index),
                extras=extra,
            )
            for sample, extra in zip(frames, extras, strict=True)
        ]

    def _span(
        self, video: Video, segment: int, generator: torch.Generator
    ) -> tuple[Tensor, list[bool], list[dict[str, Tensor]]]:
        """Frames of the rows for each crop, which of them are real, and the flow if wanted."""

        def crops(height: int, width: int) -> list[Crop]:
            size, augment = self._clip.size, self._augment
            if augment is None:
                return [largest_crop(height, width, size)]
            return [
                random_crop(height, width, size, augment, generator) for _ in range(self.repeats)
            ]

        open_video = VectorReader if self._flow else VideoReader
        with open_video(video.path, frames=video.frames) as reader:
            count, length = len(reader), self._plan.span
            if self._augment is None:
                start = segment_starts(count, length, self._segments)[segment]
            else:
                start = random_start(count, length, generator)
            rows, real = span_rows(self._plan, start, count)
            span = cut_span(reader, rows, crops)
            frames = torch.from_numpy(span.frames)
            if not isinstance(reader, VectorReader):
                return frames, real, [{} for _ in span.crops]
            pairs = [(rows[row], rows[row + 1]) for row in self._plan.pairs]
            flows = [torch.from_numpy(reader.flow(pairs, crop)) for crop in span.crops]
            return frames, real, [{FLOW: flow} for flow in flows]


class _Keyed(Dataset[list[Clips]]):
    """The clips of a span, or the one clip, by (epoch, index)."""

    def __init__(self, source: ClipSource, seed: int, prepare: Prepare | None) -> None:
        self._source = source
        self._seed = seed
        self._prepare = prepare

    def __getitem__(self, key: tuple[int, int]) -> list[Clips]:
        epoch, index = key
        source = self._source
        unreadable: list[tuple[str, str]] = []
        for place in range(index, index + 1 + min(REPLACEMENTS, len(source) - 1)):
            # The place in the stream keeps its generator, whichever clip is read there.
            generator = sample_generator(self._seed, epoch, index)
            try:
                if isinstance(source, RepeatedSource):
                    clips = source.clips(place % len(source), epoch, generator)
                else:
                    clips = [source.clip(place % len(source), epoch, generator)]
            except VideoError as error:
                unreadable.append(_named(error))
                continue
            if self._prepare is not None:
                clips = [self._prepare(clip, generator) for clip in clips]
            for clip in clips:
                clip.index = torch.tensor(index)
            clips[0].unreadable = unreadable
            return clips
        path, reason = unreadable[0]
        raise VideoError(
            f"{path}: {reason}; nor can the {len(unreadable) - 1} clips after it be read, "
            "so nothing can take its place"
        )


class _Once(Dataset[Clips | tuple[str, str]]):
    """Each clip by its index, or (path, reason) where it cannot be read."""

    def __init__(self, source: ClipSource) -> None:
        self._source = source

    def __getitem__(self, index: int) -> Clips | tuple[str, str]:
        try:
            clip = self._source.clip(index, 0, sample_generator(0, 0, index))
        except VideoError as error:
            return _named(error)
        clip.index = torch.tensor(index)
        return clip


def _collate(clips: list[Clips]) -> Clips:
    """One batch; in a worker it is written straight into the memory it is sent in."""
    return Clips(
        frames=default_collate([clip.frames for clip in clips]),
        real=default_collate([clip.real for clip in clips]),
        label=default_collate([clip.label for clip in clips]),
        index=default_collate([clip.index for clip in clips]),
        extras=default_collate([clip.extras for clip in clips]),
        unreadable=[entry for clip in clips for entry in clip.unreadable],
    )


def _collate_spans(spans: list[list[Clips]]) -> Clips:
    """One batch of all clips of some spans."""
    return _collate(list(chain.from_iterable(spans)))


def _collate_readable(items: list[Clips | tuple[str, str]]) -> Clips:
    """A batch of those that could be read, which may be none."""
    clips = [item for item in items if isinstance(item, Clips)]
    unreadable = [item for item in items if not isinstance(item, Clips)]
    if clips:
        batch = _collate(clips)
        return replace(batch, unreadable=[*batch.unreadable, *unreadable])
    nothing = torch.empty(0, dtype=torch.int64)
    return Clips(
        frames=torch.empty((0, 0, 0, 0, 3), dtype=torch.uint8),
        real=torch.empty((0, 0), dtype=torch.bool),
        label=nothing,
        index=nothing,
        unreadable=unreadable,
    )


def make_loader(
    source: ClipSource,
    *,
    batch: int,
    seed: int,
    first_step: int,
    last_step: int,
    workers: int,
    prepare: Prepare | None = None,
    pin_memory: bool = False,
    part: slice | None = None,
    stall_seconds: float = STALL_SECONDS,
    refused: Mapping[str, str] | None = None,
) -> Iterable[Clips]:
    """Batches for the training steps first_step … last_step − 1.

    Every epoch uses each clip at most once, in an order drawn from (seed, epoch), and leaves out
    the last partial batch. A source smaller than a batch is repeated, so that batches are full.
    With a `RepeatedSource` this holds for spans: a batch is the clips of batch / repeats of them.

    Args:
        source: the clips.
        batch: clips a step.
        seed: with epoch and index, of all that is drawn.
        first_step: 0, or the step to resume at.
        last_step: the step before which to stop.
        workers: processes; 0 loads in this one. The batches are the same.
        prepare: work on one clip, done in the workers.
        pin_memory: return batches in page-locked memory.
        part: the places of each batch that this process loads; None: all.
        stall_seconds: how long a batch may be waited for.
        refused: path → reason of files that have cost a worker before (`watch.lost`).

    Raises:
        ValueError: `batch` is not a multiple of the source's repeats.
        VideoError: while iterating, if a clip and the ten after it cannot be read.
        RunFailedError: while iterating, if workers died or stalled and no file is to blame.
    """
    repeats = source.repeats if isinstance(source, RepeatedSource) else 1
    if batch % repeats:
        raise ValueError(f"batch {batch} is not a multiple of {repeats} clips of a span")
    spans = slice(part.start // repeats, part.stop // repeats) if part is not None else None
    return WatchedBatches(
        _Keyed(source, seed, prepare),
        lambda step: TrainingOrder(len(source), batch // repeats, seed, step, last_step, spans),
        lambda items, keys: WorkerLoader(
            items,
            batch_sampler=keys,
            num_workers=workers,
            collate_fn=_collate_spans,
            worker_init_fn=one_thread,
            pin_memory=pin_memory,
        ),
        batches=range(first_step, last_step),
        workers=workers,
        stall_seconds=stall_seconds,
        refused=refused,
    )


def make_eval_loader(
    source: ClipSource, *, batch: int, workers: int, places: Sequence[int] | None = None
) -> Iterable[Clips]:
    """All clips once, in order. Nothing takes the place of a clip that cannot be read.

    Such a clip is left out of its batch and listed in `unreadable`; the last batch, and one with
    such clips, is smaller than the others.

    Args:
        source: the clips.
        batch: clips at a time.
        workers: processes; 0 loads in this one.
        places: the clips that are wanted; None: all.

    Raises:
        RunFailedError: while iterating, if workers died or stalled and no file is to blame.
    """
    wanted = list(range(len(source)) if places is None else places)
    groups = [wanted[start : start + batch] for start in range(0, len(wanted), batch)]
    return WatchedBatches(
        _Once(source),
        lambda first: groups[first:],
        lambda items, keys: WorkerLoader(
            items,
            batch_sampler=keys,
            num_workers=workers,
            collate_fn=_collate_readable,
            worker_init_fn=one_thread,
        ),
        batches=range(len(groups)),
        workers=workers,
    )
