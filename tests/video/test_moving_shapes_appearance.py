"""No single frame betrays the class.

Two probes look at one frame of each clip, drawn at random: one at what the scene *is* there
(places, sizes, angles, depth order, exactly), one at its pixels. Both must stay within three
standard errors of chance; the standard error of an accuracy at chance p over n test clips is
√(p (1 − p) / n). The same probes must do far better where there is something to find.
"""

from __future__ import annotations

from math import log, sqrt

import numpy as np
import pytest
import torch
from skimage.feature import hog
from torch import Tensor
from torch.nn import functional

from m3video.video.moving_shapes import CLASSES, Scenes, render, sample_scenes
from m3video.video.shapes_motion import Paths, draw_paths

SIZE = (40, 56)
FRAMES = 18
STATIONARY = [
    CLASSES.index(name) for name in CLASSES if name.startswith(("rotate", "circle", "oscillate"))
]


def limit(classes: int, count: int) -> float:
    chance = 1 / classes
    return chance + 3 * sqrt(chance * (1 - chance) / count)


def standardise(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    mean, deviation = train.mean(dim=0), train.std(dim=0) + 1e-6
    return (train - mean) / deviation, (test - mean) / deviation


def nearest_neighbours(features: Tensor, labels: Tensor, train: int, k: int = 25) -> float:
    """Accuracy of k-NN on the rows after the first `train`."""
    known, asked = standardise(features[:train], features[train:])
    nearest = torch.cdist(asked, known).topk(k, largest=False).indices
    votes = functional.one_hot(labels[:train][nearest], len(CLASSES)).sum(dim=1)
    return float((votes.argmax(dim=1) == labels[train:]).float().mean())


def kernel_ridge(features: Tensor, labels: Tensor, train: int, *, linear: bool) -> float:
    """Accuracy of one-against-all ridge regression, linear or with a Gaussian kernel."""
    known, asked = standardise(features[:train], features[train:])

    def kernel(first: Tensor, second: Tensor) -> Tensor:
        if linear:
            return first @ second.T / known.shape[1]
        return (-torch.cdist(first, second).square() / known.shape[1]).exp()

    targets = functional.one_hot(labels[:train], len(CLASSES)).float()
    ridge = (1.0 if linear else 0.1) * torch.eye(train)
    weights = torch.linalg.solve(kernel(known, known) + ridge, targets - targets.mean(dim=0))
    guesses = (kernel(asked, known) @ weights).argmax(dim=1)
    return float((guesses == labels[train:]).float().mean())


# ---- the exact state


def states(paths: Paths, frame: Tensor) -> dict[str, Tensor]:
    """What is where in one frame of each clip."""
    batch = torch.arange(len(frame))
    placed = (paths.centre + paths.pan[:, :, None])[batch, frame]
    place = placed.gather(1, paths.actors[..., None].expand(-1, -1, 2))
    radius = paths.radius[batch, frame].gather(1, paths.actors).log()
    angle = paths.angle[batch, frame].gather(1, paths.actors)
    order = (paths.actors[:, :1] < paths.actors[:, 1:]).float()
    parts = {
        "place": place.mean(dim=1),
        "separation": place[:, 0] - place[:, 1],
        "size": radius,
        "angle": torch.cat([angle.cos(), angle.sin()], dim=1),
        "order and camera": torch.cat([order, paths.pan[batch, frame]], dim=1),
    }
    return parts | {"all": torch.cat([standardise(v, v)[0] for v in parts.values()], dim=1)}


def draw_states(
    classes: list[int], count: int, frame: int | None
) -> tuple[dict[str, Tensor], Tensor]:
    generator = torch.Generator().manual_seed(11)
    labels = torch.tensor(classes)[torch.arange(count) % len(classes)]
    paths = draw_paths(labels, FRAMES, FRAMES, SIZE, generator)
    at_random = torch.randint(FRAMES, (count,), generator=generator)
    chosen = at_random if frame is None else torch.full((count,), frame)
    return states(paths, chosen), labels


EVERY = list(range(len(CLASSES)))
PARTS = ["place", "separation", "size", "angle", "order and camera", "all"]


@pytest.mark.parametrize("part", PARTS)
def test_state_in_a_random_frame_does_not_tell_the_class(part: str) -> None:
    state, labels = draw_states(EVERY, 9000, None)
    assert nearest_neighbours(state[part], labels, 6000) < limit(len(CLASSES), 3000)


@pytest.mark.parametrize("frame", [0, FRAMES // 2, FRAMES - 1])
def test_stationary_classes_do_not_even_differ_frame_by_frame(frame: int) -> None:
    state, labels = draw_states(STATIONARY, 6000, frame)
    for part in PARTS:
        accuracy = nearest_neighbours(state[part], labels, 4000)
        assert accuracy < limit(len(STATIONARY), 2000), part


def test_the_state_probe_sees_what_cannot_be_avoided() -> None:
    """A straight motion begins off-centre on average: a probe of first frames finds it."""
    first, labels = draw_states(EVERY, 9000, 0)
    assert nearest_neighbours(first["place"], labels, 6000) > 1.8 / len(CLASSES)
    assert nearest_neighbours(first["size"], labels, 6000) > 1.8 / len(CLASSES)
    # Known, and not to grow: 0.22 when this was written.
    assert nearest_neighbours(first["all"], labels, 6000) < 0.26


def test_marginals_are_equal() -> None:
    """Kolmogorov-Smirnov between each class and all others together, for each number of a state."""
    state, labels = draw_states(EVERY, 26000, None)
    tests = len(EVERY) * sum(state[part].shape[1] for part in PARTS[:-1])
    for part in PARTS[:-1]:
        for column in state[part].T:
            for label in EVERY:
                own, other = column[labels == label], column[labels != label]
                both = torch.cat([own, other]).sort().values
                gap = torch.searchsorted(own.sort().values, both, right=True) / len(own)
                gap = gap - torch.searchsorted(other.sort().values, both, right=True) / len(other)
                # Two-sided at 0.001 for all the tests together.
                critical = sqrt(log(2 * tests / 0.001) / 2 * (1 / len(own) + 1 / len(other)))
                assert gap.abs().max() < critical, (part, CLASSES[label])


def test_second_moments_are_equal() -> None:
    """Every variance and covariance of the state, each class against all clips."""
    state, labels = draw_states(EVERY, 52000, None)
    numbers = state["all"]
    row, column = torch.triu_indices(numbers.shape[1], numbers.shape[1])
    products = numbers[:, row] * numbers[:, column]
    own = torch.stack([products[labels == label].mean(dim=0) for label in EVERY])
    error = products.std(dim=0) / sqrt(len(labels) / len(EVERY))
    # 13 × 91 tests: beyond 5 standard errors about once in 1,500 such designs that are right.
    assert ((own - products.mean(dim=0)) / error).abs().max() < 5


# ---- the pixels


def motion_field(scenes: Scenes) -> Tensor:
    """[B, 5 · 2 · 10 · 14] exact displacements on a grid, relative to the background."""
    y, x = torch.meshgrid(torch.arange(2, SIZE[0], 4), torch.arange(2, SIZE[1], 4), indexing="ij")
    grid = torch.stack([x, y], dim=-1)[None]
    steps = [
        scenes.tracks(grid, frame, 1).displacements[..., 0, :]
        - (scenes.pan[:, frame + 1] - scenes.pan[:, frame])[:, None, None]
        for frame in (0, 4, 8, 12, 16)
    ]
    return torch.stack(steps, dim=1).flatten(1)


@pytest.fixture(scope="module")
def clips() -> dict[str, Tensor]:
    """1,300 clips to learn from and 650 to be tested on: a random frame, and the exact motion."""
    generator = torch.Generator().manual_seed(5)
    frames, motion = [], []
    batch = len(CLASSES)
    for _ in range(1950 // batch):
        scenes = sample_scenes(
            torch.arange(batch), frames=FRAMES, size=SIZE, texture="both", generator=generator
        )
        frame = int(torch.randint(FRAMES, (), generator=generator))
        frames.append(render(scenes, [frame])[:, 0])
        motion.append(motion_field(scenes))
    pictures = torch.cat(frames)
    small = functional.avg_pool2d(pictures.permute(0, 3, 1, 2).float(), 4).flatten(1)
    gradients = np.stack(
        [hog(picture, pixels_per_cell=(8, 8), channel_axis=-1) for picture in pictures.numpy()]
    )
    return {
        "pixels": small,
        "hog": torch.from_numpy(gradients).float(),
        "motion": torch.cat(motion),
        "labels": torch.arange(1950) % batch,
    }


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("features", ["pixels", "hog"])
def test_one_frame_does_not_tell_the_class(
    clips: dict[str, Tensor], features: str, linear: bool
) -> None:
    accuracy = kernel_ridge(clips[features], clips["labels"], 1300, linear=linear)
    assert accuracy < limit(len(CLASSES), 650)  # 0.108


@pytest.mark.parametrize("linear", [True, False])
def test_motion_does_tell_the_class(clips: dict[str, Tensor], linear: bool) -> None:
    accuracy = kernel_ridge(clips["motion"], clips["labels"], 1300, linear=linear)
    assert accuracy > 0.45  # chance 0.077
