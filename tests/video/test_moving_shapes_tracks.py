"""Exact motion, against what is seen on the rendered frames and against closed forms."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from m3video.video.moving_shapes import CLASSES, Scenes, render, sample_scenes

SIZE = (48, 80)
FRAMES = 16
ALL = torch.arange(len(CLASSES))


def draw(labels: Tensor = ALL, *, seed: int = 0, size: tuple[int, int] = SIZE) -> Scenes:
    scenes = sample_scenes(
        labels,
        frames=FRAMES,
        size=size,
        texture="noise",
        generator=torch.Generator().manual_seed(seed),
    )
    return replace(scenes, noise=torch.zeros(len(labels)))


def draw_class(name: str, count: int = 40, *, seed: int = 0) -> Scenes:
    return draw(torch.full((count,), CLASSES.index(name)), seed=seed)


def grid(size: tuple[int, int] = SIZE, spacing: int = 1) -> Tensor:
    """[1, h, w, 2] pixel positions (x, y)."""
    y, x = torch.meshgrid(
        torch.arange(0, size[0], spacing), torch.arange(0, size[1], spacing), indexing="ij"
    )
    return torch.stack([x, y], dim=-1)[None]


def seen(frames: Tensor, points: Tensor) -> Tensor:
    """Bilinear colours: uint8 [B, F, H, W, 3] at [B, P, F, 2] -> [B, P, F, 3]."""
    height, width = frames.shape[2:4]
    scale = torch.tensor([2 / (width - 1), 2 / (height - 1)])
    pictures = frames.flatten(0, 1).permute(0, 3, 1, 2).float()
    where = (points.transpose(1, 2).flatten(0, 1) * scale - 1)[:, None]
    colours = functional.grid_sample(pictures, where, align_corners=True)[:, :, 0]
    return colours.transpose(1, 2).unflatten(0, frames.shape[:2]).transpose(1, 2)


def layer_pictures(scenes: Scenes) -> Tensor:
    """Which layer is nearest in each pixel, by rendering flat colours: uint8 [B, S, H, W]."""
    tiles = scenes.tiles.clone()
    layers = tiles.shape[1]
    tiles[:, :, :3] = (torch.arange(1, layers + 1) * 50 / 255).view(1, -1, 1, 1, 1)
    flat = replace(scenes, tiles=tiles, background=torch.zeros_like(scenes.background))
    return render(flat)[..., 0]


def neighbourhoods_agree(labels: Tensor) -> Tensor:
    """True where the pixels around are of the same layer: away from all edges."""
    pictures = labels.flatten(0, 1)[:, None].float()
    low = -functional.max_pool2d(-pictures, 3, 1, 1)
    high = functional.max_pool2d(pictures, 3, 1, 1)
    return (low == high)[:, 0].view(labels.shape)


def at_pixels(pictures: Tensor, points: Tensor) -> Tensor:
    """[B, F, H, W] at the pixels nearest to [B, P, F, 2] (kept in the frame) -> [B, P, F]."""
    height, width = pictures.shape[2:]
    x = points[..., 0].round().long().clamp(0, width - 1)
    y = points[..., 1].round().long().clamp(0, height - 1)
    batch = torch.arange(len(pictures))[:, None, None]
    return pictures[batch, torch.arange(pictures.shape[1]), y, x]


def drawn_by_opencv(scenes: Scenes, clip: int, frame: int) -> np.ndarray:
    """float [H, W, 3]: the same layers, warped over the whole frame and laid over each other."""
    height, width = scenes.size

    def warp(picture: Tensor, matrix: np.ndarray) -> np.ndarray:
        source = np.ascontiguousarray(picture.permute(1, 2, 0).numpy())
        return cv2.warpAffine(
            source, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )

    pan = scenes.pan[clip, frame].numpy()
    drawn = warp(
        scenes.background[clip],
        np.array([[1, 0, pan[0] - scenes.margin], [0, 1, pan[1] - scenes.margin]]),
    )
    for layer, tile in enumerate(scenes.tiles[clip]):
        centre = scenes.centre[clip, frame, layer].numpy() + pan
        angle, radius = (float(v[clip, frame, layer]) for v in (scenes.angle, scenes.radius))
        middle = (tile.shape[-1] - 1) / 2
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        turn *= radius * 1.2 / middle  # the tile spans ± 1.2 radii
        warped = warp(tile, np.column_stack([turn, centre - turn @ [middle, middle]]))
        alpha = np.clip(warped[..., 3:] * radius + 0.5, 0, 1)
        drawn = drawn * (1 - alpha) + warped[..., :3] * alpha
    return drawn * 255


def test_frames_are_what_opencv_draws() -> None:
    for label in range(len(CLASSES)):
        scenes = draw(ALL[label : label + 1], seed=label)
        frames = render(scenes).numpy().astype(float)
        for frame in range(FRAMES):
            error = np.abs(frames[0, frame] - drawn_by_opencv(scenes, 0, frame))
            assert error.mean() < 0.5
            assert error.max() < 8  # rounding alone; OpenCV 4 has positions in 1/32 pixel


@pytest.mark.parametrize("start", [0, 5])
def test_tracked_points_keep_their_colour(start: int) -> None:
    scenes = draw()
    length = 8
    window = slice(start, start + length + 1)
    frames, layers = render(scenes)[:, window], layer_pictures(scenes)[:, window]
    tracks = scenes.tracks(grid(spacing=2).flatten(1, 2), start, length)
    whole = at_pixels(neighbourhoods_agree(layers).float(), tracks.points).bool()
    moved = (tracks.points - tracks.points[:, :, :1]).norm(dim=-1)
    good = tracks.visible & whole & whole[..., :1] & (moved > 2)
    assert good.sum() > 2000

    def error(points: Tensor) -> Tensor:
        colours = seen(frames, points)
        return (colours - colours[:, :, :1]).abs().mean(dim=-1)[good]

    exact = error(tracks.points)
    stay = error(tracks.points[:, :, :1].expand_as(tracks.points))
    assert exact.median() < 2  # of 255: interpolation only
    assert exact.quantile(0.99) < 10
    assert exact.mean() < 0.1 * stay.mean()
    # The same check sees a wrong motion: x and y swapped, or half the displacement.
    path = tracks.points - tracks.points[:, :, :1]
    assert error(tracks.points[:, :, :1] + path.flip(-1)).mean() > 4 * exact.mean()
    assert error(tracks.points[:, :, :1] + 0.5 * path).mean() > 3 * exact.mean()


def test_visibility_is_what_the_frames_show() -> None:
    scenes = draw(ALL.repeat(3), seed=2)
    layers = layer_pictures(scenes)
    tracks = scenes.tracks(grid().flatten(1, 2), 0, FRAMES - 1)
    colour = at_pixels(layers, tracks.points)
    clear = at_pixels(neighbourhoods_agree(layers).float(), tracks.points).bool()
    clear &= clear[..., :1]  # what a point belongs to must be sure as well
    same = colour == colour[..., :1]
    inside = (tracks.points >= 0).all(-1)
    inside &= (tracks.points <= torch.tensor([SIZE[1] - 1, SIZE[0] - 1])).all(-1)
    hidden = clear & inside & ~same
    assert hidden.sum() > 5000
    assert (~tracks.visible)[hidden].float().mean() > 0.99
    assert tracks.visible[clear & inside & same].float().mean() > 0.999
    assert not tracks.visible[~inside].any()
    assert (~inside).sum() > 5000
    assert tracks.visible[..., 0].all()


def test_right_without_camera_moves_by_a_constant() -> None:
    scenes = draw_class("right")
    scenes = replace(scenes, pan=torch.zeros_like(scenes.pan))
    points = scenes.centre[:, 0].gather(1, scenes.actors[..., None].expand(-1, -1, 2))
    near = scenes.actors.max(dim=1).values == scenes.tiles.shape[1] - 1  # nothing before it
    nearest = points[torch.arange(len(points)), scenes.actors.argmax(dim=1)][:, None]
    solid = scenes.tiles[torch.arange(len(points)), scenes.actors.max(dim=1).values, 3]
    solid = solid[:, solid.shape[1] // 2, solid.shape[2] // 2] > 0.1  # not a ring
    step = scenes.tracks(nearest, 0, FRAMES - 1).displacements[near & solid]
    assert len(step) >= 10
    assert step[..., 1].abs().max() < 1e-4
    assert (step[..., 0] - step[..., :1, 0]).abs().max() < 1e-4
    share = step[..., 0] * FRAMES / min(SIZE)
    assert 0.299 < float(share.min()) < float(share.max()) < 0.451


def test_background_moves_with_the_camera_only() -> None:
    scenes = draw()
    scenes = replace(
        scenes,
        tiles=torch.cat([scenes.tiles[:, :, :3], -torch.ones_like(scenes.tiles[:, :, 3:])], dim=2),
    )
    flow = scenes.flow(4)
    camera = (scenes.pan[:, 5] - scenes.pan[:, 4])[..., None, None]
    torch.testing.assert_close(flow, camera.expand_as(flow), atol=1e-4, rtol=0)
    assert camera.abs().max() > 0.1
    reach = scenes.pan.abs().amax()
    assert 0.05 * min(SIZE) < reach < 0.12 * min(SIZE)


def test_flow_is_the_first_step_of_the_tracks() -> None:
    scenes = draw()
    flow = scenes.flow(3)
    tracks = scenes.tracks(grid(), 3, 6)
    assert flow.shape == (13, 2, *SIZE)
    assert tracks.points.shape == (13, *SIZE, 7, 2)
    assert tracks.visible.shape == (13, *SIZE, 7)
    assert torch.equal(flow[:, 0], tracks.displacements[..., 0, 0])
    assert torch.equal(flow[:, 1], tracks.displacements[..., 0, 1])


def test_flow_agrees_with_an_estimate() -> None:
    scenes = draw(size=(96, 128), seed=3)
    frames = render(scenes).numpy()
    estimator = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    inner = neighbourhoods_agree(layer_pictures(scenes))
    exact_errors, zero_errors = [], []
    for frame in (2, 9):
        flow = scenes.flow(frame).numpy()
        visible = scenes.tracks(grid((96, 128)), frame, 1).visible[..., 1].numpy()
        for clip in range(len(frames)):
            grey = [cv2.cvtColor(frames[clip, k], cv2.COLOR_RGB2GRAY) for k in (frame, frame + 1)]
            estimate = estimator.calc(*grey, None).transpose(2, 0, 1)
            use = visible[clip] & inner[clip, frame].numpy() & (np.hypot(*flow[clip]) > 0.3)
            exact_errors.append(np.hypot(*(estimate - flow[clip]))[use])
            zero_errors.append(np.hypot(*flow[clip])[use])
    exact, zero = np.concatenate(exact_errors), np.concatenate(zero_errors)
    assert np.median(exact) < 0.1
    assert exact.mean() < 0.25 * zero.mean()


def test_frames_outside_the_scene_are_refused() -> None:
    scenes = draw(ALL[:1])
    with pytest.raises(ValueError, match="start 10 with length 6 leaves the scene's 16 frames"):
        scenes.tracks(grid(), 10, 6)
    with pytest.raises(ValueError, match="rows 0 to 16 leave the scene's 16 frames"):
        render(scenes, [0, 16])


# ---- what the classes are, seen in tracks of the nearest actor relative to the background


def actor_paths(name: str) -> list[Tensor]:
    """[P, S, 2] for each clip: points of the nearer actor, less what the camera does."""
    scenes = draw_class(name)
    owner = layer_pictures(scenes)[:, 0]
    wanted = (scenes.actors.max(dim=1).values + 1) * 50
    tracks = scenes.tracks(grid(spacing=2), 0, FRAMES - 1)
    paths = tracks.points - scenes.pan[:, None, None]
    picked = [paths[b][owner[b, ::2, ::2] == wanted[b]] for b in range(len(wanted))]
    return [points for points in picked if len(points) >= 8]


def cross(first: Tensor, second: Tensor) -> Tensor:
    """Positive for a clockwise turn on the screen (x right, y down)."""
    return first[..., 0] * second[..., 1] - first[..., 1] * second[..., 0]


@pytest.mark.parametrize(
    ("name", "direction"),
    [("left", (-1, 0)), ("right", (1, 0)), ("up", (0, -1)), ("down", (0, 1))],
)
def test_straight_classes_go_their_way(name: str, direction: tuple[int, int]) -> None:
    for path in actor_paths(name):
        gone = (path[:, -1] - path[:, 0]).mean(dim=0) / min(SIZE)
        along = gone @ torch.tensor(direction, dtype=torch.float32)
        assert 0.28 < along < 0.46
        assert (gone - along * torch.tensor(direction)).norm() < 1e-4


@pytest.mark.parametrize(("name", "sign"), [("clockwise", 1), ("counterclockwise", -1)])
def test_turning_classes_turn_their_way(name: str, sign: int) -> None:
    for path in actor_paths(f"rotate-{name}"):
        spokes = path - path.mean(dim=0)
        turn = cross(spokes[:, :-1], spokes[:, 1:]).mean(dim=0)
        assert (sign * turn > 0).all()
    for path in actor_paths(f"circle-{name}"):
        velocity = path.mean(dim=0).diff(dim=0)
        assert (sign * cross(velocity[:-1], velocity[1:]) > 0).all()
        spread = path - path.mean(dim=0)  # the object itself does not turn
        assert (spread - spread[:, :1]).abs().max() < 1e-3


@pytest.mark.parametrize(("name", "sign"), [("approach", 1), ("recede", -1)])
def test_growing_classes_grow_their_way(name: str, sign: int) -> None:
    for path in actor_paths(name):
        size = (path - path.mean(dim=0)).norm(dim=-1).mean(dim=0)
        growth = sign * (size[-1] / size[0]).log()
        assert 0.5 < growth < 0.9


@pytest.mark.parametrize(("name", "axis"), [("horizontal", 0), ("vertical", 1)])
def test_oscillation_comes_back(name: str, axis: int) -> None:
    for path in actor_paths(f"oscillate-{name}"):
        centre = path.mean(dim=0)
        assert centre[:, 1 - axis].std() < 1e-4
        signs = centre[:, axis].diff().sign()
        assert (signs.diff() != 0).sum() >= 1
        extent = centre[:, axis].max() - centre[:, axis].min()
        assert (centre[-1, axis] - centre[0, axis]).abs() < extent


def test_in_pass_behind_the_farther_actor_is_hidden_for_a_while() -> None:
    scenes = draw_class("pass-behind")
    centres = scenes.centre.gather(2, scenes.actors[:, None, :, None].expand(-1, FRAMES, -1, 2))
    apart = centres[:, :, 0] - centres[:, :, 1]
    assert ((apart[:, 0] * apart[:, -1]).sum(dim=-1) < 0).all()  # they have changed sides
    tracks = scenes.tracks(grid().flatten(1, 2), 0, FRAMES - 1)
    owner = layer_pictures(scenes)[:, 0].flatten(1)
    farther = owner == (scenes.actors.min(dim=1).values[:, None] + 1) * 50
    back = tracks.visible[..., 0] & ~tracks.visible[..., 7] & tracks.visible[..., -1]
    share = [float(back[b][farther[b]].float().mean()) for b in range(40) if farther[b].any()]
    assert np.mean(share) > 0.25  # of the points seen at first are hidden at mid-span and back
