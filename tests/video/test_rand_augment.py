"""RandAugment: Pillow as the oracle, one decision a clip, and what is drawn."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from m3video.video.rand_augment import (
    FILL,
    OPERATIONS,
    Operation,
    apply_operation,
    draw_operations,
)


def clip(frames: int = 3, height: int = 24, width: int = 40) -> NDArray[np.uint8]:
    rng = np.random.default_rng(0)
    small = rng.integers(20, 230, (frames, height // 4, width // 4, 3), dtype=np.uint8)
    return small.repeat(4, 1).repeat(4, 2)


def test_every_operation_keeps_shape_and_type_and_changes_something() -> None:
    frames = clip()
    strength = {"posterize": 1.0, "solarize": 77, "solarize-add": 77, "rotate": 21.0}
    factors = {"colour": 1.63, "contrast": 1.63, "brightness": 1.63, "sharpness": 1.63}
    for name in OPERATIONS:
        value = {**strength, **factors}.get(name, 0.25)
        out = apply_operation(frames, Operation(name, value))
        assert out.shape == frames.shape, name
        assert out.dtype == np.uint8, name
        assert not np.array_equal(out, frames), name


def test_colours_are_pillows_of_the_whole_clip() -> None:
    frames = clip()
    tall = Image.fromarray(frames.reshape(-1, 40, 3))
    expected = {
        "equalize": ImageOps.equalize(tall),
        "auto-contrast": ImageOps.autocontrast(tall),
        "invert": ImageOps.invert(tall),
        "solarize": ImageOps.solarize(tall, 77),
        "posterize": ImageOps.posterize(tall, 2),
    }
    for name, image in expected.items():
        value = {"solarize": 77, "posterize": 2}.get(name, 0)
        out = apply_operation(frames, Operation(name, value))
        np.testing.assert_array_equal(out.reshape(-1, 40, 3), np.asarray(image), err_msg=name)


def test_a_still_clip_stays_still() -> None:
    still = clip(1).repeat(4, 0)
    for name in OPERATIONS:
        out = apply_operation(still, Operation(name, 0.3))
        assert (out == out[:1]).all(), name


def test_solarize_add_by_hand() -> None:
    frames = np.array([0, 100, 127, 128, 250], np.uint8).reshape(1, 1, 5, 1).repeat(3, 3)
    out = apply_operation(frames, Operation("solarize-add", 60))
    assert out[0, 0, :, 0].tolist() == [60, 160, 187, 128, 250]


def test_posterize_to_no_bits_is_black() -> None:
    assert not apply_operation(clip(), Operation("posterize", 0)).any()


def test_translations_and_shears_move_content_where_they_say() -> None:
    frames = clip()
    right = apply_operation(frames, Operation("translate-x", -0.1))  # 4 of 40 pixels
    np.testing.assert_array_equal(right[:, :, 4:], frames[:, :, :-4])
    assert (right[:, :, :4] == np.array(FILL)).all()
    up = apply_operation(frames, Operation("translate-y", 0.25))  # 6 of 24 pixels
    np.testing.assert_array_equal(up[:, :-6], frames[:, 6:])
    half_turn = apply_operation(frames, Operation("rotate", 180.0))
    assert np.abs(half_turn.astype(int) - frames[:, ::-1, ::-1]).max() <= 1
    sheared = apply_operation(frames, Operation("shear-x", 1.0))
    row = 4  # 7.5 above the centre: what is there comes from 7.5 pixels to the left
    np.testing.assert_allclose(
        sheared[0, row, 8:].astype(float),
        (frames[0, row, :-8].astype(float) + frames[0, row, 1:-7]) / 2,
        atol=1,
    )


def test_what_is_drawn_is_half_of_n_in_the_ranges_of_the_recipe() -> None:
    generator = torch.Generator().manual_seed(0)
    draws = [draw_operations(4, 7.0, 0.5, generator) for _ in range(2000)]
    flat = [operation for drawn in draws for operation in drawn]
    assert abs(len(flat) / 2000 - 2) < 0.1
    counts = Counter(operation.name for operation in flat)
    assert set(counts) == set(OPERATIONS)
    assert max(counts.values()) < 1.5 * min(counts.values())
    degrees = [abs(o.value) for o in flat if o.name == "rotate"]
    assert np.mean(degrees) == pytest.approx(21, rel=0.02)
    assert np.std(degrees) == pytest.approx(1.5, rel=0.25)
    assert {o.value for o in flat if o.name == "posterize"} <= {1, 2, 3}
    brightness = [o.value for o in flat if o.name == "brightness"]
    assert min(brightness) < 0.5
    assert max(brightness) > 1.5


def test_strengths_by_hand_at_the_ends() -> None:
    generator = torch.Generator().manual_seed(0)
    strongest = {o.name: abs(o.value) for o in draw_operations(600, 10.0, 0.0, generator)}
    assert strongest["rotate"] == pytest.approx(30)
    assert strongest["shear-x"] == pytest.approx(0.3)
    assert strongest["translate-y"] == pytest.approx(0.45)
    assert strongest["posterize"] == 0
    assert strongest["solarize"] == 0
    assert strongest["solarize-add"] == 110
    assert strongest["sharpness"] == pytest.approx(0.1) or strongest["sharpness"] == 1.9
    weakest = {o.name: o.value for o in draw_operations(600, 0.0, 0.0, generator)}
    assert weakest["solarize"] == 256
    assert weakest["contrast"] == 1


def test_the_generator_decides() -> None:
    def drawn(seed: int) -> list[Operation]:
        return draw_operations(4, 7.0, 0.5, torch.Generator().manual_seed(seed))

    assert drawn(3) == drawn(3)
    assert drawn(3) != drawn(4)
