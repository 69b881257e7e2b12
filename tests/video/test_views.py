"""Views of labelled videos: which frames, which crops, decoded once, drawn from the generator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from m3video.config import AugmentConfig, ClipConfig
from m3video.errors import VideoError
from m3video.video import views
from m3video.video.loader import make_eval_loader, make_loader
from m3video.video.manifest import load_manifest
from m3video.video.reader import read_frames
from m3video.video.views import (
    EvaluationViews,
    LabelledVideos,
    RepeatedCrops,
    TrainingViews,
    dense_rows,
    random_segment_rows,
    segment_rows,
    view_crops,
)
from tests.conftest import write_video

CLIP = ClipConfig(frames=4, stride=3, size=(32, 48), patch=8)


def labelled(folder: Path, sampling: Any = "dense", clip: ClipConfig = CLIP) -> LabelledVideos:
    manifest = load_manifest(folder, labels_from_folders=True, decode=False)
    return LabelledVideos(manifest.videos, manifest.labels, clip, sampling)


def test_segment_frames_by_hand() -> None:
    assert segment_rows(40, 4, 0, 1) == [5, 15, 25, 35]
    assert segment_rows(40, 4, 0, 2) == [2, 12, 22, 32]
    assert segment_rows(40, 4, 1, 2) == [7, 17, 27, 37]
    assert segment_rows(3, 4, 0, 1) == [0, 1, 1, 2], "a short video repeats frames"
    assert dense_rows(CLIP, 40, 7) == [7, 10, 13, 16]
    assert dense_rows(CLIP, 9, 2) == [2, 5, 8, 8]


def test_random_segment_frames_cover_their_parts_evenly() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = np.array([random_segment_rows(10, 4, generator) for _ in range(4000)])
    assert (np.diff(rows, axis=1) >= 0).all()
    assert set(rows[:, 0]) == {0, 1, 2}  # [0, 2.5)
    assert set(rows[:, 3]) == {7, 8, 9}  # [7.5, 10)
    share = float((rows[:, 0] == 2).mean())
    assert share == pytest.approx(0.2, abs=0.03), "half of frame 2 lies in the first part"


@pytest.mark.parametrize(
    ("height", "width", "places"),
    [(72, 200, [(0, 0), (0, 46), (0, 92)]), (200, 72, [(0, 0), (76, 0), (152, 0)])],
)
def test_crops_lie_along_the_longer_side(
    height: int, width: int, places: list[tuple[int, int]]
) -> None:
    crops = view_crops(height, width, (32, 48), 3)
    assert [crop.box[:2] for crop in crops] == places
    assert len({crop.box[2:] for crop in crops}) == 1
    assert view_crops(height, width, (32, 48), 1) == [crops[1]]
    assert not any(crop.flip for crop in crops)


def test_a_training_clip_is_one_span_and_several_crops(made_folder: Path) -> None:
    (made_folder / "right" / "broken.mp4").unlink()
    source = TrainingViews(labelled(made_folder), AugmentConfig(scales=(0.5,), flip=True), 3)
    assert len(source) == 6
    assert source.labels == ("left", "right")
    clip = source.clip(4, 0, torch.Generator().manual_seed(0))
    assert clip.frames.shape == (3, 4, 32, 48, 3)
    assert int(clip.label) == 1
    assert not torch.equal(clip.frames[0], clip.frames[1]), "each is cropped anew"
    again = source.clip(4, 0, torch.Generator().manual_seed(0))
    assert torch.equal(clip.frames, again.frames)
    other = source.clip(4, 0, torch.Generator().manual_seed(1))
    assert not torch.equal(clip.frames, other.frames)


def test_repeats_show_the_same_frames_of_the_video(made_folder: Path) -> None:
    (made_folder / "right" / "broken.mp4").unlink()
    for sampling in ("dense", "segment"):
        data = labelled(made_folder, sampling)
        source = TrainingViews(data, AugmentConfig(scales=(1.0,), flip=False), 2)
        # 72×96 has one crop of the aspect 2:3 along the width, so only its top differs.
        clip = source.clip(0, 0, torch.Generator().manual_seed(3))
        frames = read_frames(data.videos[0].path).numpy()
        best = []
        for sample in clip.frames.numpy():
            error = [
                min(
                    float(np.abs(crop(frames[[row]])[0].astype(int) - shown).mean())
                    for row in [number]
                    for top in range(9)
                    for crop in [views.Crop((top, 0, 64, 96), (32, 48))]
                )
                for shown in sample
                for number in range(len(frames))
            ]
            best.append(np.array(error).reshape(4, -1).argmin(1).tolist())
        assert best[0] == best[1], sampling


def test_a_video_is_decoded_once_for_all_its_crops(
    made_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (made_folder / "right" / "broken.mp4").unlink()
    opened = []
    reader = views.VideoReader

    def count(*args: Any, **kwargs: Any) -> Any:
        opened.append(args)
        return reader(*args, **kwargs)

    monkeypatch.setattr(views, "VideoReader", count)
    data = labelled(made_folder)
    TrainingViews(data, AugmentConfig(), 4).clip(0, 0, torch.Generator())
    EvaluationViews(data, 2, 3).clip(1, 0, torch.Generator())
    assert len(opened) == 2


def test_test_views_are_the_frames_and_crops_they_say(tmp_path: Path) -> None:
    write_video(tmp_path / "a" / "0.mp4", height=64, width=160)
    write_video(tmp_path / "b" / "0.mp4", height=64, width=160)
    data = labelled(tmp_path, "segment")
    source = EvaluationViews(data, 2, 3)
    assert len(source) == 4
    frames = read_frames(data.videos[1].path)[segment_rows(40, 4, 1, 2)].numpy()
    clip = source.clip(3, 0, torch.Generator())
    assert int(clip.label) == 1
    for crop, shown in zip(view_crops(64, 160, (32, 48), 3), clip.frames, strict=True):
        np.testing.assert_array_equal(shown.numpy(), crop(frames))


def test_workers_change_nothing(made_folder: Path) -> None:
    (made_folder / "right" / "broken.mp4").unlink()
    source = TrainingViews(labelled(made_folder, "segment"), AugmentConfig(), 2)

    def frames(workers: int) -> list[torch.Tensor]:
        loader = make_loader(source, batch=2, seed=1, first_step=0, last_step=4, workers=workers)
        return [clips.frames for clips in loader]

    for here, there in zip(frames(0), frames(1), strict=True):
        assert torch.equal(here, there)


def test_a_video_that_cannot_be_read_is_named(made_folder: Path) -> None:
    data = labelled(made_folder)
    path = data.videos[2].path
    path.write_bytes(b"cut short")
    with pytest.raises(VideoError, match=str(path)):
        TrainingViews(data, AugmentConfig(), 2).clip(2, 0, torch.Generator())
    batches = list(make_eval_loader(EvaluationViews(data, 2, 1), batch=4, workers=0))
    named = [entry for clips in batches for entry in clips.unreadable]
    assert [name for name, _ in named] == [str(path)] * 2
    assert sum(len(clips.index) for clips in batches) == 2 * (len(data.videos) - 1)


class Rendered:
    """Two clips of 8 × 12."""

    labels = ("a", "b")

    def __len__(self) -> int:
        return 2

    def clip(self, index: int, epoch: int, generator: torch.Generator) -> views.Clips:
        frames = torch.arange(2 * 8 * 12 * 3, dtype=torch.uint8).reshape(2, 8, 12, 3)
        return views.Clips(
            frames, torch.ones(2, dtype=torch.bool), torch.tensor(index), torch.tensor(index)
        )


def test_rendered_clips_are_cropped_in_training_and_whole_in_testing() -> None:
    whole = RepeatedCrops(Rendered(), None).clip(1, 0, torch.Generator())
    expected = Rendered().clip(1, 0, torch.Generator()).frames
    assert torch.equal(whole.frames, expected[None])
    source = RepeatedCrops(Rendered(), AugmentConfig(scales=(0.5,), flip=False), 3)
    cropped = source.clip(1, 0, torch.Generator().manual_seed(0)).frames
    assert cropped.shape == (3, 2, 8, 12, 3)
    assert not torch.equal(cropped[0], cropped[1])
