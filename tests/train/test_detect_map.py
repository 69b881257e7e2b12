"""Frame mAP: by hand, and by the curve of scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m3video.train.detect_map import (
    FrameDetections,
    FrameTruth,
    average_precision,
    frame_map,
    match,
    overlaps,
)


def array(*rows: tuple[float, ...]) -> np.ndarray:
    return np.array(rows, dtype=np.float64).reshape(len(rows), -1)


def test_overlaps_by_hand() -> None:
    first = array((0, 0, 2, 1), (0, 0, 0, 0))
    second = array((1, 0, 3, 1), (0, 0, 2, 1), (5, 5, 6, 6), (0, 0, 0, 0))
    assert overlaps(first, second).tolist() == [[1 / 3, 1, 0, 0], [0, 0, 0, 0]]


def test_each_box_is_found_once_and_by_the_highest_score() -> None:
    truth = array((0, 0, 4, 4), (10, 0, 14, 4))
    boxes = array((0, 0, 4, 3), (0, 0, 4, 4), (10, 0, 14, 4), (20, 0, 24, 4))
    scores = np.array([0.9, 0.8, 0.3, 0.7])
    assert match(scores, boxes, truth).tolist() == [True, False, True, False]
    assert match(-scores, boxes, truth).tolist() == [False, True, True, False]


def test_half_is_enough_and_less_is_not() -> None:
    truth = array((0, 0, 1, 1))
    assert match(np.ones(1), array((0, 0, 1, 0.5)), truth).tolist() == [True]
    assert match(np.ones(1), array((0, 0, 1, 0.499)), truth).tolist() == [False]


def test_a_detection_looks_at_the_box_that_it_overlaps_most_only() -> None:
    """It overlaps both by half or more; the better one is taken, so it is wrong (VOC)."""
    truth = array((0, 0, 10, 10), (0, 0, 10, 9))
    boxes = array((0, 0, 10, 10), (0, 0, 10, 9.8))
    assert match(np.array([0.9, 0.8]), boxes, truth).tolist() == [True, False]


def test_average_precision_by_hand() -> None:
    """Right, wrong, right, wrong, right of 4: precision 1, 1/2, 2/3, 1/2, 3/5 at recall ¼, ½, ¾."""
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
    right = np.array([True, False, True, False, True])
    assert average_precision(scores, right, 4) == pytest.approx((1 + 2 / 3 + 3 / 5) / 4)
    order = np.array([4, 2, 0, 3, 1])
    assert average_precision(scores[order], right[order], 4) == pytest.approx(2.266667 / 4)
    assert average_precision(np.zeros(0), np.zeros(0, dtype=np.bool_), 3) == 0
    # Wrong first: the envelope lifts the precision at low recall to ½ … 2/3.
    right = np.array([False, True, True])
    assert average_precision(scores[:3], right, 2) == pytest.approx(2 / 3)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(2, 40), missed=st.integers(0, 5))
def test_average_precision_by_the_curve_of_scikit_learn(seed: int, count: int, missed: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    right = rng.random(count) < 0.5
    right[0] = True
    scores = rng.permutation(count) / count
    precision, recall, _ = metrics.precision_recall_curve(right, scores)
    found = int(right.sum())
    recall = recall * found / (found + missed)
    best = [precision[recall >= at].max() for at in recall[:-1]]
    wanted = float(((recall[:-1] - recall[1:]) * best).sum())
    assert average_precision(scores, right, found + missed) == pytest.approx(wanted)


def test_frames_are_pooled_and_actions_are_separate() -> None:
    """Two key frames and one without anybody; three actions, the last nowhere annotated."""
    box, other = (0.0, 0.0, 1.0, 1.0), (2.0, 2.0, 3.0, 3.0)
    truth = [
        FrameTruth(array(box, other), np.array([[1, 0, 0], [1, 1, 0]], dtype=np.bool_)),
        FrameTruth(array(box), np.array([[0, 1, 0]], dtype=np.bool_)),
        FrameTruth(np.zeros((0, 4)), np.zeros((0, 3), dtype=np.bool_)),
    ]
    found = [
        FrameDetections(array(box, other), array((0.9, 0.2, 0.1), (0.3, 0.8, 0.1))),
        FrameDetections(array(box), array((0.1, 0.4, 0.9))),
        FrameDetections(array(box), array((0.5, 0.6, 0.9))),
    ]
    first, second, third = frame_map(truth, found, most=50)
    # First: right .9, wrong .5 (nobody is there), right .3, wrong .1 -> 1 and 2/3.
    assert first == pytest.approx((1 + 2 / 3) / 2)
    # Second: right .8, wrong .6, right .4, wrong .2.
    assert second == pytest.approx((1 + 2 / 3) / 2)
    assert third is None
    # With the two highest of a key frame alone: .9 and .8, .9 of the third and .4, .9 and .6.
    first, second, _ = frame_map(truth, found, most=2)
    assert first == pytest.approx(1 / 2)
    assert second == pytest.approx((1 + 2 / 3) / 2)


def test_perfect_and_empty() -> None:
    truth = [FrameTruth(array((0, 0, 1, 1)), np.ones((1, 2), dtype=np.bool_))]
    assert frame_map(truth, [FrameDetections(array((0, 0, 1, 1)), array((0.5, 0.5)))], most=50) == [
        1,
        1,
    ]
    nothing = FrameDetections(np.zeros((0, 4)), np.zeros((0, 2)))
    assert frame_map(truth, [nothing], most=50) == [0, 0]
