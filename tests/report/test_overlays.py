"""Drawings land where the geometry says, on frames that are not square."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.feature import hog

from m3video.report.overlays import (
    draw_hog,
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
