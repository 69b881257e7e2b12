"""Frame mAP at IoU 0.5: how AVA is evaluated (ActivityNet's evaluation, after PASCAL VOC).

For each action by itself:

- within a key frame, detections go from the highest score to the lowest; each looks at the one
  annotated box of this action that it overlaps most, and is right if they overlap by half or more
  and no detection before it was right about that box;
- over all key frames, detections go from the highest score to the lowest: the average precision is
  the area below precision over recall, where precision is the best at this recall or any higher.

The mean is over the actions that are annotated at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IOU = 0.5

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class FrameDetections:
    """Boxes of one key frame, and how sure each action is of each.

    Attributes:
        boxes: [n, 4], x1, y1, x2, y2.
        scores: [n, C].
    """

    boxes: Floats
    scores: Floats


@dataclass(frozen=True)
class FrameTruth:
    """What is annotated in one key frame.

    Attributes:
        boxes: [m, 4], x1, y1, x2, y2.
        actions: bool [m, C].
    """

    boxes: Floats
    actions: NDArray[np.bool_]


def overlaps(first: Floats, second: Floats) -> Floats:
    """Intersection over union of boxes [n, 4] and [m, 4]: [n, m]; 0 where both are empty."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (first, second)]
    union = areas[0][:, None] + areas[1][None, :] - shared
    found: Floats = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return found


def match(scores: Floats, boxes: Floats, truth: Floats) -> NDArray[np.bool_]:
    """Which detections of one action in one key frame are right.

    Args:
        scores: [n].
        boxes: [n, 4].
        truth: [m, 4].

    Returns:
        bool [n], in the order that they were given in.
    """
    right = np.zeros(len(scores), dtype=np.bool_)
    if not len(truth) or not len(scores):
        return right
    iou = overlaps(boxes, truth)
    nearest = iou.argmax(1)
    found = np.zeros(len(truth), dtype=np.bool_)
    for number in np.argsort(-scores, kind="stable"):
        place = nearest[number]
        if iou[number, place] >= IOU and not found[place]:
            right[number] = found[place] = True
    return right


def average_precision(scores: Floats, right: NDArray[np.bool_], positives: int) -> float:
    """Area below the envelope of precision over recall.

    Args:
        scores: [K] of all detections of an action.
        right: bool [K].
        positives: annotated boxes of the action, 1 or more.
    """
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(right[order])
    precision = hits / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    recall = hits / positives
    return float((np.diff(recall, prepend=0.0) * envelope).sum())


def frame_map(
    truth: Sequence[FrameTruth], found: Sequence[FrameDetections], *, most: int
) -> list[float | None]:
    """Average precision of each action; None where it is not annotated.

    Args:
        truth: of all key frames.
        found: of the same key frames, in the same order.
        most: (box, action) pairs of a key frame that count: those of the highest scores.
    """
    classes = truth[0].actions.shape[1]
    counted = [_highest(frame.scores, most) for frame in found]
    precisions: list[float | None] = []
    for action in range(classes):
        positives = sum(int(frame.actions[:, action].sum()) for frame in truth)
        scores, right = [np.zeros(0)], [np.zeros(0, dtype=np.bool_)]
        for known, said, kept in zip(truth, found, counted, strict=True):
            rows = kept[:, action]
            scores.append(said.scores[rows, action])
            boxes = known.boxes[known.actions[:, action]]
            right.append(match(said.scores[rows, action], said.boxes[rows], boxes))
        if not positives:
            precisions.append(None)
        else:
            precisions.append(
                average_precision(np.concatenate(scores), np.concatenate(right), positives)
            )
    return precisions


def _highest(scores: Floats, most: int) -> NDArray[np.bool_]:
    """bool [n, C]: which are among the `most` highest."""
    kept = np.zeros(scores.size, dtype=np.bool_)
    kept[np.argsort(-scores, axis=None, kind="stable")[:most]] = True
    return kept.reshape(scores.shape)
