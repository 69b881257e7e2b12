"""Batches: what is drawn, resumed, replaced, and how workers may fail."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import fields
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from m3video.config import AugmentConfig, ClipConfig
from m3video.errors import VideoError
from m3video.motion.flow import grey
from m3video.video.augment import centre_crop, random_crop
from m3video.video.loader import (
    FLOW,
    REPLACEMENTS,
    Clips,
    ClipSource,
    VideoClips,
    make_eval_loader,
    make_loader,
)
from m3video.video.manifest import Manifest, load_manifest
from m3video.video.reader import VideoReader
from m3video.video.sampling import plan_clip, random_start, sample_generator, segment_starts
from tests.video.panned_clips import write_pan

Made = Callable[[str], Path]
CLIP = ClipConfig(frames=4, stride=3, size=(32, 48))
PLAN = plan_clip(CLIP, 2)
NAMES = ["b_frames.mp4", "uneven.mkv", "plain.avi", "vp9.webm", "stream.ts", "turned.mov"]


class Numbers:
    """Clips that say what they were asked for; some cannot be read."""

    labels = ("only",)

    def __init__(self, count: int, broken: tuple[int, ...] = ()) -> None:
        self.count = count
        self.broken = broken

    def __len__(self) -> int:
        return self.count

    def clip(self, index: int, epoch: int, generator: torch.Generator) -> Clips:
        drawn = int(torch.randint(2**60, (), generator=generator))
        if index in self.broken:
            raise VideoError(f"clip-{index}.mp4: is broken")
        return Clips(
            frames=torch.full((1, 2, 2, 3), index, dtype=torch.uint8),
            real=torch.tensor([True]),
            label=torch.tensor(index),
            index=torch.tensor(-7),
            extras={"epoch": torch.tensor(epoch), "drawn": torch.tensor(drawn)},
        )


def batches(source: ClipSource, *, first: int = 0, last: int = 6, **given: object) -> list[Clips]:
    settings = {"batch": 3, "seed": 1, "workers": 0, "prepare": None} | given
    return list(make_loader(source, first_step=first, last_step=last, **settings))  # type: ignore[arg-type]


def assert_same(first: Iterable[Clips], second: Iterable[Clips]) -> None:
    for one, other in zip(first, second, strict=True):
        for field in fields(Clips):
            a, b = getattr(one, field.name), getattr(other, field.name)
            if isinstance(a, torch.Tensor):
                assert a.dtype == b.dtype
                assert torch.equal(a, b)
            elif isinstance(a, dict):
                assert a.keys() == b.keys()
                assert all(torch.equal(a[name], b[name]) for name in a)
            else:
                assert a == b


@pytest.fixture
def source(made: Made) -> VideoClips:
    paths = [made(name) for name in NAMES]
    videos = [load_manifest(_listed(paths, paths[0].parent / "list.txt"), decode=False).videos]
    return VideoClips(Manifest(videos[0]), clip=CLIP, plan=PLAN, augment=AugmentConfig(flip=True))


def _listed(paths: list[Path], out: Path) -> Path:
    out.write_text("".join(f"{path} {number}\n" for number, path in enumerate(paths)))
    return out


def _mark(clip: Clips, generator: torch.Generator) -> Clips:
    clip.extras["mark"] = torch.rand(2, generator=generator)
    clip.extras["threads"] = torch.tensor([torch.get_num_threads(), cv2.getNumThreads()])
    return clip


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(source: VideoClips, workers: int) -> None:
    def prepared(clip: Clips, generator: torch.Generator) -> Clips:
        clip = _mark(clip, generator)
        del clip.extras["threads"]
        return clip

    alone = batches(source, batch=2, prepare=prepared)
    assert_same(alone, batches(source, batch=2, prepare=prepared, workers=workers))
    assert len({batch.extras["mark"].sum().item() for batch in alone}) == len(alone)


def test_workers_have_one_thread(source: VideoClips) -> None:
    for batch in batches(source, batch=2, last=3, workers=2, prepare=_mark):
        assert (batch.extras["threads"] == 1).all()


@pytest.mark.parametrize("count", [2, 3, 10])
@pytest.mark.parametrize("first", [1, 5])
def test_beginning_at_a_step_is_skipping_those_before(count: int, first: int) -> None:
    whole = batches(Numbers(count), last=9)
    assert_same(whole[first:], batches(Numbers(count), first=first, last=9))


def test_beginning_late_with_videos(source: VideoClips) -> None:
    assert_same(batches(source, last=4)[2:], batches(source, first=2, last=4))


@given(st.integers(1, 30), st.integers(1, 12), st.integers(0, 99))
def test_every_epoch_uses_each_clip_at_most_once(count: int, batch: int, seed: int) -> None:
    source = Numbers(count)
    per_epoch = max(count // batch, 1)
    found = batches(source, batch=batch, seed=seed, last=3 * per_epoch)
    assert all(len(clips.index) == batch for clips in found)
    epochs: dict[int, list[int]] = {}
    for clips in found:
        for epoch, index in zip(clips.extras["epoch"].tolist(), clips.index.tolist(), strict=True):
            epochs.setdefault(epoch, []).append(index)
    assert list(epochs) == sorted(epochs)
    for epoch, indices in epochs.items():
        assert max(Counter(indices).values()) == 1
        if count <= batch and epoch < max(epochs):
            assert len(indices) == count
        elif count > batch:
            assert len(indices) == per_epoch * batch


def test_epochs_seeds_and_clips_differ() -> None:
    found = batches(Numbers(30), batch=30, last=2)
    other = batches(Numbers(30), batch=30, last=1, seed=2)
    orders = [clips.index.tolist() for clips in [*found, *other]]
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert all(sorted(order) == list(range(30)) for order in orders)
    drawn = torch.cat([clips.extras["drawn"] for clips in [*found, *other]])
    assert len(drawn.unique()) == 90


def test_the_generator_is_that_of_seed_epoch_and_index() -> None:
    for clips in batches(Numbers(4), batch=2, last=4, seed=5):
        keys = zip(clips.extras["epoch"].tolist(), clips.index.tolist(), strict=True)
        for (epoch, index), drawn in zip(keys, clips.extras["drawn"].tolist(), strict=True):
            generator = sample_generator(5, epoch, index)
            assert drawn == int(torch.randint(2**60, (), generator=generator))


def test_a_training_clip_is_its_span_cropped(source: VideoClips) -> None:
    for index in range(len(source)):
        clip = source.clip(index, 0, sample_generator(0, 0, index))
        generator = sample_generator(0, 0, index)
        with VideoReader(source.manifest.videos[index].path) as reader:
            start = random_start(len(reader), PLAN.span, generator)
            frames = reader.frames([start + offset for offset in PLAN.offsets])
        height, width = frames.shape[1:3]
        crop = random_crop(height, width, (32, 48), AugmentConfig(flip=True), generator)
        np.testing.assert_array_equal(clip.frames.numpy(), crop(frames))
        assert clip.real.all()
        assert (int(clip.label), int(clip.index)) == (index, index)


def test_test_clips_are_segments_cropped_in_the_centre(source: VideoClips) -> None:
    source = VideoClips(source.manifest, clip=CLIP, plan=PLAN, augment=None, segments=3)
    assert len(source) == 3 * len(NAMES)
    for index in (3, 4, 5):
        clip = source.clip(index, 0, torch.Generator())
        with VideoReader(source.manifest.videos[1].path) as reader:
            start = segment_starts(len(reader), PLAN.span, 3)[index - 3]
            frames = reader.frames([start + offset for offset in PLAN.offsets])
        np.testing.assert_array_equal(clip.frames.numpy(), centre_crop(frames, (32, 48)))
        assert int(clip.label) == 1


def test_a_short_video_repeats_its_last_frame(source: VideoClips) -> None:
    clip = ClipConfig(frames=16, stride=4, size=(32, 48))
    plan = plan_clip(clip, 6)
    short = VideoClips(source.manifest, clip=clip, plan=plan, augment=AugmentConfig())
    found = short.clip(0, 0, torch.Generator())
    assert found.real.tolist() == [offset < 40 for offset in plan.offsets]
    repeated = found.frames[~found.real]
    assert len(repeated) > 1
    for frame, offset in zip(found.frames, plan.offsets, strict=True):
        assert torch.equal(frame, repeated[0]) == (offset >= 39)


@pytest.fixture
def pans(tmp_path: Path) -> VideoClips:
    """Videos that move by (3, -1) pixels a frame, with their flow."""
    paths = [
        write_pan(tmp_path / name, moves=[(3, -1)] * 23, options={"g": "99", "bf": bf})
        for name, bf in (("only_p.mp4", "0"), ("b_frames.mkv", "2"))
    ]
    videos = load_manifest(_listed(paths, tmp_path / "list.txt"), decode=False).videos
    augment = AugmentConfig(flip=True, scales=(1.0, 0.6))
    return VideoClips(Manifest(videos), clip=CLIP, plan=PLAN, augment=augment, flow=True)


def test_flow_of_the_files_is_cropped_resized_and_mirrored_as_the_frames(pans: VideoClips) -> None:
    """Traps 6 and 10."""
    flips, zooms = set(), set()
    for number in range(12):
        clip = pans.clip(number % 2, 0, sample_generator(0, 0, number))
        generator = sample_generator(0, 0, number)
        random_start(24, PLAN.span, generator)
        crop = random_crop(
            112, 176, (32, 48), AugmentConfig(flip=True, scales=(1.0, 0.6)), generator
        )
        flips.add(crop.flip)
        zooms.add(crop.box[3])
        flow = clip.extras[FLOW]
        assert flow.shape == (len(PLAN.pairs), 2, 32, 48)
        expected = [(-3 if crop.flip else 3) * 48 / crop.box[3], -32 / crop.box[2]]
        found = flow[:, :, 6:-6, 6:-6].flatten(2).median(dim=-1).values
        torch.testing.assert_close(found, torch.tensor([expected] * len(found)), atol=0.05, rtol=0)
        y, x = np.indices((32, 48), np.float32)
        for row, (u, v) in zip(PLAN.pairs, flow.numpy(), strict=True):
            one, two = (grey(clip.frames[row + step]).numpy().astype(np.float32) for step in (0, 1))
            warped = cv2.remap(two, x + u, y + v, cv2.INTER_LINEAR)
            inner = slice(6, -6), slice(6, -6)
            still = np.abs(two - one)[inner].mean()
            assert np.abs(warped - one)[inner].mean() < 0.35 * still
    assert flips == {False, True}
    assert len(zooms) == 2


def test_flow_leaves_the_frames_as_they_are(pans: VideoClips) -> None:
    plain = VideoClips(pans.manifest, clip=CLIP, plan=PLAN, augment=AugmentConfig())
    flowing = VideoClips(pans.manifest, clip=CLIP, plan=PLAN, augment=AugmentConfig(), flow=True)
    for index in range(4):
        generators = [sample_generator(1, 0, index) for _ in range(2)]
        one = plain.clip(index % 2, 0, generators[0])
        two = flowing.clip(index % 2, 0, generators[1])
        assert torch.equal(one.frames, two.frames)
        assert FLOW not in one.extras
        assert torch.equal(generators[0].get_state(), generators[1].get_state())


def test_steps_of_several_frames_have_their_motion(pans: VideoClips) -> None:
    plan = plan_clip(CLIP, 2, step=CLIP.stride)
    source = VideoClips(pans.manifest, clip=CLIP, plan=plan, augment=None, flow=True)
    flow = source.clip(1, 0, torch.Generator()).extras[FLOW]
    assert len(flow) == len(plan.pairs)
    found = flow[:, :, 6:-6, 8:-8].flatten(2).median(dim=-1).values
    zoom = 48 / 168  # the largest crop of 2 : 3 is 112 × 168
    expected = torch.tensor([[9 * zoom, -3 * zoom]] * len(found))
    torch.testing.assert_close(found, expected, atol=0.1, rtol=0)


def test_flow_is_zero_where_a_video_has_ended(pans: VideoClips) -> None:
    clip = ClipConfig(frames=8, stride=4, size=(32, 48))
    plan = plan_clip(clip, 6)
    source = VideoClips(pans.manifest, clip=clip, plan=plan, augment=None, flow=True)
    found = source.clip(0, 0, torch.Generator())
    known = found.real[[row + 1 for row in plan.pairs]]
    assert 0 < known.sum() < len(known)
    assert not found.extras[FLOW][~known].any()
    assert (found.extras[FLOW][known].flatten(1).abs().amax(dim=1) > 0.5).all()


def test_workers_change_no_flow(pans: VideoClips) -> None:
    assert_same(batches(pans, last=2, workers=2), batches(pans, last=2))


@pytest.mark.parametrize("workers", [0, 2])
def test_the_next_clip_takes_an_unreadable_ones_place_and_it_is_named(workers: int) -> None:
    """Trap 9: never at random, never without a word."""
    source = Numbers(6, broken=(2, 5))
    found = batches(source, batch=6, last=2, workers=workers)
    assert_same(found, batches(source, batch=6, last=2))
    for clips in found:
        for epoch, index, drawn in zip(
            clips.extras["epoch"].tolist(),
            clips.index.tolist(),
            clips.extras["drawn"].tolist(),
            strict=True,
        ):  # the place keeps its generator, so a clip is not drawn twice alike
            generator = sample_generator(1, epoch, index)
            assert drawn == int(torch.randint(2**60, (), generator=generator))
        read = dict(zip(clips.index.tolist(), clips.label.tolist(), strict=True))
        assert read == {0: 0, 1: 1, 2: 3, 3: 3, 4: 4, 5: 0}
        reasons = sorted(clips.unreadable)
        assert reasons == [("clip-2.mp4", "is broken"), ("clip-5.mp4", "is broken")]


def test_a_file_that_was_lost_is_named(made: Made, tmp_path: Path) -> None:
    """Trap 9; by its whole name, whatever that holds."""
    paths = [tmp_path / f"Part {number}: the end.mp4" for number in range(3)]
    for path in paths:
        path.write_bytes(made("b_frames.mp4").read_bytes())
    manifest = load_manifest(tmp_path, decode=False)
    paths[1].write_text("lost")
    source = VideoClips(manifest, clip=CLIP, plan=PLAN, augment=None)
    (clips,) = make_eval_loader(source, batch=3, workers=0)
    assert clips.unreadable == [(str(paths[1]), "Invalid data found when processing input")]
    assert clips.index.tolist() == [0, 2]
    training = make_loader(source, batch=3, seed=0, first_step=0, last_step=1, workers=0)
    assert next(iter(training)).unreadable == clips.unreadable


@pytest.mark.parametrize("workers", [0, 1])
def test_in_evaluation_nothing_takes_the_place_of_an_unreadable_clip(workers: int) -> None:
    found = list(make_eval_loader(Numbers(7, broken=(1, 3, 4, 5)), batch=3, workers=workers))
    assert [clips.index.tolist() for clips in found] == [[0, 2], [], [6]]
    named = [path for clips in found for path, _ in clips.unreadable]
    assert named == [f"clip-{index}.mp4" for index in (1, 3, 4, 5)]


def test_when_nothing_can_take_its_place_it_stops() -> None:
    broken = Numbers(40, broken=tuple(range(REPLACEMENTS + 1)))
    with pytest.raises(VideoError, match=r"clip-\d+.mp4: is broken; nor can the 10 clips after it"):
        batches(broken, last=13)
    with pytest.raises(VideoError, match="nor can the 1 clips after it"):
        batches(Numbers(2, broken=(0, 1)))


def test_eval_reads_all_once_in_order() -> None:
    found = list(make_eval_loader(Numbers(7), batch=3, workers=2))
    assert [clips.index.tolist() for clips in found] == [[0, 1, 2], [3, 4, 5], [6]]


def _die(clip: Clips, generator: torch.Generator) -> Clips:
    if int(clip.label) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return clip


def test_a_worker_that_dies_raises() -> None:
    """And so does the one that takes its place."""
    code = """
