"""From a codec's motion vectors to dense flow.

A codec predicts blocks of a frame from earlier frames, and of some frames from later ones too, and
keeps for each block where it copied it from. That is motion for the price of decoding, with the
codec's aims: few bits, not true motion. The flow from frame t to t + 1 is put together from what
follows, what comes later over what is there; most pairs have all they need in 4 or 5:

    1. where blocks of t come from before, and those of t + 1 from after, as if it went on so
    2. the blocks of the first frame after t that others refer to, carried back to where they were
    3. the blocks of t that come from after, the blocks of t + 1 that come from before
    4. the same, where the other frame of the vector is the other frame of the pair
    5. where t and t + 1 both have vectors to the same third frame: their difference

What is approximate:

- The other frame of a vector is taken to be the nearest one that may be referred to and is decoded
  before, since FFmpeg does not say which one it was. Where it was further off, motion is too large.
- In 1 to 3 motion is taken to be even between the two frames of a vector.
- Vectors are for blocks of 8 × 8 pixels or more; they are kept for cells of 4 × 4.
- A median over 5 × 5 cells removes single blocks that an encoder found cheap to copy from anywhere.
- Cells without a vector (new content, uncovered background) have their neighbours' motion. A pair
  without any (keyframes) has that of the nearest pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from av.sidedata.motionvectors import MotionVectors
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from m3video.compiled import compiled
from m3video.video.augment import Crop

Floats = NDArray[np.float32]

CELL = 4
"""Side of a cell in pixels."""
MEDIAN = 5
"""Side of the median filter in cells."""
EXPORTING = frozenset(
    ["h264", "mpeg4", "mpeg2video", "mpeg1video", "h261", "h263", "h263p", "flv1", "wmv1", "wmv2"]
).union(["msmpeg4v2", "msmpeg4v3", "snow"])
"""Codecs whose vectors FFmpeg gives, as tried with FFmpeg 8. It gives none of HEVC, VP8, VP9 and
AV1, and of MPEG-4's B-frames zeros; where each frame is coded by itself (MJPEG) there are none."""
NO_BLOCKS: Floats = np.empty((0, 6), np.float32)
"""Blocks as in `FrameVectors`, none."""


@dataclass(frozen=True)
class FrameVectors:
    """Where a codec copied the blocks of a frame from.

    Blocks are float32 [V, 6]: left, top, width, height, and x and y of the way from the block to
    its source, in pixels of the frame as displayed.
    """

    number: int
    """Of the frame in its video."""
    order: int
    """Of decoding: a frame can only refer to frames of lower order."""
    reference: bool
    """Other frames may refer to it."""
    past: Floats
    """Blocks that come from an earlier frame."""
    future: Floats
    """Blocks that come from a later frame."""


def read_blocks(frame: VideoFrame) -> tuple[Floats, Floats]:
    """Blocks of a decoded frame, before it is turned: those from earlier and from later frames.

    The decoder must have been opened with `flags2` `+export_mvs`.
    """
    side_data = frame.side_data.get("MOTION_VECTORS")
    if side_data is None:
        return NO_BLOCKS, NO_BLOCKS
    assert isinstance(side_data, MotionVectors)
    raw = side_data.to_ndarray()
    width, height = raw["w"].astype(np.float32), raw["h"].astype(np.float32)
    scale = raw["motion_scale"].astype(np.float32)
    blocks = np.stack(
        [
            raw["dst_x"] - width / 2,  # dst is the middle of a block, src = dst + motion / scale
            raw["dst_y"] - height / 2,
            width,
            height,
            raw["motion_x"] / scale,
            raw["motion_y"] / scale,
        ],
        axis=1,
    ).astype(np.float32)
    return blocks[raw["source"] < 0], blocks[raw["source"] > 0]


