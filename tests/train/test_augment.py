"""What a data worker does with the samples of a clip: each on its own, from its generator."""

from __future__ import annotations

import torch

from m3video.config import FinetuneAugment
from m3video.train.augment import ERASED, AugmentSamples
from m3video.video.loader import Clips


def clip() -> Clips:
    frames = torch.arange(4 * 16 * 24 * 3).remainder(251).to(torch.uint8)
    return Clips(
        frames=frames.view(1, 4, 16, 24, 3).expand(3, -1, -1, -1, -1).contiguous(),
        real=torch.ones(4, dtype=torch.bool),
        label=torch.tensor(0),
        index=torch.tensor(0),
    )


def augmented(seed: int, **settings: object) -> Clips:
    augment = AugmentSamples(FinetuneAugment.model_validate(settings))
    return augment(clip(), torch.Generator().manual_seed(seed))


def test_samples_of_a_clip_are_augmented_differently_and_repeatably() -> None:
    first, again = augmented(1, erasing=1.0), augmented(1, erasing=1.0)
    assert first.frames.shape == clip().frames.shape
    assert first.extras[ERASED].shape == (3, 4)
    assert torch.equal(first.frames, again.frames)
    assert torch.equal(first.extras[ERASED], again.extras[ERASED])
    assert len({tuple(box) for box in first.extras[ERASED].tolist()}) == 3
    assert not torch.equal(first.frames[0], first.frames[1])
    assert not torch.equal(first.frames, augmented(2, erasing=1.0).frames)


def test_switched_off_it_changes_nothing() -> None:
    plain = augmented(1, operations=0, erasing=0)
    assert torch.equal(plain.frames, clip().frames)
    assert not plain.extras[ERASED].any()
