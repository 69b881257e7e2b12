"""Averages of views: exact, in any order, every video once."""

from __future__ import annotations

import pytest
import torch

from m3video.train.views import ViewScores


def views(videos: int, each: int, classes: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 20 * torch.randn(videos * each, classes, generator=generator)
    number = torch.arange(videos * each)
    return logits.softmax(1), number // each, number % each


def scores_of(order: torch.Tensor, batch: int) -> ViewScores:
    probabilities, video, view = views(5, 6, 4)
    scores = ViewScores(5, 6, 4)
    for rows in torch.split(order, batch):
        scores.add(probabilities[rows], video[rows], view[rows])
    return scores


def test_averages_are_means_of_probabilities() -> None:
    probabilities, _, _ = views(5, 6, 4)
    scores = scores_of(torch.arange(30), 7)
    expected = probabilities.double().view(5, 6, 4).mean(1)
    torch.testing.assert_close(scores.averages(), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("batch", [1, 4, 30])
def test_order_and_batches_change_no_bit(batch: int) -> None:
    generator = torch.Generator().manual_seed(batch)
    reference = scores_of(torch.arange(30), 30).averages()
    shuffled = scores_of(torch.randperm(30, generator=generator), batch).averages()
    assert torch.equal(shuffled, reference)


def test_a_view_counts_once_and_a_video_without_all_views_not_at_all() -> None:
    probabilities, video, view = views(2, 3, 4)
    scores = ViewScores(2, 3, 4)
    scores.add(probabilities[:5], video[:5], view[:5])
    scores.add(probabilities[:2], video[:2], view[:2])
    assert scores.whole.tolist() == [0]
    expected = probabilities[:3].double().mean(0)
    torch.testing.assert_close(scores.averages()[0], expected, atol=1e-12, rtol=0)
