"""Glyphs point where their numbers say; scales run from dark to bright."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from m3video.report.flow_wheel import flow_picture
from m3video.report.glyphs import (
    PARTS,
    cells_over,
    draw_discs,
    draw_rays,
    heat,
    heat_gradient,
    line_colours,
    wheel_png,
)
from m3video.report.painters import draw_histograms

BLACK = np.zeros((40, 60, 3), np.uint8)
CENTRE = np.array([[30.0, 20.0]])


def lit(picture: np.ndarray) -> np.ndarray:
    """Centre (x, y) of all that is not black, from `CENTRE`."""
    light = picture.astype(float).sum(-1)
    y, x = np.mgrid[: light.shape[0], : light.shape[1]]
    return np.array([(x * light).sum(), (y * light).sum()]) / light.sum() - CENTRE[0]


@pytest.mark.parametrize(("index", "x", "y"), [(0, 1, 0), (2, 0, 1), (4, -1, 0), (5, -0.7, -0.7)])
def test_rays_point_to_their_direction_in_its_colour(index: int, x: float, y: float) -> None:
    lengths = np.zeros((1, 8))
    lengths[0, index] = 1
    colours = line_colours(8)
    picture = draw_rays(BLACK, lengths, CENTRE, colours=colours, longest=12)
    middle = lit(picture)
    assert middle @ [x, y] / np.hypot(x, y) > 4
    assert abs(middle @ [-y, x]) < 0.6
    at = np.rint(CENTRE[0] + np.array([x, y]) / np.hypot(x, y) * 7).astype(int)
    np.testing.assert_allclose(picture[at[1], at[0]], colours[index], atol=40)


def test_length_of_rays_is_their_number() -> None:
    def size(share: float) -> int:
        lengths = np.array([[share, 0, 0, 0]])
        rays = draw_rays(BLACK, lengths, CENTRE, colours=line_colours(4), longest=20)
        return int((rays.sum(-1) > 60).any(axis=0).sum())

    assert size(0.0) == 0
    assert abs(size(1.0) - size(0.5) - 10) <= 1
    assert size(3.0) == size(1.0)


def test_rays_aside_lie_to_the_right_of_their_direction() -> None:
    right = np.array([[1.0, 0, 0, 0]])
    picture = draw_rays(BLACK, right, CENTRE, colours=line_colours(4), longest=12, aside=4)
    assert lit(picture)[1] == pytest.approx(4, abs=0.6)  # moving right, the right hand is down


def test_lines_and_areas_of_one_direction_have_one_hue() -> None:
    angles = np.arange(24) * 2 * np.pi / 24
    flow = np.stack([np.cos(angles), np.sin(angles)], -1)[None].astype(np.float32)
    areas = flow_picture(flow * 0.999, 1.0)[0].astype(float)
    lines = line_colours(24).astype(float)
    np.testing.assert_allclose(lines, areas + (255 - areas) * 0.3, atol=3)


def test_heat_grows_brighter_and_is_cut_at_its_top() -> None:
    light = heat(np.linspace(0, 3, 31), 3.0).astype(float) @ [0.299, 0.587, 0.114]
    assert (np.diff(light) > 0).all()
    assert light[0] < 5
    assert (
        heat(np.array([[3.0, 9.0]]), 3.0)[0, 0] == heat(np.array([[3.0, 9.0]]), 3.0)[0, 1]
    ).all()
    assert heat(np.zeros(0), 3.0).shape == (0, 3)
    assert heat_gradient().count("rgb(") == 9


def test_cells_cover_their_pixels_where_shown() -> None:
    cells = np.full((4, 6, 3), 200, np.uint8)
    shown = np.zeros((4, 6), bool)
    shown[1, 5] = True
    picture = cells_over(BLACK, cells, shown)
    assert (picture[10:20, 50:60] == 200).all()
    assert picture.astype(int).sum() == 100 * 3 * 200


def test_discs_have_their_colour_and_size() -> None:
    colours = np.array([[200, 0, 0], [0, 200, 0]], np.uint8)
    places = np.array([[10.0, 20.0], [40.0, 20.0]])
    picture = draw_discs(BLACK, places, np.array([6.0, 0.0]), colours)
    assert (picture[20, 10] == colours[0]).all()
    assert picture[..., 1].sum() == 0
    assert (picture[..., 0] > 100).sum() == pytest.approx(np.pi * 36, rel=0.2)


def test_the_wheel_of_the_page_is_the_flow_wheel() -> None:
    wheel = np.asarray(Image.open(io.BytesIO(wheel_png(64))))
    assert wheel.shape == (64, 64, 4)
    assert wheel[32, 61, 0] > 200 > wheel[32, 61, 1]  # right is red
    assert wheel[0, 0, 3] == 0
    assert wheel[32, 32, 3] == 255


@pytest.mark.parametrize("kind", ["hog", "hof", "mbh"])
def test_histograms_of_every_kind_are_drawn_at_their_places(kind: str) -> None:
    values = np.zeros((2, 2 if kind == "mbh" else 1, 9))
    values[1] = 0.6
    places = np.array([[10.0, 20.0], [40.0, 20.0]])
    picture = draw_histograms(BLACK, kind, values, places, 16.0)
    assert picture[:, :25].sum() == 0
    assert picture[12:28, 32:48].any()


def test_still_flow_is_a_dot_and_parts_of_mbh_have_their_colours() -> None:
    still = np.zeros((1, 1, 9))
    still[0, 0, 8] = 1
    dot = draw_histograms(BLACK, "hof", still, CENTRE, 20.0)
    assert (dot[20, 30] > 200).all()
    assert np.abs(lit(dot)).max() < 0.2
    for part in (0, 1):
        boundary = np.zeros((1, 2, 8))
        boundary[0, part, 0] = 1
        picture = draw_histograms(BLACK, "mbh", boundary, CENTRE, 20.0)
        brightest = picture.reshape(-1, 3)[picture.sum(-1).argmax()]
        np.testing.assert_allclose(brightest, PARTS[part], atol=12)
