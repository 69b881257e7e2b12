"""Crops, flips and normalisation."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from transformers import VideoMAEImageProcessor
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from m3video.config import AugmentConfig, ClipConfig
from m3video.errors import ConfigError
from m3video.video.augment import (
    MEAN,
    STD,
    Crop,
    centre_crop,
    multi_scale_crop,
    normalise,
    random_crop,
    to_clip,
)

SIDE = st.integers(8, 400)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def coordinates(height: int, width: int, frames: int) -> NDArray[np.uint8]:
    """Red is x, green is y, blue is the frame: [R, H, W, 3]."""
    frame, y, x = np.mgrid[:frames, :height, :width]
    return np.stack([x, y, frame], axis=-1).astype(np.uint8)


@given(SIDE, SIDE, st.tuples(SIDE, SIDE), st.floats(0.2, 1), st.integers(0, 99))
def test_crops_lie_in_the_frame_and_keep_the_aspect(
    height: int, width: int, size: tuple[int, int], scale: float, seed: int
) -> None:
    top, left, crop_height, crop_width = multi_scale_crop(
        height, width, size, (scale,), generator(seed)
    )
    assert 0 <= top <= top + crop_height <= height
    assert 0 <= left <= left + crop_width <= width
    zoom = scale * min(height / size[0], width / size[1])
    assert abs(crop_height - max(zoom * size[0], 1)) <= 0.5
    assert abs(crop_width - max(zoom * size[1], 1)) <= 0.5


def test_all_scales_and_places_are_drawn() -> None:
    draw = generator()
    boxes = [multi_scale_crop(40, 60, (20, 20), (1.0, 0.5), draw) for _ in range(500)]
    assert {box[2] for box in boxes} == {40, 20}
    assert {box[0] for box in boxes if box[2] == 20} == set(range(21))
    assert {box[1] for box in boxes if box[2] == 40} == set(range(21))


@pytest.mark.parametrize("flip", [False, True])
def test_one_decision_holds_for_all_frames(flip: bool) -> None:
    """A crop without a resize takes the same pixels from every frame."""
    frames = coordinates(40, 70, 5)
    found = Crop((7, 11, 20, 32), (20, 32), flip)(frames)
    expected = frames[:, 7:27, 11:43]
    np.testing.assert_array_equal(found, expected[:, :, ::-1] if flip else expected)


@given(st.integers(0, 200))
def test_augment_moves_all_frames_alike(seed: int) -> None:
    frames = coordinates(48, 80, 3)
    found = random_crop(*frames.shape[1:3], (32, 48), AugmentConfig(flip=True), generator(seed))(
        frames
    )
    assert found.shape == (3, 32, 48, 3)
    assert (found[..., 2] == np.arange(3)[:, None, None]).all()  # no frame is mixed with another
    np.testing.assert_array_equal(found[1, ..., :2], found[0, ..., :2])
    np.testing.assert_array_equal(found[2, ..., :2], found[0, ..., :2])


def test_flip_happens_half_the_time_and_only_when_asked() -> None:
    frames = coordinates(32, 48, 1)

    def mirrored(config: AugmentConfig, seed: int) -> bool:
        red = random_crop(*frames.shape[1:3], (32, 48), config, generator(seed))(frames)[0, 0, :, 0]
        return bool(red[0] > red[-1])

    flips = sum(mirrored(AugmentConfig(flip=True), seed) for seed in range(400))
    assert 150 < flips < 250
    assert not any(mirrored(AugmentConfig(flip=False), seed) for seed in range(50))


def test_resizing_keeps_pixel_centres() -> None:
    """Column i of the result shows the source at (i + 0.5) · width / w − 0.5: no shift."""
    ramp = np.broadcast_to(np.arange(0, 240, 2, np.uint8)[None, None, :, None], (1, 90, 120, 3))
    found = Crop((0, 0, 90, 120), (60, 80))(np.ascontiguousarray(ramp))
    columns = 2 * ((np.arange(80) + 0.5) * 1.5 - 0.5)
    assert np.abs(found[0, 30, 1:-1, 0] - columns[1:-1]).max() <= 0.75


def test_no_source_pixel_is_skipped_when_shrinking() -> None:
    for factor in (1.2, 1.9, 2.0, 2.5, 7.0):
        side = round(32 * factor)
        for column in range(side):
            frames = np.zeros((1, side, side, 3), np.uint8)
            frames[:, :, column] = 255
            assert Crop((0, 0, side, side), (32, 32))(frames).max() > 0


def test_large_shrinking_is_the_area_average() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (1, 96, 144, 3), np.uint8)
    found = Crop((0, 0, 96, 144), (32, 48))(frames)
    blocks = frames[0].reshape(32, 3, 48, 3, 3).mean((1, 3))
    assert np.abs(found[0] - blocks).max() <= 0.5 + 1e-6


def test_centre_crop() -> None:
    frames = coordinates(40, 100, 2)
    np.testing.assert_array_equal(centre_crop(frames, (40, 60)), frames[:, :, 20:80])
    wide = centre_crop(frames, (20, 30))
    expected = cv2.resize(frames[1, :, 20:80], (30, 20), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(wide[1], expected)


def test_normalise_is_what_videomae_reads() -> None:
    assert list(MEAN) == IMAGENET_DEFAULT_MEAN
    assert list(STD) == IMAGENET_DEFAULT_STD
    frames = np.random.default_rng(0).integers(0, 256, (4, 32, 48, 3), np.uint8)
    processor = VideoMAEImageProcessor(
        do_resize=False, do_center_crop=False, image_mean=list(MEAN), image_std=list(STD)
    )
    expected = processor(list(frames), return_tensors="pt")["pixel_values"]  # [1, T, 3, H, W]
    found = normalise(torch.from_numpy(frames)[None])
    assert found.shape == (1, 3, 4, 32, 48)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected.movedim(2, 1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        ([1, 2], "frames are a list: give a torch tensor"),
        (torch.zeros(64, 8, 8, 3), r"frames of torch.float32 \[64, 8, 8, 3\]: give uint8"),
        (torch.zeros(64, 3, 8, 8, dtype=torch.uint8), r"\[64, 3, 8, 8\]: give uint8"),
        (torch.zeros(9, 8, 8, 3, dtype=torch.uint8), "9 frames from frame 0: .* give 10 from"),
    ],
)
def test_what_is_no_clip_is_refused(frames: torch.Tensor, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        to_clip(frames, ClipConfig(frames=4, stride=3, size=(32, 48)))


def test_to_clip_takes_every_stride_th_frame() -> None:
    frames = torch.arange(40, dtype=torch.uint8)[:, None, None, None].expand(40, 32, 48, 3)
    clip = to_clip(frames, ClipConfig(frames=4, stride=3, size=(32, 48)), start=5)
    assert clip.shape == (1, 3, 4, 32, 48)
    expected = normalise(frames[[5, 8, 11, 14]])
    torch.testing.assert_close(clip[0], expected)
