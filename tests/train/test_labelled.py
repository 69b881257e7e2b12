"""Clips held as pixels are those that would be rendered, once, each with its texture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from m3video.config import ClipConfig
from m3video.train import labelled
from m3video.train.labelled import rendered, shapes_test, shapes_train
from m3video.video.loader import make_eval_loader
from m3video.video.moving_shapes import CLASSES

CLIP = ClipConfig(frames=4, stride=2, size=(32, 48), patch=8)


def test_a_set_is_rendered_once_and_is_what_the_renderer_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = shapes_test(CLIP, 17, "both")
    assert [(source.texture, len(source)) for source in sources] == [("noise", 9), ("photo", 8)]
    path = tmp_path / "cache" / "test.npy"
    clips = rendered(sources, path)
    monkeypatch.setattr(labelled, "_render", None)  # calling it would be an error
    again = rendered(sources, path)
    assert isinstance(again.frames, np.memmap)
    np.testing.assert_array_equal(clips.frames, again.frames)
    assert clips.textures == ("noise",) * 9 + ("photo",) * 8
    fresh = [next(iter(make_eval_loader(source, batch=17, workers=0))) for source in sources]
    expected = torch.cat([batch.frames for batch in fresh])
    np.testing.assert_array_equal(clips.frames, expected.numpy())
    assert clips.targets.tolist() == torch.cat([batch.label for batch in fresh]).tolist()
    one = clips.clip(11, 0, torch.Generator())
    torch.testing.assert_close(one.frames, expected[11])
    assert (int(one.label), int(one.index)) == (int(clips.targets[11]), 11)


def test_no_two_sets_share_a_clip() -> None:
    sources = [shapes_train(CLIP, 5000, "both"), *shapes_test(CLIP, 5000, "both")]
    numbers = [set(range(source.offset, source.offset + len(source))) for source in sources]
    assert not numbers[0] & numbers[1]
    assert not numbers[0] & numbers[2]
    assert not numbers[1] & numbers[2]
    assert [len(source) for source in shapes_test(CLIP, 1, "both")] == [1]


def test_so_many_of_each_class(tmp_path: Path) -> None:
    clips = rendered([shapes_train(CLIP, 45, "noise")], tmp_path / "train.npy")
    two = clips.first(2)
    assert np.bincount(two.targets).tolist() == [2] * len(CLASSES)
    np.testing.assert_array_equal(two.frames, clips.frames[:26])
    assert len(clips.first(9)) == 45, "there are no more"
