"""Drawings land where the geometry says, on frames that are not square."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.feature import hog

from m3video.report.overlays import (
    HUES,
    direction_colours,
    draw_hog,
    draw_tracks,
    enlarge,
    enlarged,
    fade,
    shade_patches,
)

BLACK = np.zeros((24, 40, 3), np.uint8)


def drawn_at(picture: np.ndarray) -> tuple[float, float]:
    """Centre (x, y) of all that is not black, weighted by brightness."""
    light = picture.astype(float).sum(-1)
    y, x = np.mgrid[: light.shape[0], : light.shape[1]]
    return float((x * light).sum() / light.sum()), float((y * light).sum() / light.sum())


@pytest.mark.parametrize("scale", [1, 2, 3, 5])
def test_enlarged_points_stay_on_their_pixel(scale: int) -> None:
    frame = BLACK.copy()
    frame[5, 31] = 200
    assert drawn_at(enlarge(frame, scale)) == pytest.approx(enlarged(np.array([31.0, 5.0]), scale))


@pytest.mark.parametrize("scale", [1, 4])
def test_dot_lies_at_its_point(scale: int) -> None:
    points = np.array([[[30.25, 6.5]]])
    picture = draw_tracks(enlarge(BLACK, scale), points, np.ones((1, 1), bool), scale=scale)
    assert drawn_at(picture) == pytest.approx(enlarged(points[0, 0], scale), abs=0.35)


@pytest.mark.parametrize("turn", [0, 6, 12, 18])
def test_line_has_the_colour_of_its_direction_and_goes_there(turn: int) -> None:
    angle = 2 * np.pi * turn / HUES
    step = np.array([np.cos(angle), np.sin(angle)]) * 4
    points = np.array([20.0, 12.0]) + np.arange(3)[:, None] * step
    picture = draw_tracks(BLACK, points[None], np.ones((1, 3), bool), oldest=1.0)
    x, y = np.rint(points[1]).astype(int)
    pixel, colour = picture[y, x].astype(float), direction_colours()[turn].astype(float)
    assert pixel.max() > 180
    np.testing.assert_allclose(pixel / pixel.max(), colour / colour.max(), atol=0.02)
    centre = np.array(drawn_at(picture)) - [20, 12]
    assert centre @ step / np.linalg.norm(step) > 3


def test_directions_are_told_apart() -> None:
    right, down, left, up = direction_colours()[[0, 6, 12, 18]].astype(int)
    for one, other in [(right, left), (up, down), (right, down)]:
        assert np.abs(one - other).max() > 120


def test_older_segments_are_fainter() -> None:
    points = np.array([[[4.0, 12.0], [14.0, 12.0], [24.0, 12.0], [34.0, 12.0]]])
    picture = draw_tracks(BLACK, points, np.ones((1, 4), bool)).max(-1)
    assert 20 < picture[12, 8] < picture[12, 18] < picture[12, 28]


def test_nothing_is_drawn_from_the_first_invisible_step() -> None:
    points = np.array([[[4.0, 12.0], [14.0, 12.0], [24.0, 12.0], [34.0, 12.0]]])
    visible = np.array([[True, True, False, True]])
    picture = draw_tracks(BLACK, points, visible)
    assert picture[:, :14].any()
    assert not picture[:, 18:].any()
    assert not draw_tracks(BLACK, points, np.zeros((1, 4), bool)).any()


def test_still_points_are_grey_and_the_frame_is_not_changed() -> None:
    points = np.array([[[20.0, 12.0], [20.1, 12.0]]])
    frame = BLACK.copy()
    picture = draw_tracks(frame, points, np.ones((1, 2), bool))
    spread = picture.astype(int).max(-1) - picture.astype(int).min(-1)
    assert picture.any()
    assert spread.max() < 20
    assert not frame.any()


def test_shaded_patches_are_those_that_are_named() -> None:
    frame = np.full((24, 40, 3), 200, np.uint8)
    where = np.zeros((3, 5), bool)
    where[2, 1] = True
    shaded = shade_patches(frame, where, 1.0, (10, 20, 30))
    assert (shaded[16:24, 8:16] == (10, 20, 30)).all()
    assert (np.delete(shaded.reshape(3, 8, 5, 8, 3), 1, axis=2) == 200).all()
    assert (shaded[:16] == 200).all()
    assert (fade(frame, 0.0) == frame).all()


def test_glyph_strokes_lie_along_the_edges_that_scikit_image_finds() -> None:
    y, x = np.mgrid[:32, :32]
    for angle in (0.0, 30.0, 90.0, 140.0):
        along = np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))])
        across = x * -along[1] + y * along[0]
        image = np.sin(across * 0.4)
        histogram = hog(
            image, orientations=9, pixels_per_cell=(32, 32), cells_per_block=(1, 1)
        ).reshape(1, 9)
        # scikit-image's y gradient points down as ours, and its bins begin at 0° as ours
        centre = np.array([[20.0, 12.0]])
        canvas = draw_hog(
            BLACK, histogram, centre, cell=16.0, strongest=float(histogram.max())
        ).astype(float)
        light = canvas.sum(-1)
        rows, columns = np.nonzero(light)
        offsets = np.stack([columns - 20, rows - 12], -1)
        weights = light[rows, columns]
        spread = (offsets * weights[:, None]).T @ offsets
        direction = np.linalg.eigh(spread)[1][:, -1]
        assert abs(direction @ along) > np.cos(np.radians(15)), angle
