"""Which frames of a video a clip needs.

A clip is T input frames at stride s, and, when motion is wanted, windows of L + 1 consecutive raw
frames that begin at the first frame of each tubelet. With T = 4, s = 4, tubelet 2 and L = 6
(i: input frame, t: first frame of a tubelet, o: read for its motion only, .: not read):

    raw frame  0         1
               0 1 2 3 4 5 6 7 8 9 0 1 2 3 4
               t o o o i o o . t o o o i o o    span 15, 14 rows

- The frames that are read are the *rows*, in ascending order; where windows overlap, a frame is one
  row.
- A video shorter than the span repeats its last frame; those rows are marked as not real.
- Everything that is drawn comes from `sample_generator(seed, epoch, index)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from m3video.config import ClipConfig, PretrainConfig


@dataclass(frozen=True)
class ClipPlan:
    """Which raw-rate frames of a span a clip needs, all relative to the span's first frame."""

    offsets: tuple[int, ...]
    """[R] raw frames that are read, ascending; the first is 0."""
    inputs: tuple[int, ...]
    """[T] rows (positions in `offsets`) that the encoder reads."""
    starts: tuple[int, ...]
    """[T / tubelet] rows: the first frame of each tubelet. With L > 0 the rows start … start + L
    are `step` raw frames apart."""
    length: int
    """L: steps of a trajectory; 0 when no motion is needed."""
    step: int = 1
    """Raw frames of a step of a trajectory."""

    @property
    def span(self) -> int:
        """Raw frames from the first to the last that is needed, both included."""
        return self.offsets[-1] + 1

    @property
    def pairs(self) -> tuple[int, ...]:
        """[P] rows r, ascending, for which the flow from row r to row r + 1 is needed."""
        return tuple(sorted({row + step for row in self.starts for step in range(self.length)}))


@lru_cache(maxsize=256)
def row_index(rows: tuple[int, ...], device: torch.device) -> Tensor:
    """Rows as an int64 index on a device, made once; not to be written to.

    Each time a list is an index of a tensor on a GPU, it is copied there, and waited for.
    """
    with torch.inference_mode(False):  # in that mode it could be used in no other
        return torch.tensor(rows, dtype=torch.int64, device=device)


def plan_clip(clip: ClipConfig, length: int, step: int = 1) -> ClipPlan:
    """Find the rows of a clip whose trajectories have `length` steps (0: no motion is needed).

    With steps of one raw frame motion is finer than the sparse input shows (MME, arXiv 2210.06096,
    "interpolation" of motion); the other choice is the stride, from input frame to input frame.
    """
    if length < 0:
        raise ValueError(f"length {length} is negative: use 0 when no motion is needed")
    if step not in (1, clip.stride):
        raise ValueError(f"step {step} is neither 1 nor the stride {clip.stride}")
    inputs = [frame * clip.stride for frame in range(clip.frames)]
    starts = inputs[:: clip.tubelet]
    windows = {start + step * number for start in starts for number in range(length + 1)}
    offsets = sorted(windows.union(inputs))
    row = {offset: position for position, offset in enumerate(offsets)}
    return ClipPlan(
        offsets=tuple(offsets),
        inputs=tuple(row[offset] for offset in inputs),
        starts=tuple(row[offset] for offset in starts),
        length=length,
        step=step,
    )


def plan_run(config: PretrainConfig) -> ClipPlan:
    """The plan of a run: what its clips, targets and mask need."""
    return plan_clip(config.clip, config.plan_length, config.plan_step)


def random_start(count: int, span: int, generator: torch.Generator) -> int:
    """Draw a span's first frame, uniform over all that fit in `count` frames; 0 if none fits."""
    last = max(count - span, 0)
    return int(torch.randint(last + 1, (), generator=generator))


def segment_starts(count: int, span: int, segments: int) -> list[int]:
    """First frames of `segments` spans for testing: centres of equal parts of all that fit."""
    last = max(count - span, 0)
    return [(2 * segment + 1) * last // (2 * segments) for segment in range(segments)]


def span_rows(plan: ClipPlan, start: int, count: int) -> tuple[list[int], list[bool]]:
    """Place a plan in a video of `count` frames.

    Returns:
        Frame number of each row [R], and whether the row is real [R]: False where the video has
        ended and its last frame is repeated. Motion is unknown from the first step that reaches
        such a row.
    """
    if not 0 <= start < count:
        raise ValueError(f"start {start} is not a frame of a video of {count} frames")
    wanted = [start + offset for offset in plan.offsets]
    return [min(frame, count - 1) for frame in wanted], [frame < count for frame in wanted]


def sample_generator(seed: int, epoch: int, index: int) -> torch.Generator:
    """Make the one source of randomness of a sample (all arguments ≥ 0).

    Neighbouring arguments give unrelated streams, whichever worker, restart or world size asks.
    """
    state = np.random.SeedSequence((seed, epoch, index)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))
