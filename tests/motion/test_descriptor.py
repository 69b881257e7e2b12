"""HOG: against scikit-image, compiled against torch, at points against the grid, and the traps."""

from __future__ import annotations

import importlib
import math
from typing import Any

import numba
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numba.core import caching
from skimage.feature import hog as skimage_hog
from torch import Tensor

from m3video.motion import descriptor_kernel
from m3video.motion.descriptor import EPSILON, block_normalise, hog_at, hog_grid
from m3video.motion.trajectory import seed_grid
from tests.motion.textures import texture


def ramp(height: int, width: int, degrees: float) -> Tensor:
    """A float image in [0, 1] whose gradient has one direction everywhere."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    angle = math.radians(degrees)
    plane = x * math.cos(angle) + y * math.sin(angle)
    return ((plane - plane.min()) / (plane.max() - plane.min())).float()


def block_norm(block: np.ndarray, method: str) -> np.ndarray:
    """The block norms of Dalal & Triggs, section 6.4, with the ε of scikit-image."""
    eps = 1e-5
    if method == "L1":
        return block / (np.abs(block).sum() + eps)
    unit = block / np.sqrt((block**2).sum() + eps**2)
    if method == "L2":
        return unit
    cut = np.minimum(unit, 0.2)
    return cut / np.sqrt((cut**2).sum() + eps**2)


@pytest.mark.parametrize("method", ["L1", "L2", "L2-Hys"])
@pytest.mark.parametrize(("bins", "cell"), [(9, 8), (6, 8), (12, 4)])
@pytest.mark.parametrize("block", [1, 2])
def test_hard_bins_are_those_of_skimage(method: str, bins: int, cell: int, block: int) -> None:
    """On a frame that is not square, and not a multiple of the cell; borders included."""
    image = texture(45, 70, seed=bins, smooth=1.0)
    expected = skimage_hog(
        image.numpy().astype(np.float64),
        orientations=bins,
        pixels_per_cell=(cell, cell),
        cells_per_block=(block, block),
        block_norm=method,
        feature_vector=False,
    )
    # grey levels as they are: whole differences, so that 45° falls on the same side of a bin's edge
    cells = hog_grid(image.float(), bins=bins, cell=cell, binning="hard").double().numpy()
    assert cells.shape == (45 // cell, 70 // cell, bins)
    rows, columns = expected.shape[:2]
    for row in range(rows):
        for column in range(columns):
            ours = block_norm(cells[row : row + block, column : column + block], method)
            np.testing.assert_allclose(ours, expected[row, column], atol=2e-5)


@pytest.mark.parametrize("bins", [4, 9, 12])
def test_soft_bins_are_those_of_skimage_where_the_angle_is_a_bin_centre(bins: int) -> None:
    for number in range(bins):
        image = ramp(32, 48, (number + 0.5) * 180 / bins)
        expected = skimage_hog(
            image.double().numpy(),
            orientations=bins,
            pixels_per_cell=(8, 8),
            cells_per_block=(1, 1),
            block_norm="L1",
            feature_vector=False,
        )[1:-1, 1:-1, 0, 0]
        ours = hog_grid(image, bins=bins)[1:-1, 1:-1]
        ours = ours / ours.sum(dim=-1, keepdim=True)
        np.testing.assert_allclose(ours.numpy(), expected, atol=2e-3)
        assert (ours[..., number] > 0.995).all()


@pytest.mark.parametrize("bins", [6, 9, 12])
@pytest.mark.parametrize("degrees", [0.0, 90.0, 180.0, 33.0, 171.0, 45.0])
def test_votes_are_shared_by_the_two_nearest_bins(bins: int, degrees: float) -> None:
    """Trap 4: a purely horizontal gradient votes, and nothing assumes 9 bins.

    0° lies between the last and the first bin: half each.
    """
    votes = hog_grid(ramp(40, 56, degrees), bins=bins)[1:-1, 1:-1].mean(dim=(0, 1))
    place = degrees % 180 * bins / 180 - 0.5
    expected = torch.zeros(bins)
    expected[math.floor(place) % bins] += 1 - (place - math.floor(place))
    expected[(math.floor(place) + 1) % bins] += place - math.floor(place)
    torch.testing.assert_close(votes / votes.sum(), expected, atol=2e-3, rtol=0)


@pytest.mark.parametrize("bins", [6, 9, 12])
def test_an_edge_along_y_votes_with_its_whole_magnitude(bins: int) -> None:
    """Trap 4 in numbers, on the compiled path: a step of 255 between columns, mean over 8 × 8."""
    image = torch.zeros(24, 40, dtype=torch.uint8)
    image[:, 20:] = 255
    for histogram in (
        hog_grid(image, bins=bins)[1, 2],
        hog_at(image[None], torch.tensor([0]), torch.tensor([[19.5, 11.5]]), bins=bins)[0],
    ):
        assert histogram.sum() == pytest.approx(2 * 8 / 64, abs=1e-6)
        assert histogram[0] == pytest.approx(float(histogram[-1]), abs=1e-6)
        assert histogram[1:-1].abs().max() < 1e-6


def test_negated_images_have_the_same_histograms() -> None:
    """Unsigned orientation."""
    image = texture(32, 48, smooth=1.0)
    torch.testing.assert_close(hog_grid(255 - image), hog_grid(image), atol=1e-5, rtol=0)


def test_a_transposed_image_has_mirrored_bins() -> None:
    """Angle θ becomes 90° − θ: with 6 bins, bin i becomes bin 2 − i."""
    image = texture(32, 48, smooth=1.0)
    turned = hog_grid(image.T.contiguous(), bins=6).transpose(0, 1)
    order = [(2 - number) % 6 for number in range(6)]
    torch.testing.assert_close(turned[..., order], hog_grid(image, bins=6), atol=1e-5, rtol=0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([2, 6, 9, 12, 18]), st.sampled_from([2, 4, 5, 8]))
def test_compiled_and_torch_give_the_same_numbers(seed: int, bins: int, cell: int) -> None:
    """On the grid, and at points anywhere, outside the frame too."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (3, 21, 34), dtype=torch.uint8, generator=generator)
    images[1] = texture(21, 34, seed)
    images[2] = images[2] // 64 * 64  # many exact zeros and equal gradients
    slow = images.float() / 255
    torch.testing.assert_close(
        hog_grid(images, bins=bins, cell=cell),
        hog_grid(slow, bins=bins, cell=cell),
        atol=1e-5,
        rtol=0,
    )
    points = torch.rand(60, 2, generator=generator) * torch.tensor([44.0, 31.0]) - 5
    points[:10] = points[:10].round()
    frame = torch.randint(0, 3, (60,), generator=generator)
    torch.testing.assert_close(
        hog_at(images, frame, points, bins=bins, cell=cell),
        hog_at(slow, frame, points, bins=bins, cell=cell),
        atol=1e-5,
        rtol=0,
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_gives_the_same_numbers() -> None:
    images = torch.randint(0, 256, (3, 21, 34), dtype=torch.uint8)
    torch.testing.assert_close(hog_grid(images.cuda()).cpu(), hog_grid(images), atol=1e-5, rtol=0)
    points, frame = torch.rand(40, 2) * 30, torch.randint(0, 3, (40,))
    there = hog_at(images.cuda(), frame.cuda(), points.cuda()).cpu()
    torch.testing.assert_close(there, hog_at(images, frame, points), atol=1e-5, rtol=0)


@pytest.mark.parametrize("cell", [4, 8])
@pytest.mark.parametrize("compiled", [True, False])
def test_at_the_centres_of_cells_it_is_the_grid(cell: int, compiled: bool) -> None:
    images = torch.stack([texture(40, 72, seed, smooth=1.5) for seed in range(2)])
    given_images = images if compiled else images.float() / 255
    seeds = seed_grid(40, 72, cell)[1:-1, 1:-1]
    for frame in range(2):
        index = torch.full((seeds[..., 0].numel(),), frame)
        at_points = hog_at(given_images, index, seeds.reshape(-1, 2), cell=cell)
        grid = hog_grid(given_images[frame], cell=cell)[1:-1, 1:-1].flatten(0, 1)
        torch.testing.assert_close(at_points, grid, atol=1e-5, rtol=0)


@pytest.mark.parametrize("compiled", [True, False])
def test_x_and_y_are_not_swapped(compiled: bool) -> None:
    """Trap 7: stripes that cross x left, stripes that cross y right, on a wide frame."""
    image = torch.zeros(24, 64)
    image[:, :32] = (torch.arange(32) // 2 % 2).float()
    image[:, 32:] = (torch.arange(24) // 2 % 2).float()[:, None]
    images = (image * 255).to(torch.uint8)[None] if compiled else image[None]
    points = torch.tensor([[12.0, 6.0], [50.0, 6.0], [12.0, 16.0], [50.0, 16.0]])
    votes = hog_at(images, torch.zeros(4, dtype=torch.long), points, bins=6)
    along_x, along_y = votes[:, [0, 5]].sum(dim=-1), votes[:, [2, 3]].sum(dim=-1)
    assert (along_x > 0.1).tolist() == [True, False, True, False]
    assert (along_y > 0.1).tolist() == [False, True, False, True]


@pytest.mark.parametrize("compiled", [True, False])
def test_a_point_between_pixels_sees_the_image_between_pixels(compiled: bool) -> None:
    """Of an image that moved by a fraction, the HOG at the moved point stays the same."""
    fine = texture(96, 160, smooth=8.0).float()
    here, moved = fine[:, ::4], fine[:, 2::4]  # the second is the first, half a pixel further left
    images = torch.stack([here[::4], moved[::4]]) / 255
    if compiled:
        images = (images * 255).round().to(torch.uint8)
    points = torch.tensor([[20.0, 12.0], [19.5, 12.0]])
    histograms = hog_at(images, torch.tensor([0, 1]), points)
    assert (histograms[0] - histograms[1]).abs().max() < 0.1 * histograms[0].max()


def test_block_normalised_hog_is_in_the_range_of_a_sigmoid() -> None:
    """Trap 5: computed from uint8 frames, and normalised, it is in [0, 1] with unit length."""
    histograms = hog_grid(texture(32, 64, smooth=1.0)).reshape(-1, 4 * 9)
    unit = block_normalise(histograms, (-1,))
    assert unit.min() >= 0
    assert unit.max() <= 1
    torch.testing.assert_close(unit.norm(dim=-1), torch.ones(len(unit)), atol=0.02, rtol=0)


def test_block_normalisation_takes_contrast_out_but_not_noise_up() -> None:
    strong = hog_grid(texture(32, 64, smooth=1.0))
    weak = strong / 3
    difference = block_normalise(strong, (-3, -2, -1)) - block_normalise(weak, (-3, -2, -1))
    assert difference.abs().max() < 1e-3
    flat = torch.full((36,), EPSILON / 100)
    assert block_normalise(flat, (0,)).norm() < 0.1
    assert (block_normalise(torch.zeros(36), (0,)) == 0).all()


@pytest.mark.parametrize("bins", [6, 9])
@pytest.mark.parametrize("levels", [1, 255], ids=["float", "uint8"])
def test_blocks_are_the_l2_hys_of_skimage(levels: int, bins: int) -> None:
    """Blocks of 2 × 2 cells, cut at 0.2; one corner is flat and stays 0."""
    image = texture(45, 70, seed=bins, smooth=1.0)
    image[:20, :20] = 90
    given_image = image if levels == 255 else image.float() / 255
    expected = skimage_hog(
        given_image.numpy(),
        orientations=bins,
        pixels_per_cell=(8, 8),
        cells_per_block=(2, 2),
        block_norm="L2-Hys",
        feature_vector=False,
    )
    cells = hog_grid(given_image.float(), bins=bins, binning="hard")
    blocks = cells.unfold(0, 2, 1).unfold(1, 2, 1).permute(0, 1, 3, 4, 2)
    ours = block_normalise(blocks, (-3, -2, -1), epsilon=1e-5, clip=0.2)
    assert ours.shape == expected.shape
    assert (expected[0, 0] == 0).all()
    assert expected.max() > 0.201  # something was cut
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-4)


def test_a_block_that_faded_out_stays_so_after_the_cut() -> None:
    noise = torch.full((36,), EPSILON / 100)
    noise[0] = EPSILON / 10
    unit = block_normalise(noise, (0,))
    torch.testing.assert_close(block_normalise(noise, (0,), clip=0.2).norm(), unit.norm())
    assert unit.norm() < 0.2
    strong = block_normalise(noise * 1000, (0,), clip=0.2)
    assert strong.norm() == pytest.approx(1, abs=1e-3)
    assert strong[0] / strong[1] < noise[0] / noise[1]


def test_a_frame_that_does_not_exist_is_refused() -> None:
    images = torch.zeros(2, 16, 16, dtype=torch.uint8)
    with pytest.raises(IndexError, match=r"2.*use 0 to 1"):
        hog_at(images, torch.tensor([0, 2]), torch.zeros(2, 2))


def test_no_points_no_images() -> None:
    images = torch.zeros(2, 16, 16, dtype=torch.uint8)
    none = torch.zeros(0, dtype=torch.long)
    assert hog_at(images, none, torch.zeros(0, 2)).shape == (0, 9)
    assert hog_grid(images[:0]).shape == (0, 2, 2, 9)


def test_the_kernel_runs_where_nothing_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """numba refuses to cache then; the kernels are compiled anew instead."""
    with monkeypatch.context() as patch:
        patch.setattr(caching.CacheImpl, "_locator_classes", [])
        with pytest.raises(RuntimeError, match="no locator"):
            numba.njit(cache=True)(lambda x: x)
        module: Any = importlib.reload(descriptor_kernel)
        image = texture(16, 24)
        frame, points = torch.zeros(3, dtype=torch.long), torch.rand(3, 2) * 16
        histograms = module.cells_compiled(
            image.numpy()[None, ..., None],
            frame.numpy(),
            points.numpy(),
            cell=8,
            bins=9,
            signed=False,
        )
    importlib.reload(descriptor_kernel)
    expected = hog_at(image[None], frame, points).numpy()
    np.testing.assert_allclose(histograms[:, 0], expected, atol=1e-6)
