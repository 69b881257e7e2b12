"""Several clips of a span: decoded once, cropped and masked apart, the same with any workers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from m3video.config import AugmentConfig, ClipConfig
from m3video.masking import make_mask
from m3video.video import reader as readers
from m3video.video.augment import random_crop
from m3video.video.loader import FLOW, Clips, VideoClips
from m3video.video.manifest import Manifest, load_manifest
from m3video.video.reader import VideoReader
from m3video.video.sampling import plan_clip, random_start, sample_generator
from tests.train.tiny import tiny_config
from tests.video.panned_clips import write_pan
from tests.video.test_loader import Numbers, assert_same, batches

Made = Callable[[str], Path]
CLIP = ClipConfig(frames=4, stride=3, size=(32, 48))
PLAN = plan_clip(CLIP, 2)
AUGMENT = AugmentConfig(flip=True, scales=(1.0, 0.5))
MASK = tiny_config(Path("unused")).mask


def videos(made: Made, folder: Path) -> Manifest:
    names = ["b_frames.mp4", "uneven.mkv", "plain.avi", "stream.ts"]
    listed = folder / "list.txt"
    listed.write_text("".join(f"{made(name)} {number}\n" for number, name in enumerate(names)))
    return load_manifest(listed, decode=False)


def repeated(manifest: Manifest, repeats: int) -> VideoClips:
    return VideoClips(manifest, clip=CLIP, plan=PLAN, augment=AUGMENT, repeats=repeats)


def masked(clip: Clips, generator: torch.Generator) -> Clips:
    """What a worker draws after the crop."""
    clip.extras["mask"] = make_mask(MASK, (2, 4, 6), generator)[0]
    return clip


@pytest.mark.parametrize("repeats", [1, 3])
def test_a_span_is_opened_decoded_and_converted_once(
    repeats: int, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = repeated(videos(made, tmp_path), repeats)
    counts = {"opened": 0, "decoded": 0, "converted": 0, "read": 0}
    opening, decoding, converting = VideoReader._open, VideoReader._decode_run, VideoReader._rgb
    seeking = VideoReader._seek

    def count(name: str, function: Any) -> Any:
        def call(*given: Any) -> Any:
            counts[name] += 1
            return function(*given)

        return call

    def counted(name: str, function: Any) -> Any:
        def call(*given: Any) -> Any:
            for each in function(*given):
                counts[name] += 1
                yield each

        return call

    monkeypatch.setattr(VideoReader, "_open", count("opened", opening))
    monkeypatch.setattr(VideoReader, "_decode_run", counted("decoded", decoding))
    monkeypatch.setattr(VideoReader, "_seek", counted("read", seeking))
    monkeypatch.setattr(VideoReader, "_rgb", count("converted", converting))
    clips = source.clips(0, 0, sample_generator(0, 0, 1))
    assert len(clips) == repeats
    rows = len(PLAN.offsets)
    assert rows < PLAN.span  # there are frames between that nobody wants
    assert (counts["opened"], counts["decoded"], counts["converted"]) == (1, rows, rows)
    # From the keyframe (12 apart at most) to the end, and what the decoder holds back.
    assert PLAN.span <= counts["read"] <= 12 + PLAN.span + 4


def test_clips_of_a_span_are_its_frames_each_cropped_anew(made: Made, tmp_path: Path) -> None:
    source = repeated(videos(made, tmp_path), 3)
    flips, boxes = set(), set()
    for index in range(4):
        clips = source.clips(index, 0, sample_generator(0, 0, index))
        generator = sample_generator(0, 0, index)
        with VideoReader(source.manifest.videos[index].path) as reader:
            start = random_start(len(reader), PLAN.span, generator)
            frames = reader.frames([start + offset for offset in PLAN.offsets])
        for clip in clips:
            crop = random_crop(*frames.shape[1:3], (32, 48), AUGMENT, generator)
            np.testing.assert_array_equal(clip.frames.numpy(), crop(frames))
            assert clip.real.all()
            assert (int(clip.label), int(clip.index)) == (index, index)
            flips.add(crop.flip)
            boxes.add(crop.box)
    assert flips == {False, True}
    assert len(boxes) > 4


def test_one_clip_of_a_span_is_the_clip_there_was_without_repeats(
    made: Made, tmp_path: Path
) -> None:
    manifest = videos(made, tmp_path)
    one = batches(repeated(manifest, 1), batch=2, last=3, prepare=masked)
    plain = VideoClips(manifest, clip=CLIP, plan=PLAN, augment=AUGMENT)
    assert_same(one, batches(plain, batch=2, last=3, prepare=masked))
    first = repeated(manifest, 3).clip(1, 0, sample_generator(0, 0, 1))
    assert torch.equal(first.frames, plain.clip(1, 0, sample_generator(0, 0, 1)).frames)


def test_a_batch_has_as_many_clips_as_it_says(made: Made, tmp_path: Path) -> None:
    source = repeated(videos(made, tmp_path), 3)
    found = batches(source, batch=6, last=4, prepare=masked)
    for clips in found:
        assert len(clips.frames) == len(clips.extras["mask"]) == 6
        first, second = clips.index.view(2, 3).unbind()
        assert len(first.unique()) == len(second.unique()) == 1
        assert first[0] != second[0]
        assert len(clips.extras["mask"].unique(dim=0)) == 6
    # An epoch of four spans is two batches: every video once.
    for epoch in (found[:2], found[2:]):
        indices = torch.cat([clips.index for clips in epoch])
        assert indices.bincount().tolist() == [3, 3, 3, 3]


def test_workers_and_where_it_begins_change_nothing(made: Made, tmp_path: Path) -> None:
    source = repeated(videos(made, tmp_path), 2)
    whole = batches(source, batch=4, last=4, prepare=masked)
    assert_same(whole[1:], batches(source, batch=4, first=1, last=4, prepare=masked, workers=2))


def test_a_batch_that_is_no_multiple_is_refused(made: Made, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="batch 4 is not a multiple of 3 clips of a span"):
        batches(repeated(videos(made, tmp_path), 3), batch=4)


def test_what_cannot_be_read_is_replaced_for_all_clips_of_a_span() -> None:
    class Pairs(Numbers):
        repeats = 2

        def clips(self, index: int, epoch: int, generator: torch.Generator) -> list[Clips]:
            return [self.clip(index, epoch, generator) for _ in range(2)]

    (clips,) = batches(Pairs(3, broken=(1,)), batch=6, last=1)
    read = {(int(i), int(label)) for i, label in zip(clips.index, clips.label, strict=True)}
    assert read == {(0, 0), (1, 2), (2, 2)}
    assert clips.unreadable == [("clip-1.mp4", "is broken")]
    assert len(clips.extras["drawn"].unique()) == 6


def test_every_clip_of_a_span_has_the_flow_of_its_crop(tmp_path: Path) -> None:
    path = write_pan(tmp_path / "pan.mp4", moves=[(3, -1)] * 23, options={"g": "99", "bf": "0"})
    (tmp_path / "list.txt").write_text(f"{path} 0\n")
    manifest = load_manifest(tmp_path / "list.txt", decode=False)
    source = VideoClips(manifest, clip=CLIP, plan=PLAN, augment=AUGMENT, repeats=6, flow=True)
    generator = sample_generator(0, 0, 0)
    random_start(24, PLAN.span, generator)
    flips = set()
    for clip in source.clips(0, 0, sample_generator(0, 0, 0)):
        crop = random_crop(112, 176, (32, 48), AUGMENT, generator)
        flips.add(crop.flip)
        across = (-3 if crop.flip else 3) * 48 / crop.box[3]
        found = clip.extras[FLOW][:, :, 6:-6, 6:-6].flatten(2).median(dim=-1).values
        expected = torch.tensor([[across, -32 / crop.box[2]]] * len(found))
        torch.testing.assert_close(found, expected, atol=0.05, rtol=0)
    assert flips == {False, True}


def test_frames_that_nothing_refers_to_are_not_decoded_on_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One keyframe, and three of four frames are B-frames without references."""
    options = {"g": "99", "bf": "3", "b_strategy": "0", "x264-params": "b-pyramid=none:scenecut=0"}
    moves = [(1, 0)] * 79
    path = write_pan(tmp_path / "long.mp4", moves=moves, options=options)
    packets: list[tuple[int, int]] = []

    class Counted:
        def __init__(self, packet: Any) -> None:
            self.pts = packet.pts
            self._packet = packet

        def decode(self) -> list[Any]:
            frames: list[Any] = self._packet.decode()
            packets.append((self.pts, len(frames)))
            return frames

    seeking = VideoReader._seek

    def counted(self: VideoReader, pts: int, dts: int) -> Any:
        return (Counted(packet) for packet in seeking(self, pts, dts))

    monkeypatch.setattr(readers.VideoReader, "_seek", counted)
    with VideoReader(path) as reader:
        reader.frames([79])
        early = reader.scan.times[79 - 16]
    skipped = [count for pts, count in packets if pts is not None and pts < early]
    assert len(skipped) == 63
    assert sum(skipped) < 0.4 * len(skipped)


def test_ffmpeg_has_one_thread(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch and OpenCV: see test_loader."""
    threads = []

    class Recorded:
        def __init__(self) -> None:
            self._real = readers.av.video.reformatter.VideoReformatter()

        def reformat(self, *given: Any, **settings: Any) -> Any:
            threads.append(settings["threads"])
            return self._real.reformat(*given, **settings)

    monkeypatch.setattr(readers, "VideoReformatter", Recorded)
    with VideoReader(made("b_frames.mp4")) as reader:
        reader.frames([3, 20])
        assert reader._stream.codec_context.thread_count == 1
        reader._rewind()
        assert reader._stream.codec_context.thread_count == 1
    assert threads == [1, 1]
