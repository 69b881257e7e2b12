"""The data set: balance, determinism, sizes, plans."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from m3video.config import ClipConfig
from m3video.errors import ConfigError
from m3video.video.moving_shapes import CLASSES, MovingShapes, render, sample_scenes
from m3video.video.sampling import plan_clip, sample_generator
from m3video.video.shapes_texture import PHOTOGRAPHS, draw_outlines, draw_textures, photographs

CLIP = ClipConfig(frames=8, stride=2, size=(32, 48), tubelet=2, patch=8)


def shapes(length: int = 6, **settings: object) -> MovingShapes:
    defaults = {"clips": 39, "clip": CLIP, "plan": plan_clip(CLIP, length), "texture": "both"}
    return MovingShapes(**(defaults | settings))  # type: ignore[arg-type]


def frames_of(source: MovingShapes, index: int = 5, seed: int = 0, epoch: int = 0) -> torch.Tensor:
    return source.clip(index, epoch, sample_generator(seed, epoch, index)).frames


def test_every_block_of_clips_holds_each_class_once() -> None:
    source = shapes(offset=7)
    labels = [int(source.clip(i, 0, sample_generator(0, 0, i)).label) for i in range(len(source))]
    for block in range(3):
        assert Counter(labels[13 * block : 13 * block + 13]) == Counter(range(len(CLASSES)))
    assert source.labels == CLASSES
    assert len(CLASSES) == 13


def test_clip_has_the_rows_of_the_plan() -> None:
    source = shapes()
    clip = source.clip(3, 0, sample_generator(0, 0, 3))
    assert clip.frames.shape == (len(source.plan.offsets), 32, 48, 3)
    assert clip.frames.dtype == torch.uint8
    assert clip.frames.is_contiguous()
    assert clip.real.tolist() == [True] * len(source.plan.offsets)
    assert int(clip.index) == 3


def test_same_generator_same_bytes() -> None:
    assert torch.equal(frames_of(shapes()), frames_of(shapes()))
    assert not torch.equal(frames_of(shapes()), frames_of(shapes(), seed=1))
    assert not torch.equal(frames_of(shapes()), frames_of(shapes(), index=18))  # same class


def test_every_epoch_is_new_unless_fixed() -> None:
    source, fixed = shapes(), shapes(fixed=True)
    assert not torch.equal(frames_of(source), frames_of(source, epoch=1))
    assert torch.equal(frames_of(fixed), frames_of(fixed, epoch=1, seed=9))


def test_offset_moves_along_the_same_clips() -> None:
    whole, tail = shapes(fixed=True), shapes(fixed=True, offset=13)
    assert torch.equal(frames_of(whole, index=18), frames_of(tail, index=5))
    assert not torch.equal(frames_of(whole, index=5), frames_of(tail, index=5))
    # A set that is not fixed shares no clip either when the loader's seed is the same.
    assert not torch.equal(frames_of(shapes(), index=5), frames_of(shapes(offset=13), index=5))


def test_a_plan_without_motion_sees_the_same_clip() -> None:
    with_motion, without = shapes(length=6), shapes(length=0)
    assert with_motion.plan.span > without.plan.span
    many, few = frames_of(with_motion), frames_of(without)
    assert torch.equal(many[list(with_motion.plan.inputs)], few[list(without.plan.inputs)])


@pytest.mark.parametrize("size", [(32, 80), (80, 32), (48, 48)])
@pytest.mark.parametrize("texture", ["noise", "photo", "both"])
def test_any_size_and_texture(size: tuple[int, int], texture: str) -> None:
    generator = torch.Generator().manual_seed(0)
    scenes = sample_scenes(
        torch.arange(13), frames=5, size=size, texture=texture, generator=generator
    )
    frames = render(scenes)
    assert frames.shape == (13, 5, *size, 3)
    # Neither blank nor saturated, in every clip.
    assert (frames.float().std(dim=(1, 2, 3, 4)) > 15).all()
    assert ((frames == 0) | (frames == 255)).float().mean() < 0.3


def test_a_row_is_the_same_whichever_others_are_drawn() -> None:
    generator = torch.Generator().manual_seed(0)
    scenes = sample_scenes(
        torch.tensor([0, 6]), frames=12, size=(32, 48), texture="both", generator=generator
    )
    # The window around an object may differ, and with it the last bit of a position.
    difference = render(scenes)[:, [2, 7]].int() - render(scenes, [2, 7]).int()
    assert difference.abs().max() <= 1


def test_the_label_changes_only_the_motion() -> None:
    def scenes(label: int):
        return sample_scenes(
            torch.tensor([label]),
            frames=9,
            size=(32, 48),
            texture="both",
            generator=torch.Generator().manual_seed(4),
        )

    left, approach = scenes(0), scenes(CLASSES.index("approach"))
    for name in ("background", "tiles", "actors", "pan", "noise", "noise_seed"):
        assert torch.equal(getattr(left, name), getattr(approach, name)), name
    assert not torch.equal(left.centre, approach.centre)
    assert not torch.equal(left.radius, approach.radius)


def test_bad_settings_are_named() -> None:
    with pytest.raises(ConfigError, match="clips 0"):
        shapes(clips=0)
    with pytest.raises(ConfigError, match="'marble' is not one of noise, photo, both"):
        shapes(texture="marble")
    with pytest.raises(IndexError, match="clip 39"):
        frames_of(shapes(), index=39)


def test_photographs_come_with_scikit_image() -> None:
    strip = photographs(64)
    assert strip.shape[:2] == (3, 64)
    count = strip.shape[2] // 64
    assert 6 <= count <= len(PHOTOGRAPHS)
    assert 0 <= float(strip.min()) < 0.1 < 0.9 < float(strip.max()) <= 1


def test_without_photographs_the_error_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("m3video.video.shapes_texture.PHOTOGRAPHS", ("absent.png",))
    with pytest.raises(ConfigError, match="use texture 'noise'"):
        photographs(65)  # a side that no other test has cached


def test_photo_textures_show_photographs() -> None:
    generator = torch.Generator().manual_seed(0)
    photo = draw_textures(64, (24, 24), 64, "photo", generator)
    noise = draw_textures(64, (24, 24), 64, "noise", generator)
    both = draw_textures(64, (24, 24), 64, "both", generator)
    assert photo.shape == noise.shape == both.shape == (64, 3, 24, 24)
    assert float(both.min()) >= 0
    assert float(both.max()) <= 1

    def colourfulness(pixels: torch.Tensor) -> torch.Tensor:
        channels = pixels.flatten(2)
        return torch.stack([torch.corrcoef(c)[0, 1] for c in channels])

    # Channels of a photograph move together; those of the noise have parts of their own.
    assert colourfulness(photo).median() > 0.9 > colourfulness(noise).median()


def test_outlines_are_signed_distances_inside_the_unit_circle() -> None:
    side = 64
    outlines = draw_outlines(300, side, torch.Generator().manual_seed(0))
    line = torch.linspace(-1.2, 1.2, side)
    radius = (line[:, None].square() + line.square()).sqrt()
    assert (outlines[:, radius > 1.05] < 0).all()  # nothing sticks out of the circle
    covered = (outlines > 0).float().mean(dim=(1, 2))
    assert (covered > 0.08).all()  # and nothing is a sliver
    # Near the outline a pixel's step changes the distance by at most about a pixel.
    step = 2.4 / (side - 1)
    jump = outlines.diff(dim=2).abs()[outlines[:, :, 1:].abs() < step]
    assert jump.quantile(0.95) < 1.6 * step
