"""Mixup and CutMix against values by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from m3video.train.mixing import Mix, cut_box, draw_mix, mix_clips, mix_labels


def draw(seed: int, **changes: float) -> Mix:
    settings = {"mixup": 0.8, "cutmix": 1.0, "cutmix_share": 0.5, **changes}
    return draw_mix((32, 48), **settings, rng=np.random.default_rng(seed))


def test_mixup_by_hand() -> None:
    clips = torch.arange(3.0).view(3, 1, 1, 1, 1).expand(3, 3, 2, 4, 6)
    mixed = mix_clips(clips, clips.roll(-1, 0), Mix(0.75))
    assert mixed[:, 0, 0, 0, 0].tolist() == pytest.approx([0.25, 1.25, 1.5])
    labels = mix_labels(torch.eye(3), torch.eye(3).roll(-1, 0), Mix(0.75))
    expected = [[0.75, 0.25, 0], [0, 0.75, 0.25], [0.25, 0, 0.75]]
    torch.testing.assert_close(labels, torch.tensor(expected))


def test_cutmix_by_hand() -> None:
    # λ = 0.75: half of each side, about the middle of 8 × 12.
    mix = cut_box((8, 12), 0.75, 0.5, 0.5)
    assert mix == Mix(0.75, (2, 3, 6, 9))
    clips = torch.tensor([1.0, 2.0]).view(2, 1, 1, 1, 1).expand(2, 3, 2, 8, 12)
    mixed = mix_clips(clips, clips.roll(-1, 0), mix)
    assert (mixed[0, :, :, 2:6, 3:9] == 2).all()
    assert int((mixed[0] == 2).sum()) == 3 * 2 * 4 * 6
    assert (clips[0] == 1).all(), "the batch itself is left alone"


def test_a_box_at_the_edge_gives_back_what_is_outside() -> None:
    mix = cut_box((8, 12), 0.75, 0.0, 1.0)
    assert mix.box == (0, 9, 2, 12)
    assert mix.share == pytest.approx(1 - 2 * 3 / 96)


def test_the_loss_of_mixed_labels_is_the_mixed_loss_with_smoothing() -> None:
    """Cross-entropy is linear in the labels: λ of one class's smoothed loss and the rest of the
    other's; torch smooths class numbers itself."""
    logits = torch.randn(2, 5)
    truth = torch.tensor([1, 3])
    labels = nn.functional.one_hot(truth, 5).float()
    mixed = mix_labels(labels, labels.roll(-1, 0), Mix(0.3))
    loss = nn.functional.cross_entropy(logits, mixed, label_smoothing=0.1)
    own = nn.functional.cross_entropy(logits, truth, label_smoothing=0.1)
    other = nn.functional.cross_entropy(logits, truth.roll(-1), label_smoothing=0.1)
    torch.testing.assert_close(loss, 0.3 * own + 0.7 * other)


def test_what_is_off_is_never_drawn() -> None:
    assert draw(0, mixup=0.0, cutmix=0.0) == Mix()
    assert all(draw(seed, cutmix=0.0).box is None for seed in range(20))
    assert all(draw(seed, mixup=0.0).box is not None for seed in range(20))
    clips = torch.randn(2, 3, 2, 8, 8)
    assert mix_clips(clips, clips, Mix()) is clips


def test_shares_follow_beta_and_the_kinds_their_share() -> None:
    mixes = [draw(seed, cutmix_share=0.3) for seed in range(2000)]
    cut = [mix for mix in mixes if mix.box is not None]
    assert abs(len(cut) / 2000 - 0.3) < 0.04
    shares = torch.tensor([mix.share for mix in mixes if mix.box is None])
    assert abs(float(shares.mean()) - 0.5) < 0.03
    # The variance of Beta(α, α) is 1 / (4 (2 α + 1)).
    assert float(shares.var()) == pytest.approx(1 / (4 * 2.6), rel=0.1)
    assert draw(5) == draw(5)