class Canvas:
    """Motion of the cells of a frame, painted block by block.

    Attributes:
        size: height and width of the frame in pixels.
        motion: float32 [rows, columns, 2], x and y in pixels.
        known: bool [rows, columns].
    """

    def __init__(self, height: int, width: int) -> None:
        self.size = height, width
        shape = -(-height // CELL), -(-width // CELL)
        self.motion = np.zeros((*shape, 2), np.float32)
        self.known = np.zeros(shape, np.bool_)

    def paint(self, blocks: Floats, factor: float, *, carried: float = 0.0) -> None:
        """Paint `factor` × the vectors of blocks, over what is there.

        Args:
            blocks: [V, 6], as in `FrameVectors`.
            factor: from a vector to motion.
            carried: blocks are painted this many times their vector away.
        """
        _paint(blocks, np.float32(factor), np.float32(carried), self.motion, self.known)

    def paint_difference(self, first: Canvas, second: Floats) -> None:
        """Paint the motion between two frames that both have vectors to one and the same third.

        What is at p in the first and at q in the second comes from p + u(p) = q + v(q) in the
        third, so it moves by q − p = u(p) − v(q). For q the motion painted so far is used.

        Args:
            first: u, painted on the first frame.
            second: blocks of the second frame, with v.
        """
        other = Canvas(*self.size)
        other.paint(second, 1)
        rows, columns = np.nonzero(first.known)
        moved = np.rint(self.motion[rows, columns] / CELL).astype(np.intp)
        row = (rows + moved[:, 1]).clip(0, first.known.shape[0] - 1)
        column = (columns + moved[:, 0]).clip(0, first.known.shape[1] - 1)
        both = other.known[row, column]
        rows, columns, row, column = rows[both], columns[both], row[both], column[both]
        self.motion[rows, columns] = first.motion[rows, columns] - other.motion[row, column]
        self.known[rows, columns] = True

    def complete(self) -> Floats:
        """Motion of all cells [rows, columns, 2]: holes filled from around them, then smoothed."""
        motion = _fill(self.motion, self.known)
        channels = [
            cv2.medianBlur(np.ascontiguousarray(motion[..., axis]), MEDIAN) for axis in (0, 1)
        ]
        return np.stack(channels, axis=-1)


def pair_motion(
    frames: Sequence[FrameVectors], number: int, size: tuple[int, int]
) -> Floats | None:
    """Motion of the cells of frame `number` to the next one.

    Args:
        frames: consecutive frames, among them both.
        number: t.
        size: height and width of the frames as displayed.

    Returns:
        float32 [rows, columns, 2] in pixels, or None where no vector tells of this pair.
    """
    at = number - frames[0].number
    here, there = frames[at], frames[at + 1]
    since, until = _distance(frames, at, -1), _distance(frames, at, 1)
    back, beyond = _distance(frames, at + 1, -1), _distance(frames, at + 1, 1)
    # The next reference, which for a P-frame is decoded later, so that `until` does not see it.
    ahead = next((n for n in range(1, len(frames) - at) if frames[at + n].reference), None)
    over = None if ahead is None else _distance(frames, at + ahead, -1)
    next_past = NO_BLOCKS if ahead is None else frames[at + ahead].past
    canvas = Canvas(*size)
    if beyond is not None:
        canvas.paint(there.future, 1 / beyond, carried=-1 / beyond)
    if since is not None:
        canvas.paint(here.past, -1 / since)
    if ahead is not None and over is not None:
        canvas.paint(next_past, -1 / over, carried=ahead / over)
    if until is not None:
        canvas.paint(here.future, 1 / until)
    if back is not None:
        canvas.paint(there.past, -1 / back, carried=1 / back)
    if beyond is not None:
        third = Canvas(*size)
        if over == ahead == beyond + 1:
            third.paint(next_past, -1, carried=1)
        if until == beyond + 1:
            third.paint(here.future, 1)
        canvas.paint_difference(third, there.future)
    if since is not None and back == since + 1:
        third = Canvas(*size)
        third.paint(here.past, 1)
        canvas.paint_difference(third, there.past)
    if until == 1:
        canvas.paint(here.future, 1)
    if back == 1:
        canvas.paint(there.past, -1, carried=1)
    return canvas.complete() if canvas.known.any() else None


def motion_between(
    frames: Sequence[FrameVectors], first: int, last: int, size: tuple[int, int]
) -> Floats | None:
    """Motion of the cells of frame `first` to frame `last`, along the frames between.

    Args:
        frames: consecutive frames, among them first … last.
        first: where motion begins.
        last: where it ends; after `first`.
        size: height and width of the frames as displayed.

    Returns:
        float32 [rows, columns, 2] in pixels, or None where all of `frames` have no vector.
    """
    total: Floats | None = None
    for number in range(first, last):
        motion = _nearest_motion(frames, number, size)
        if motion is None:
            return None
        if total is None:
            total = motion
            continue
        rows, columns = np.indices(total.shape[:2], np.float32)
        moved_x, moved_y = columns + total[..., 0] / CELL, rows + total[..., 1] / CELL
        total = total + cv2.remap(
            motion, moved_x, moved_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
    return total


def crop_motion(motion: Floats, crop: Crop) -> Floats:
    """Motion of cells as flow of the pixels that a crop makes of the frame.

    Args:
        motion: [rows, columns, 2] in pixels of the frame.
        crop: what was done to the frame: displacements are resized and mirrored with it.

    Returns:
        float32 [2, h, w] in pixels of the crop.
    """
    top, left, crop_height, crop_width = crop.box
    height, width = crop.size
    zoom_x, zoom_y = crop_width / width, crop_height / height
    # The middle of pixel x lies at left + (x + 1/2) · zoom from the frame's edge.
    across, start_x = zoom_x / CELL, (left + zoom_x / 2) / CELL - 0.5
    down, start_y = zoom_y / CELL, (top + zoom_y / 2) / CELL - 0.5
    if crop.flip:
        across, start_x = -across, start_x + (width - 1) * across
    places = np.array([[across, 0, start_x], [0, down, start_y]])
    units = np.array([(-1 if crop.flip else 1) / zoom_x, 1 / zoom_y], np.float32)
    flow = cv2.warpAffine(
        motion * units,
        places,
        (width, height),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return np.asarray(flow.transpose(2, 0, 1), np.float32)


def _nearest_motion(
    frames: Sequence[FrameVectors], number: int, size: tuple[int, int]
) -> Floats | None:
    """Motion of the pair, or of the nearest one of which something is known."""
    starts = range(frames[0].number, frames[-1].number)
    for start in sorted(starts, key=lambda start: (abs(start - number), start)):
        motion = pair_motion(frames, start, size)
        if motion is not None:
            return motion
    return None


def _distance(frames: Sequence[FrameVectors], at: int, way: int) -> int | None:
    """Frames to the nearest that this one may refer to, before (−1) or after (1); None: unseen."""
    place = at + way
    while 0 <= place < len(frames):
        if frames[place].reference and frames[place].order < frames[at].order:
            return abs(place - at)
        place += way
    return None


@compiled
def _paint(blocks: Any, factor: Any, carried: Any, motion: Any, known: Any) -> None:
    """Paint blocks cell by cell: each cell's middle says which cell of the canvas it covers."""
    rows, columns = known.shape
    for number in range(len(blocks)):
        left, top, width, height, x, y = blocks[number]
        for down in range(CELL // 2, height, CELL):
            row = int(np.floor((top + down + carried * y) / CELL))
            if row < 0 or row >= rows:
                continue
            for across in range(CELL // 2, width, CELL):
                column = int(np.floor((left + across + carried * x) / CELL))
                if column >= 0 and column < columns:
                    motion[row, column, 0] = factor * x
                    motion[row, column, 1] = factor * y
                    known[row, column] = True


def _fill(motion: Floats, known: NDArray[np.bool_]) -> Floats:
    """Fill unknown cells from a coarser grid of the known ones' means, as often as it takes.

    This is the pull and push of Gortler et al. (The Lumigraph, SIGGRAPH 1996, section 3.4).
    """
    if known.all() or not known.any():
        return motion
    rows, columns = known.shape
    weighted = np.dstack([motion * known[..., None], known.astype(np.float32)])
    even = np.pad(weighted, ((0, rows % 2), (0, columns % 2), (0, 0)))
    coarse = even.reshape(even.shape[0] // 2, 2, even.shape[1] // 2, 2, 3).mean(axis=(1, 3))
    weight = coarse[..., 2:]
    means = coarse[..., :2] / np.maximum(weight, np.float32(1e-6))
    filled = _fill(np.ascontiguousarray(means), weight[..., 0] > 0)
    wide = cv2.resize(filled, even.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    return np.where(known[..., None], motion, wide[:rows, :columns])
