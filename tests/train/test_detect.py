"""Detection end to end: boxes go where the pixels go, and coloured people are told apart."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from m3video.cli import main
from m3video.config import AugmentConfig, ClipConfig, DetectEvaluateConfig, DetectTrainConfig
from m3video.errors import (
    CheckpointError,
    ConfigError,
    ManifestError,
    TooManyUnreadableError,
    VideoError,
)
from m3video.model.checkpoint import load_detector, load_encoder, read_tensors, save_model
from m3video.model.vit import VisionTransformer
from m3video.train.detect import train_detector
from m3video.train.detect_clips import (
    ACTIONS,
    BOXES,
    PRESENT,
    VIEW,
    EvaluationKeyFrames,
    TrainingKeyFrames,
    boxes_in,
    crop_with_person,
    key_row,
    key_rows,
)
from m3video.train.detect_evaluate import evaluate_detector, found_boxes
from m3video.train.detect_step import DetectorTrainer
from m3video.train.step import StepResult
from m3video.video import reader
from m3video.video.augment import Crop
from m3video.video.datasets.boxes import KeyFrame, write_boxes
from m3video.video.loader import Clips, make_eval_loader
from m3video.video.reader import VideoReader
from tests.conftest import write_video

CLIP = ClipConfig(frames=4, stride=2, size=(32, 48), patch=8)
COLOURS = {"red": (220, 40, 40), "green": (40, 200, 40), "blue": (50, 60, 230)}
HEIGHT, WIDTH = 64, 144


def people(seed: int) -> tuple[list[tuple[float, float, float, float]], list[list[str]]]:
    """Two boxes side by side, each with one or two of three colours."""
    rng = np.random.default_rng(seed)
    boxes, colours = [], []
    for part in range(2):
        x, y = 0.5 * part + rng.uniform(0.02, 0.15), rng.uniform(0.05, 0.35)
        boxes.append((x, y, x + rng.uniform(0.2, 0.3), y + rng.uniform(0.4, 0.55)))
        colours.append(sorted(rng.choice(list(COLOURS), rng.integers(1, 3), replace=False)))
    return boxes, colours


def film(path: Path, seed: int) -> KeyFrame:
    """Twelve frames whose boxes are there about the key frame at 0.24 s, and grey elsewhere."""
    boxes, colours = people(seed)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("h264", rate=25, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for _ in range(12):
            image = np.full((HEIGHT, WIDTH, 3), 110, np.uint8)
            for (x1, y1, x2, y2), names in zip(boxes, colours, strict=True):
                top, bottom = round(y1 * HEIGHT), round(y2 * HEIGHT)
                left, right = round(x1 * WIDTH), round(x2 * WIDTH)
                for part, name in enumerate(names):
                    start = top + (bottom - top) * part // len(names)
                    image[start:bottom, left:right] = COLOURS[name]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return KeyFrame(
        path=path,
        video=path.stem,
        timestamp=902.0,
        seconds=0.24,
        split="val" if seed % 4 == 3 else "train",
        boxes=np.array(boxes, np.float32),
        labels=tuple(map(tuple, colours)),
    )


@pytest.fixture(scope="module")
def coloured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """a boxes.csv of 24 films, and beside it `model`, an encoder that was never trained."""
    folder = tmp_path_factory.mktemp("coloured")
    frames = [film(folder / f"film{number}.mp4", number) for number in range(24)]
    empty = np.zeros((0, 4), np.float32)
    nobody = KeyFrame(frames[3].path, "film3", 903.0, 0.4, "val", empty, ())
    write_boxes([*frames, nobody], folder / "boxes.csv")
    torch.manual_seed(0)
    encoder = VisionTransformer(
        frames=4, size=(32, 48), tubelet=2, patch=8, width=32, depth=2, heads=2
    )
    save_model(encoder, folder / "model", CLIP)
    return folder


def training(folder: Path, out: Path, **train: object) -> DetectTrainConfig:
    return DetectTrainConfig.model_validate(
        {
            "init": folder / "model",
            "data": folder / "boxes.csv",
            "out": out,
            "augment": {"scales": (1.0, 0.875)},
            "train": {
                "batch": 8,
                "steps": 70,
                "lr": 0.06,
                "warmup": 0.1,
                "drop_path": 0.0,
                "workers": 0,
                "device": "cpu",
                **train,
            },
        }
    )


def evaluation(folder: Path, run: Path, **changes: object) -> DetectEvaluateConfig:
    return DetectEvaluateConfig.model_validate(
        {
            "model": run,
            "data": folder / "boxes.csv",
            "out": run / "detection",
            "workers": 0,
            "device": "cpu",
            **changes,
        }
    )


@pytest.fixture(scope="module")
def trained(coloured: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_detector(training(coloured, tmp_path_factory.mktemp("run") / "run"))


def test_colours_are_learned_and_frame_map_says_so(
    coloured: Path, trained: Path, tmp_path: Path
) -> None:
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["loss/binary_cross_entropy"] < 0.5 * lines[0]["loss/binary_cross_entropy"]
    result = evaluate_detector(evaluation(coloured, trained))
    assert set(result["actions"]) == set(COLOURS)
    assert result["map"] > 0.9
    assert result["map"] == pytest.approx(sum(result["actions"].values()) / 3)
    assert (result["key_frames"], result["annotated"], result["judged"]) == (7, 12, 12)
    assert json.loads((trained / "detection" / "evaluation.json").read_text()) == result
    rows = (trained / "detection" / "detections.csv").read_text().splitlines()
    assert len(rows) == 12 * 3
    assert rows[0].startswith("film3,902,")
    train_detector(training(coloured, tmp_path / "short", steps=1, lr=1e-9))
    untrained = evaluate_detector(evaluation(coloured, tmp_path / "short"))
    assert untrained["map"] < 0.8


def test_found_boxes_are_judged_and_false_ones_cost(
    coloured: Path, trained: Path, tmp_path: Path
) -> None:
    annotated = evaluate_detector(evaluation(coloured, trained))
    lines, shifted = [], []
    for number in range(3, 24, 4):
        for x1, y1, x2, y2 in people(number)[0]:
            lines.append(f"film{number},0902,{x1:.6f},{y1:.6f},{x2:.6f},{y2:.6f},,0.95")
            shifted.append(f"film{number},0902,{x1:.6f},0.9,{x2:.6f},1.0,,0.95")
    lines += ["film3,0902,0.1,0.1,0.2,0.2,,0.5", "elsewhere,0902,0.1,0.1,0.2,0.2,,0.99"]
    path = tmp_path / "people.csv"

    def measured(text: list[str], name: str) -> dict[str, object]:
        path.write_text("\n".join(text) + "\n")
        out = tmp_path / name
        return evaluate_detector(evaluation(coloured, trained, out=out, detections=path))

    found = measured(lines, "same")
    assert found["map"] == pytest.approx(annotated["map"], abs=0.02)
    assert found["judged"] == 12, "low scores and other films are left out"
    assert measured(shifted, "shifted")["map"] == 0
    wrong = measured([*lines, "film3,0903,0.05,0.1,0.4,0.9,,0.9"], "wrong")
    assert wrong["judged"] == 13, "a key frame without anybody is judged, too"
    assert measured(lines[:6], "half")["map"] < 0.6 * float(str(found["map"]))


def test_interrupted_and_resumed_is_uninterrupted(
    coloured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = {"steps": 4, "checkpoint_every": 2, "drop_path": 0.2, "accumulate": 2}
    whole = train_detector(training(coloured, tmp_path / "whole", **short))
    step = DetectorTrainer.step

    def broken(self: DetectorTrainer, clips: Clips, number: int, rate: float) -> StepResult:
        if number == 4:
            raise KeyboardInterrupt
        return step(self, clips, number, rate)

    monkeypatch.setattr(DetectorTrainer, "step", broken)
    config = training(coloured, tmp_path / "parts", **short)
    with pytest.raises(KeyboardInterrupt):
        train_detector(config)
    monkeypatch.undo()
    parts = train_detector(config.model_copy(update={"resume": True}))
    before, after = (read_tensors(run / "model" / "model.safetensors") for run in (whole, parts))
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_micro_batches_change_nothing(coloured: Path, tmp_path: Path) -> None:
    runs = [
        train_detector(training(coloured, tmp_path / str(parts), steps=1, accumulate=parts))
        for parts in (1, 4)
    ]
    losses = [json.loads((run / "metrics.jsonl").read_text())["loss"] for run in runs]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_the_command_line(
    coloured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    train = ["detect", "train", "--init", str(coloured / "model"), "--out", str(run)]
    train += ["--data", str(coloured / "boxes.csv"), "--train.steps", "1", "--train.batch", "2"]
    assert main([*train, "--train.workers", "0"]) == 0
    assert f"detector: {run / 'model'}" in capsys.readouterr().out
    assert main([*train, "--train.workers", "0"]) == 2, "a used directory is refused"
    test = ["detect", "evaluate", "--model", str(run), "--data", str(coloured / "boxes.csv")]
    assert main([*test, "--out", str(tmp_path / "out"), "--workers", "0"]) == 0
    assert capsys.readouterr().out.startswith("frame mAP at IoU 0.5")
    assert main(["detect", "guess"]) == 2
    assert "'guess': use one of train, evaluate" in capsys.readouterr().err
    config = ["--config", str(run / "config.yaml"), "--resume"]
    assert main(["detect", "train", *config]) == 0
    assert main(["detect", "train", "--out", str(run), "--resume"]) == 0
    assert "all 1 steps are done" in capsys.readouterr().err


def test_what_cannot_be_used_is_one_line(coloured: Path, trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no key frames of split 'test'; there are: train, val"):
        evaluate_detector(evaluation(coloured, trained, split="test"))
    with pytest.raises(CheckpointError, match="no detector; train one first"):
        evaluate_detector(evaluation(coloured, coloured / "model"))
    with pytest.raises(ManifestError, match="m3video index --format ava"):
        evaluate_detector(evaluation(coloured, trained, data=tmp_path / "nothing.csv"))
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="a file, not a folder"):
        evaluate_detector(evaluation(coloured, trained, out=tmp_path / "file"))
    for text, said in (
        ("a,1,0,0,1,1,0.9\n", "line 1: 7 fields; wanted are video_id,timestamp"),
        ("a,1,0,0,1,1,,0.9\na,x,0,0,1,1,,0.9\n", "line 2: timestamp 'x' and score '0.9' must"),
        ("a,1,0,0,1,1.2,,0.9\n", "line 1: box 0,0,1,1.2 is not"),
    ):
        (tmp_path / "people.csv").write_text(text)
        with pytest.raises(ManifestError, match=said):
            found_boxes(tmp_path / "people.csv", [], 0.5)
    (tmp_path / "people.csv").write_text("film0,0902,0.1,0.1,0.2,0.2,,0.99\n")  # of train
    found = {"detections": tmp_path / "people.csv", "out": tmp_path / "out"}
    with pytest.raises(ConfigError, match=r"no box of score 0\.8 or more in a key frame of split"):
        evaluate_detector(evaluation(coloured, trained, **found))
    with pytest.raises(ConfigError, match="holds no evaluation; choose another --out"):
        evaluate_detector(evaluation(coloured, trained, out=coloured))
    gone = coloured / "gone.csv"
    gone.write_text((coloured / "boxes.csv").read_text().replace("film", "none"))
    with pytest.raises(VideoError, match="no key frame of split 'val' can be read"):
        evaluate_detector(evaluation(coloured, trained, data=gone, out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_actions_without_a_word_count_as_missed(
    coloured: Path, trained: Path, tmp_path: Path
) -> None:
    text = (coloured / "boxes.csv").read_text().replace(",green", ",violet")
    path = coloured / "violet.csv"
    path.write_text(text)
    result = evaluate_detector(evaluation(coloured, trained, data=path, out=tmp_path / "out"))
    assert result["unknown"] == ["violet"]
    assert result["actions"]["violet"] == 0
    assert "green" not in result["actions"]


def test_an_unreadable_film_is_named_and_missed(
    coloured: Path, trained: Path, tmp_path: Path
) -> None:
    text = (coloured / "boxes.csv").read_text().replace("film7.mp4", "broken.mp4")
    (coloured / "broken.mp4").write_bytes(b"not a video")
    (coloured / "broken.csv").write_text(text)
    data = coloured / "broken.csv"
    result = evaluate_detector(evaluation(coloured, trained, data=data, out=tmp_path / "out"))
    assert [path for path, _ in result["unreadable"]] == [str(coloured / "broken.mp4")]
    assert (result["annotated"], result["judged"]) == (12, 10)


def test_rows_around_a_key_frame(tmp_path: Path) -> None:
    assert key_rows(50, 100, CLIP) == [46, 48, 50, 52]
    assert key_rows(0, 100, CLIP) == [0, 0, 0, 2]
    assert key_rows(99, 100, CLIP) == [95, 97, 99, 99]
    path = write_video(tmp_path / "a.mp4", frames=50)
    with VideoReader(path) as film:
        assert film.fps == 25
        assert [key_row(film, seconds) for seconds in (0, 1, 1.97, 2.88)] == [0, 25, 49, 72]
        with pytest.raises(VideoError, match=r"key frame at 902 s, and the video ends after 2.0 s"):
            key_row(film, 902.0)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), flip=st.booleans())
def test_boxes_go_where_the_pixels_go(seed: int, flip: bool) -> None:
    """A white box in a black frame: after the crop it is white where `boxes_in` says."""
    rng = np.random.default_rng(seed)
    height, width, size = 90, 120, (64, 96)
    rows, columns = 64, 96
    top, left = int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1))
    x1, y1 = int(rng.integers(0, 80)), int(rng.integers(0, 60))
    x2, y2 = x1 + int(rng.integers(8, 40)), y1 + int(rng.integers(8, 30))
    frame = np.zeros((1, height, width, 3), np.uint8)
    frame[0, y1:y2, x1:x2] = 255
    crop = Crop((top, left, rows, columns), size, flip)
    box = np.array([[x1 / width, y1 / height, x2 / width, y2 / height]], np.float32)
    (inside,), (share,) = boxes_in(crop, box, height, width)
    drawn = np.zeros(size, np.uint8)
    a, b, c, d = np.round(inside * [96, 64, 96, 64]).astype(int)
    drawn[b:d, a:c] = 255
    assert (crop(frame)[0, :, :, 0] == drawn).all()
    assert share == pytest.approx((drawn > 0).sum() / ((x2 - x1) * (y2 - y1)), abs=1e-5)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_a_training_crop_holds_the_person(seed: int) -> None:
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.uniform(0, 1, (2, 2)), axis=0).astype(np.float32)
    box = np.concatenate([corners[0], corners[1]])
    augment = AugmentConfig(scales=(1.0, 0.66), flip=True)
    generator = torch.Generator().manual_seed(seed)
    crop = crop_with_person(90, 160, (32, 48), box, augment, generator)
    top, left, rows, columns = crop.box
    assert 0 <= top <= 90 - rows
    assert 0 <= left <= 160 - columns
    y, x = (box[1] + box[3]) / 2 * 90, (box[0] + box[2]) / 2 * 160
    assert top <= y <= top + rows
    assert left <= x <= left + columns
    _, (share,) = boxes_in(crop, box[None], 90, 160)
    assert share > 0.249


def test_somebody_larger_than_the_crop_is_trained_on(coloured: Path) -> None:
    """A face as large as a wide frame: a crop of two thirds of its height shows a sixth of it."""
    shown = film(coloured / "wide.mp4", 7)
    whole = np.array([[0, 0, 1, 1]], np.float32)
    frame = KeyFrame(shown.path, "wide", 902.0, 0.24, "train", whole, (("red",),))
    clip = ClipConfig(frames=4, stride=2, size=(32, 16), patch=8)
    source = TrainingKeyFrames([frame], ("red",), clip, AugmentConfig(scales=(0.66,)))
    found = source.clip(0, 0, torch.Generator().manual_seed(0))
    assert found.extras[PRESENT].tolist() == [True]
    torch.testing.assert_close(found.extras[BOXES], torch.tensor([[0.0, 0, 1, 1]]))


def test_one_broken_film_ends_no_run(coloured: Path, tmp_path: Path) -> None:
    """Its key frames follow each other in the list, more of them than replacements are tried."""
    good = film(coloured / "good.mp4", 4)
    (tmp_path / "bad.mp4").write_bytes(b"not a video")
    bad = replace(good, path=tmp_path / "bad.mp4", video="bad")
    frames = [replace(f, timestamp=902.0 + n) for f in (good, bad) for n in range(14)]
    write_boxes(frames, tmp_path / "boxes.csv")
    config = training(coloured, tmp_path / "run", steps=4, batch=7, max_unreadable=0.5)
    data = {"data": tmp_path / "boxes.csv"}
    run = train_detector(config.model_copy(update=data))
    assert "bad.mp4" in (run / "unreadable.csv").read_text()
    strict = training(coloured, tmp_path / "strict", steps=4, batch=7)
    with pytest.raises(TooManyUnreadableError, match="1 of 2 videos could not be read"):
        train_detector(strict.model_copy(update=data))


def test_the_packets_of_a_film_are_read_once(
    coloured: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = film(coloured / "often.mp4", 8)
    frames = [replace(frame, seconds=seconds) for seconds in (0.04, 0.2, 0.36)]
    plan = CLIP, AugmentConfig(scales=(1.0,))
    fresh = [
        TrainingKeyFrames([one], tuple(COLOURS), *plan).clip(0, 0, torch.Generator().manual_seed(0))
        for one in frames
    ]
    scans: list[Path] = []
    scan = reader.scan_packets

    def counted(path: Path, *rest: Any) -> Any:
        scans.append(path)
        return scan(path, *rest)

    monkeypatch.setattr(reader, "scan_packets", counted)
    source = TrainingKeyFrames(frames, tuple(COLOURS), *plan)
    for number, alone in enumerate(fresh):
        clip = source.clip(number, 0, torch.Generator().manual_seed(0))
        assert torch.equal(clip.frames, alone.frames)
    assert scans == [frame.path]


def test_a_resumed_run_reads_the_key_frames_that_it_began_with(
    coloured: Path, tmp_path: Path
) -> None:
    text = (coloured / "boxes.csv").read_text()
    data = coloured / "changing.csv"
    data.write_text(text)
    config = training(coloured, tmp_path / "run", steps=1).model_copy(update={"data": data})
    run = train_detector(config)
    data.write_text(text.replace(",red", ",violet").replace(",blue", ",amber"))
    train_detector(config.model_copy(update={"resume": True}))
    assert load_detector(run).labels == ("blue", "green", "red")


def test_training_clips_hold_what_is_seen(coloured: Path) -> None:
    frame = film(coloured / "one.mp4", 5)
    source = TrainingKeyFrames([frame], tuple(COLOURS), CLIP, AugmentConfig(scales=(0.5, 1.0)))
    seen = set()
    for number in range(12):
        clip = source.clip(0, 0, torch.Generator().manual_seed(number))
        assert clip.frames.shape == (4, 32, 48, 3)
        present = clip.extras[PRESENT]
        seen.add(int(present.sum()))
        for box, actions in zip(
            clip.extras[BOXES][present], clip.extras[ACTIONS][present], strict=True
        ):
            x1, _, x2, y2 = (box * torch.tensor([48, 32, 48, 32])).int().tolist()
            row = min(y2, 32) - 3  # the lowest colour is the last of the names
            pixel = clip.frames[2, row, (x1 + x2) // 2].float()
            nearest = min(
                COLOURS, key=lambda name: float((pixel - torch.tensor(COLOURS[name])).abs().sum())
            )
            assert actions[list(COLOURS).index(nearest)] == 1
        assert (clip.extras[BOXES][~present] == 0).all()
    assert seen == {1, 2}, "a small crop sees one or both"


def test_a_box_is_judged_in_the_crop_that_shows_it(coloured: Path) -> None:
    frame = film(coloured / "two.mp4", 6)
    boxes = np.array([[0, 0, 0.2, 1], [0.4, 0, 0.6, 1], [0.8, 0, 1, 1], [0, 0, 1, 1]], np.float32)
    source = EvaluationKeyFrames([frame], [boxes], CLIP)
    (clips,) = make_eval_loader(source, batch=1, workers=0)
    assert clips.frames.shape == (1, 3, 4, 32, 48, 3)
    assert clips.extras[VIEW].tolist() == [[0, 1, 2, 1]]
    found = clips.extras[BOXES][0]
    # 144 pixels wide, crops of 96 from 0, 24 and 48.
    torch.testing.assert_close(found[0], torch.tensor([0, 0, 0.3, 1]))
    torch.testing.assert_close(found[1], torch.tensor([33.6 / 96, 0, 62.4 / 96, 1]))
    torch.testing.assert_close(found[2], torch.tensor([67.2 / 96, 0, 1, 1]))
    torch.testing.assert_close(found[3], torch.tensor([0.0, 0, 1, 1]))


REAL = Path(__file__).parents[3] / "shared" / "data" / "clips"


def test_real_clips_are_trained_on_and_judged(tmp_path: Path) -> None:
    """Two real films of other sizes and rates; boxes are made up, so only that it runs is told."""
    films = [REAL / "nasa_13013.mp4", REAL / "bikes.mp4"]
    if not all(path.is_file() for path in films):
        pytest.skip("no ../shared/data/clips")
    boxes = np.array([[0.1, 0.2, 0.5, 0.9], [0.6, 0.1, 0.95, 0.95]], np.float32)
    labels = (("sit", "talk"), ("stand",))
    frames = [
        KeyFrame(path, path.stem, 902.0 + second, float(second), split, boxes, labels)
        for path in films
        for second, split in ((1, "train"), (2, "train"), (3, "val"))
    ]
    write_boxes(frames, tmp_path / "boxes.csv")
    torch.manual_seed(0)
    encoder = VisionTransformer(
        frames=4, size=(32, 48), tubelet=2, patch=8, width=32, depth=2, heads=2
    )
    save_model(encoder, tmp_path / "model", CLIP)
    run = train_detector(training(tmp_path, tmp_path / "run", steps=3, batch=4))
    result = evaluate_detector(evaluation(tmp_path, run))
    assert (result["key_frames"], result["judged"]) == (2, 4)
    assert set(result["actions"]) == {"sit", "talk", "stand"}
    assert result["unreadable"] == []
    assert 0 < result["map"] <= 1


def test_a_detector_gives_its_encoder_to_others(trained: Path, coloured: Path) -> None:
    encoder = load_encoder(trained)
    assert encoder.clip.size == CLIP.size
    assert load_detector(trained).labels == ("blue", "green", "red")
    before = load_encoder(coloured / "model").state_dict()
    assert (encoder.state_dict()["patch_embed.weight"] - before["patch_embed.weight"]).abs().max()