from tests.video.test_loader import *
from tests.video.test_loader import _die
from m3video.errors import RunFailedError
try:
    batches(Numbers(8), last=8, workers=2, prepare=_die)
except RunFailedError as error:
    print("raised:", error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "raised: rank 0: a data worker ended (SIGKILL)" in done.stdout, done.stderr


def test_workers_do_not_wait_for_threads_they_have_not(made: Made) -> None:
    """OpenCV used many threads before the workers were forked; with the bug they hang."""
    code = f"""
import cv2, numpy, torch
cv2.setNumThreads(4)
image = numpy.zeros((1024, 1024), numpy.uint8)
cv2.DISOpticalFlow.create(1).calc(image, image, None)
from tests.video.test_loader import *
manifest = load_manifest({str(made("b_frames.mp4").parent)!r}, decode=False)
source = VideoClips(manifest, clip=CLIP, plan=PLAN, augment=None)
print(len(list(make_eval_loader(source, batch=1, workers=1))), cv2.getNumThreads())
"""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        cwd=root,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    count, threads = done.stdout.split()
    assert int(count) > 0
    assert threads == "4"  # this process has its threads back


class Faulty(Numbers):
    """A data set with a mistake in its code."""

    def clip(self, index: int, epoch: int, generator: torch.Generator) -> Clips:
        raise ValueError("a mistake")


@pytest.mark.parametrize("workers", [0, 1])
def test_other_errors_are_not_taken_for_unreadable_videos(workers: int) -> None:
    with pytest.raises(ValueError, match="a mistake"):
        batches(Faulty(8), workers=workers)


def test_clips_move_as_one() -> None:
    (clips,) = batches(Numbers(3, broken=(0,)), last=1)
    moved = clips.to("meta")
    assert {
        moved.frames.device.type,
        moved.real.device.type,
        moved.extras["drawn"].device.type,
    } == {"meta"}
    assert moved.unreadable == clips.unreadable
    assert moved.frames.shape == (3, 1, 2, 2, 3)
