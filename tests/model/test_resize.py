"""An encoder for clips of another size: where its positions come from, and that they stay."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from torch import Tensor

from m3video.config import ClipConfig
from m3video.errors import CheckpointError, ConfigError
from m3video.model import Classifier, VisionTransformer, load_encoder, load_model, save_model
from m3video.model.positions import interpolate_positions
from m3video.model.resize import resize_encoder
from m3video.model.vit import sine_cosine_positions

CLIP = ClipConfig(frames=4, stride=3, size=(16, 24), patch=8)


def encoder(clip: ClipConfig = CLIP) -> VisionTransformer:
    torch.manual_seed(5)
    return VisionTransformer(
        **clip.model_dump(exclude={"stride"}), width=24, depth=1, heads=3
    ).eval()


def table(grid: tuple[int, int, int]) -> Tensor:
    return sine_cosine_positions(grid[0] * grid[1] * grid[2], 24)


def test_the_same_grid_is_the_same_table() -> None:
    values = table((2, 3, 4))
    assert torch.equal(interpolate_positions(values, (2, 3, 4), (2, 3, 4)), values)


@pytest.mark.parametrize("factor", [(3, 1, 1), (1, 3, 1), (1, 1, 3), (3, 5, 3), (1, 7, 5)])
def test_corresponding_places_have_the_same_position(factor: tuple[int, int, int]) -> None:
    """With an odd factor the middle token of each group has the centre of an old token."""
    old = (4, 3, 5)
    new = tuple(a * b for a, b in zip(old, factor, strict=True))
    fine = interpolate_positions(table(old), old, new).reshape(*new, 24)
    middle = fine[tuple(slice(part // 2, None, part) for part in factor)]
    assert torch.allclose(middle, table(old).reshape(*old, 24), atol=1e-6)


def test_time_is_linear_between_tokens() -> None:
    """scipy's linear interpolation at the same places; it, too, keeps the border's value."""
    old, new = (4, 2, 3), (8, 2, 3)
    places = (np.arange(8) + 0.5) / 2 - 0.5
    columns = table(old).reshape(4, -1).numpy()
    expected = [map_coordinates(column, [places], order=1, mode="nearest") for column in columns.T]
    fine = interpolate_positions(table(old), old, new).reshape(8, -1)
    assert np.allclose(fine.numpy(), np.stack(expected, axis=1), atol=1e-6)


@pytest.mark.parametrize("new", [(1, 8, 18), (1, 3, 4), (1, 9, 3)])
def test_rows_and_columns_are_bicubic_as_in_opencv(new: tuple[int, int, int]) -> None:
    old = (1, 4, 6)
    image = table(old).reshape(4, 6, 24).numpy()
    expected = cv2.resize(image, (new[2], new[1]), interpolation=cv2.INTER_CUBIC)
    fine = interpolate_positions(table(old), old, new).reshape(*new[1:], 24)
    assert np.allclose(fine.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("frames", "size"), [(2, (16, 24)), (8, (16, 24)), (16, (40, 24)), (4, (48, 8)), (6, (24, 56))]
)
def test_an_encoder_reads_other_clips_and_comes_back_from_disk(
    tmp_path: Path, frames: int, size: tuple[int, int]
) -> None:
    wanted = ClipConfig(frames=frames, stride=2, size=size, patch=8)
    original = encoder()
    before = original.positions.clone()
    resized = resize_encoder(original, wanted)
    assert torch.equal(original.positions, before)
    assert original.clip.size == CLIP.size
    assert resized.clip == wanted
    assert not resized.training
    clip = torch.randn(2, 3, frames, *size, generator=torch.Generator().manual_seed(0))
    tokens = resized(clip)
    assert tokens.shape == (2, wanted.token_count, 24)

    save_model(resized, tmp_path / "model", wanted)
    loaded = load_encoder(tmp_path)
    assert loaded.clip == wanted
    assert torch.equal(loaded.positions, resized.positions)
    assert torch.equal(loaded(clip), tokens)


def test_resizing_to_the_same_size_changes_nothing(tmp_path: Path) -> None:
    resized = resize_encoder(encoder(), CLIP)
    assert torch.equal(resized.positions, encoder().positions)
    save_model(resized, tmp_path, CLIP)
    assert "position_grid" not in json.loads((tmp_path / "config.json").read_text())


def test_the_way_to_a_size_does_not_matter(tmp_path: Path) -> None:
    small = ClipConfig(frames=2, size=(8, 8), patch=8)
    large = ClipConfig(frames=8, size=(32, 40), patch=8)
    detour = resize_encoder(encoder(), small)
    save_model(detour, tmp_path, small)
    detour = resize_encoder(load_encoder(tmp_path), large)
    assert torch.equal(detour.positions, resize_encoder(encoder(), large).positions)
    assert torch.equal(resize_encoder(detour, CLIP).positions, encoder().positions)


def test_a_mask_picks_the_positions_of_the_visible_tokens() -> None:
    clip = ClipConfig(frames=8, size=(24, 16), patch=8)
    resized = resize_encoder(encoder(), clip)
    frames = torch.randn(1, 3, 8, 24, 16, generator=torch.Generator().manual_seed(1))
    visible = torch.tensor([[0, 5, 23]])
    alone = resized.patch_embed(resized._patches(frames, visible)) + resized.positions[visible]
    every = resized.patch_embed(resized._patches(frames, None)) + resized.positions
    assert torch.allclose(alone, every[:, visible[0]], atol=1e-6)


def test_golden_positions() -> None:
    clip = ClipConfig(frames=8, size=(40, 56), patch=8)
    positions = resize_encoder(encoder(), clip).positions
    assert positions.shape == (4 * 5 * 7, 24)
    chosen = positions[[0, 17, 70, 139], [0, 3, 8, 22]]
    assert chosen.tolist() == pytest.approx([-0.128522, 0.306118, 0.186617, 0.002465], abs=1e-6)


def test_what_is_part_of_the_weights_cannot_change() -> None:
    with pytest.raises(ConfigError, match="patch 4: the encoder was built for patch 8"):
        resize_encoder(encoder(), ClipConfig(frames=4, size=(16, 24), patch=4))
    with pytest.raises(ConfigError, match="tubelet 4: the encoder was built for tubelet 2"):
        resize_encoder(encoder(), ClipConfig(frames=4, size=(16, 24), patch=8, tubelet=4))


@pytest.mark.parametrize("grid", [[2, 2], "abc", [2, 2, 0], [2, 2, 1.5], 7, [True, 2, 2]])
def test_a_grid_that_is_none_is_refused(tmp_path: Path, grid: object) -> None:
    save_model(encoder(), tmp_path, CLIP)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "position_grid": grid}))
    with pytest.raises(CheckpointError, match=r"position_grid .* must be three counts"):
        load_encoder(tmp_path)


def test_a_classifier_keeps_its_positions_and_the_epsilon_of_its_norm(tmp_path: Path) -> None:
    wanted = ClipConfig(frames=8, size=(24, 16), patch=8)
    model = Classifier(resize_encoder(encoder(), wanted), ("a", "b")).eval()
    model.norm.eps = 1e-3
    torch.nn.init.normal_(model.head.weight)
    save_model(model, tmp_path, wanted)
    clip = torch.randn(1, 3, 8, 24, 16, generator=torch.Generator().manual_seed(2))
    loaded = load_model(tmp_path)
    assert isinstance(loaded, Classifier)
    assert loaded.norm.eps == 1e-3
    assert torch.equal(loaded(clip), model(clip))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "head_norm_eps": "small"}))
    with pytest.raises(CheckpointError, match="head_norm_eps 'small' must be a number"):
        load_model(tmp_path)
