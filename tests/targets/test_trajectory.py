"""The trajectory target: order, normalisations, validity, traps 1, 2, 3 and 10."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from m3video.config import TrajectoryConfig
from m3video.motion.trajectory import Tracks
from m3video.targets import ClipView, build_targets
from m3video.targets.trajectory import normalise_displacements
from m3video.train.prepare import Finish, Prepare
from m3video.video import augment
from m3video.video.loader import VideoClips, make_loader
from m3video.video.manifest import load_manifest
from m3video.video.reader import VideoReader
from m3video.video.sampling import plan_clip, span_rows
from tests.motion.textures import panned
from tests.targets.clips import moving_view, settings, view_of


def target_of(normalise: str = "none", **options: Any) -> dict[str, Any]:
    return {"trajectory": {"weight": 1, "normalise": normalise, **options}}


def normalised(moved: Tensor, valid: Tensor | None = None, **options: Any) -> Tensor:
    """Normalise [K, L, 2] of one patch."""
    known = torch.ones(*moved.shape[:2], 1, dtype=torch.bool) if valid is None else valid
    config = TrajectoryConfig.model_validate(options)
    values, kept = normalise_displacements(moved[None, None], known[None, None], config)
    return torch.where(kept, values, 0)[0, 0]


def test_order_is_point_step_axis() -> None:
    """The displacement of token (time, row, column), point k, step l, in pixels over the scale."""
    config = settings(targets=target_of(scale=2.0))
    view = moving_view(config, (1.5, -0.5))
    target = build_targets(config)["trajectory"](view)
    values = target.values[0].reshape(
        2, 2, 3, 2, 2, 3, 2
    )  # time row column, k row k column, l axis
    tracks = view.tracks
    for time, row, column, down, across, step in [(0, 0, 0, 0, 1, 2), (1, 1, 2, 1, 0, 1)]:
        expected = tracks.displacements[0, time, 2 * row + down, 2 * column + across, step] / 2
        seen = tracks.visible[0, time, 2 * row + down, 2 * column + across, step + 1]
        found = values[time, row, column, down, across, step]
        torch.testing.assert_close(found, expected * seen)
    inner = values[:, :, 1].mean(dim=(0, 1, 2, 3, 4))
    assert inner.tolist() == pytest.approx([0.75, -0.25], abs=0.15)


def test_still_clips_have_no_motion_and_slow_ones_some() -> None:
    """Traps 1 and 2, through to the target."""
    config = settings(targets=target_of(scale=1.0))
    maker = build_targets(config)["trajectory"]
    assert maker(moving_view(config, (0.0, 0.0))).values.abs().max() < 0.05
    slow = maker(moving_view(config, (0.4, 0.0))).values[0].reshape(-1, 4, 3, 2)
    assert 0.2 < slow[..., 0].median() < 0.7


@pytest.mark.parametrize("normalise", ["none", "clip-std", "sum-of-norms"])
def test_flipped_and_reversed_clips_have_mirrored_and_reversed_targets(normalise: str) -> None:
    """Trap 10: the target is of the frames that the encoder reads."""
    config = settings(targets=target_of(normalise))
    maker = build_targets(config)["trajectory"]
    view = moving_view(config, (1.0, 0.6))

    def mean(frames: Tensor) -> Tensor:
        target = maker(view_of(config, frames.contiguous()))
        values = target.values.reshape(-1, 2)[target.valid.reshape(-1, 2)[:, 0]]
        return values.mean(dim=0)

    forward = mean(view.frames)
    size = forward.abs().max()
    assert forward.min() > 0.3 * size
    flipped = mean(view.frames.flip(3))
    assert torch.allclose(flipped, forward * torch.tensor([-1, 1]), atol=0.2 * float(size))
    # rows 0 … 3 of each window backwards: 1 raw frame a step the other way
    windows = view.frames.clone()
    for start in view.plan.starts:
        rows = torch.arange(start, start + 4)
        windows[:, rows] = view.frames[:, rows.flip(0)]
    assert torch.allclose(mean(windows), -forward, atol=0.2 * float(size))


@pytest.mark.parametrize("where", ["worker", "step"])
def test_files_that_are_shrunk_and_mirrored_have_targets_that_are(
    where: str, tmp_path: Path
) -> None:
    """Traps 6 and 10, from a file to the batch: a texture goes 4 right and 2 down a frame.

    The crop is the whole frame at half the size, and about half of the clips are mirrored.
    """
    with av.open(str(tmp_path / "pan.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "bgr0"
        for image in panned(16, 64, 96, (4.0, 2.0)):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image.numpy(), "rgb24")))
        container.mux(stream.encode(None))
    config = settings(
        targets=target_of(scale=1.0),
        motion={"length": 3, "where": where},
        augment={"scales": (1.0,), "flip": True},
    )
    plan = plan_clip(config.clip, 3)
    manifest = load_manifest(tmp_path, decode=False)
    source = VideoClips(manifest, clip=config.clip, plan=plan, augment=config.augment)
    loader = make_loader(
        source,
        batch=8,
        seed=0,
        first_step=0,
        last_step=1,
        workers=0,
        prepare=Prepare(config, plan),
    )
    (clips,) = loader
    batch = Finish(config, plan)(clips)
    with VideoReader(tmp_path / "pan.mkv") as reader:
        whole = augment.Crop((0, 0, 64, 96), (32, 48))(reader.frames(range(len(reader))))
    shown = augment.normalise(torch.from_numpy(whole))
    seen = set()
    for clip, values in zip(batch.clip, batch.targets["trajectory"].values, strict=True):
        error = {
            (start, flip): (clip.flip(3) if flip else clip)
            .sub(shown[:, start::4][:, :4])
            .abs()
            .max()
            for start in range(len(whole) - 12)
            for flip in (False, True)
        }
        (_, mirrored), least = min(error.items(), key=lambda entry: float(entry[1]))
        assert least < 1e-5  # the frames of the span, in their order
        seen.add(mirrored)
        inner = values.reshape(2, 2, 3, 2, 2, 3, 2)[:, :, 1]
        moved = inner.flatten(0, -2).median(dim=0).values
        assert moved.tolist() == pytest.approx([-2.0 if mirrored else 2.0, 1.0], abs=0.2)
    assert seen == {True, False}


def test_clamp_comes_first() -> None:
    config = settings(targets=target_of(clamp=20.0, scale=20.0))
    view = moving_view(config, (0.0, 0.0))
    wild = view.tracks.displacements * 0 + torch.tensor([50.0, -30.0])
    vars(view)["tracks"] = Tracks(view.tracks.points, wild, view.tracks.visible)
    values = build_targets(config)["trajectory"](view).values.reshape(-1, 2)
    assert values[0].tolist() == [1.0, -1.0]


def test_patch_std_of_a_patch_that_moves_as_one_is_nearly_zero() -> None:
    """Trap 3: 0.001 px of noise is not ±1.5."""
    torch.manual_seed(0)
    noise = 0.001 * torch.randn(4, 6, 2)
    values = normalised(torch.tensor([5.0, -3.0]) + noise, normalise="patch-std")
    assert values.abs().max() < 0.05
    assert normalised(torch.full((4, 6, 2), 7.0), normalise="patch-std").abs().max() == 0


def test_patch_std_is_the_z_score_over_points() -> None:
    """For each step and axis; the deviation is that of a sample (n − 1)."""
    moved = torch.randn(4, 6, 2, generator=torch.Generator().manual_seed(1)) * 3
    expected = (moved - moved.mean(dim=0)) / moved.std(dim=0)
    torch.testing.assert_close(normalised(moved, normalise="patch-std"), expected)
    scaled = normalised(moved, normalise="patch-std", scale=1.0)
    torch.testing.assert_close(scaled, expected)


def test_statistics_are_over_valid_points_only() -> None:
    moved = torch.randn(4, 6, 2, generator=torch.Generator().manual_seed(1)) * 3
    valid = torch.ones(4, 6, 1, dtype=torch.bool)
    valid[3, 2:] = False
    poisoned = moved.clone()
    poisoned[3, 2:] = 20.0
    for normalise in ("patch-std", "clip-std", "sum-of-norms"):
        clean = normalised(moved, valid, normalise=normalise)
        torch.testing.assert_close(normalised(poisoned, valid, normalise=normalise), clean)
    three = moved[:3, 2:]
    expected = (three - three.mean(dim=0)) / three.std(dim=0)
    torch.testing.assert_close(normalised(moved, valid, normalise="patch-std")[:3, 2:], expected)
    known = valid.expand_as(moved)
    expected = moved[known] / moved[known].square().mean().sqrt()
    torch.testing.assert_close(normalised(moved, valid, normalise="clip-std")[known], expected)


def test_a_z_score_needs_two_points() -> None:
    valid = torch.zeros(1, 1, 4, 3, 1, dtype=torch.bool)
    valid[:, :, 0] = True
    valid[:, :, 1, 0] = True
    config = TrajectoryConfig(normalise="patch-std")
    _, kept = normalise_displacements(torch.randn(1, 1, 4, 3, 2), valid, config)
    assert kept[0, 0, :, :, 0].tolist() == [
        [True, False, False],
        [True, False, False],
        [False] * 3,
        [False] * 3,
    ]


def test_sum_of_norms_is_the_share_of_the_length() -> None:
    moved = torch.tensor([[[3.0, 4.0], [0.0, 5.0]], [[0.001, 0.0], [0.0, 0.001]]])
    values = normalised(moved, normalise="sum-of-norms")
    torch.testing.assert_close(values[0], torch.tensor([[0.3, 0.4], [0.0, 0.5]]))
    torch.testing.assert_close(values[1], moved[1] / 0.1)  # below the floor


def test_clip_std_is_one_number_for_the_clip_and_survives_a_pan() -> None:
    config = TrajectoryConfig(normalise="clip-std")
    valid = torch.ones(2, 5, 4, 6, 1, dtype=torch.bool)
    moved = torch.randn(2, 5, 4, 6, 2, generator=torch.Generator().manual_seed(0))
    moved[1] *= 9
    values, _ = normalise_displacements(moved, valid, config)
    rms = values.square().mean(dim=(1, 2, 3, 4)).sqrt()
    torch.testing.assert_close(rms, torch.ones(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(values[1] / values[1, 0, 0, 0, 0], moved[1] / moved[1, 0, 0, 0, 0])
    pan, _ = normalise_displacements(torch.full_like(moved, 5.0), valid, config)
    torch.testing.assert_close(pan, torch.ones_like(pan))


FINITE = st.floats(-20, 20, width=32)


@hypothesis_settings(max_examples=60, deadline=None)
@given(
    arrays(np.float32, (1, 2, 4, 3, 2), elements=FINITE),
    arrays(np.bool_, (1, 2, 4, 3, 1)),
    st.sampled_from(["none", "patch-std", "clip-std", "sum-of-norms"]),
)
def test_any_motion_has_a_bounded_target(
    moved: np.ndarray, valid: np.ndarray, normalise: str
) -> None:
    config = TrajectoryConfig.model_validate({"normalise": normalise})
    values, kept = normalise_displacements(torch.from_numpy(moved), torch.from_numpy(valid), config)
    assert not (kept & ~torch.from_numpy(valid)).any()
    shown = torch.where(kept, values, 0)
    assert shown.isfinite().all()
    limit = {
        "none": 1.0,  # the clamp over the scale
        "patch-std": 1.5,  # 3 / √4: the largest z-score of 4 points
        "clip-std": (2 * 2 * 4 * 3) ** 0.5,  # one of all displacements moves
        "sum-of-norms": 1.0,
    }[normalise]
    assert shown.abs().max() <= limit * (1 + 1e-4)


def test_what_leaves_the_frame_or_the_video_is_not_valid() -> None:
    config = settings(targets=target_of())
    fast = moving_view(config, (6.0, 0.0))
    target = build_targets(config)["trajectory"](fast)
    valid = target.valid[0].reshape(2, 2, 3, 2, 2, 3, 2)
    seen = fast.tracks.visible[0, 0, 0, 5, 1:].tolist()
    assert not all(seen)
    assert valid[0, 0, 2, 0, 1, :, 0].tolist() == seen
    assert (target.values[~target.valid] == 0).all()

    plan = plan_clip(config.clip, 3)  # starts at raw 0 and 8
    _, real = span_rows(plan, 0, 10)
    still = moving_view(config, (0.0, 0.0))
    short = ClipView(still.frames, torch.tensor([real]), plan, config.clip, config.motion)
    valid = build_targets(config)["trajectory"](short).valid[0].reshape(2, -1, 3, 2)
    assert valid[0].all()
    assert valid[1, :, :, 0].all(dim=0).tolist() == [True, False, False]
    assert not valid[1, :, 1:].any()
