"""From films and the lists of AVA to a frame mAP, by the commands that a user types."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from m3video.cli import main
from m3video.config import AugmentConfig, ClipConfig
from m3video.model.checkpoint import save_model
from m3video.model.vit import VisionTransformer
from m3video.train.detect_clips import ACTIONS, BOXES, TrainingKeyFrames
from m3video.video.datasets import read_boxes
from tests.video.release import rows, write_lists

CLIP = ClipConfig(frames=4, stride=1, size=(32, 48), patch=8)
COLOURS = {"sit": (220, 40, 40), "stand": (40, 200, 40), "talk": (50, 60, 230)}
RATE, SECONDS = 10, 6
HEIGHT, WIDTH = 64, 144
LEFT, RIGHT = "0.1,0.2,0.4,0.8", "0.6,0.2,0.9,0.8"

# Second 900 of the film is the first of the file. What is done in a second is told by its colour.
DONE = {"trainFilm": {2: "sit", 3: "stand", 4: "talk"}, "val-Film": {2: "stand", 3: "sit"}}
LISTS = {
    "ava_train_v2.2.csv": f"trainFilm,0902,{LEFT},1,0\ntrainFilm,0903,{RIGHT},2,0\n"
    f"trainFilm,0904,{LEFT},3,1\ngoneFilm,0902,{LEFT},1,0\n",
    "ava_val_v2.2.csv": f"val-Film,0902,{RIGHT},2,0\nval-Film,0903,{LEFT},1,0\n"
    f"val-Film,0904,{LEFT},1,0\n",
    "ava_train_excluded_timestamps_v2.2.csv": "",
    "ava_val_excluded_timestamps_v2.2.csv": "val-Film,0904\n",
    "ava_included_timestamps_v2.2.txt": "0902\n0903\n0904\n0905\n",
    "ava_action_list_v2.2_for_activitynet_2019.pbtxt": "".join(
        f'item {{\n  name: "{name}"\n  id: {number}\n}}\n'
        for number, name in enumerate(COLOURS, start=1)
    ),
}


def write_film(path: Path) -> None:
    """A grey film: about the middle of each second, both places have the colour of its action."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("h264", rate=RATE, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(RATE * SECONDS):
            image = np.full((HEIGHT, WIDTH, 3), 110, np.uint8)
            action = DONE[path.stem].get(round(number / RATE))
            if action is not None:
                for x1, y1, x2, y2 in ([float(v) for v in box.split(",")] for box in (LEFT, RIGHT)):
                    inside = np.s_[int(y1 * HEIGHT) : int(y2 * HEIGHT)]
                    image[inside, int(x1 * WIDTH) : int(x2 * WIDTH)] = COLOURS[action]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


@pytest.fixture
def ava(tmp_path: Path) -> Path:
    """The folder of `films`, `lists` and `model`, an encoder that was never trained."""
    (tmp_path / "films").mkdir()
    write_film(tmp_path / "films" / "trainFilm.mp4")
    write_film(tmp_path / "films" / "val-Film.mkv")
    write_lists(tmp_path / "lists", LISTS)
    torch.manual_seed(0)
    encoder = VisionTransformer(
        frames=4, size=(32, 48), tubelet=2, patch=8, width=16, depth=1, heads=2
    )
    save_model(encoder, tmp_path / "model", CLIP)
    return tmp_path


def test_index_train_evaluate(ava: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = ["index", str(ava / "films"), "--out", str(ava / "ava.csv"), "--workers", "0"]
    assert main([*index, "--format", "ava", "--annotations", str(ava / "lists")]) == 2
    assert "--films whole or --films cut is needed" in capsys.readouterr().err
    index += ["--format", "ava", "--annotations", str(ava / "lists")]
    assert main([*index, "--films", "cut"]) == 0
    said = capsys.readouterr().err
    assert "7 key frames, 2 of them without boxes, 5 boxes" in said
    assert "missing train 1: goneFilm" in said
    assert [row["id"] for row in rows(ava / "ava.missing.csv")] == ["goneFilm"]

    data, run = str(ava / "boxes.csv"), str(ava / "run")
    train = ["detect", "train", "--init", str(ava / "model"), "--data", data, "--out", run]
    train += ["--train.steps", "2", "--train.batch", "3", "--train.device", "cpu"]
    assert main([*train, "--train.workers", "0"]) == 0
    assert "3 key frames with 3 boxes of 3 actions" in capsys.readouterr().err

    evaluate = ["detect", "evaluate", "--model", run, "--data", data, "--device", "cpu"]
    evaluate += ["--workers", "0"]
    assert main([*evaluate, "--out", str(ava / "out")]) == 0
    assert capsys.readouterr().out.startswith("frame mAP at IoU 0.5")
    result = json.loads((ava / "out" / "evaluation.json").read_text())
    assert (result["key_frames"], result["annotated"], result["judged"]) == (3, 2, 2)
    assert set(result["actions"]) == {"sit", "stand"}, "talk is not annotated there"

    found = [f"val-Film,0902,{RIGHT},,0.9", f"val-Film,0905,{LEFT},,0.95", f"x,0902,{LEFT},,1"]
    (ava / "people.csv").write_text("\n".join(found) + "\n")
    people = ["--detections", str(ava / "people.csv"), "--out", str(ava / "found")]
    assert main([*evaluate, *people]) == 0
    result = json.loads((ava / "found" / "evaluation.json").read_text())
    assert result["judged"] == 2, "of these films, also where nobody is annotated"
    assert result["actions"]["sit"] == 0, "nobody was found there"


def test_a_clip_shows_the_second_of_its_key_frame(ava: Path) -> None:
    index = ["index", str(ava / "films"), "--out", str(ava / "ava.csv"), "--workers", "0"]
    index += ["--format", "ava", "--annotations", str(ava / "lists"), "--films", "cut"]
    assert main(index) == 0
    frames = [frame for frame in read_boxes(ava / "boxes.csv") if len(frame.boxes)]
    source = TrainingKeyFrames(frames, tuple(COLOURS), CLIP, AugmentConfig(scales=(1.0,)))
    for number, frame in enumerate(frames):
        clip = source.clip(number, 0, torch.Generator().manual_seed(number))
        x1, y1, x2, y2 = (clip.extras[BOXES][0] * torch.tensor([48, 32, 48, 32])).int().tolist()
        shown = clip.frames[2, y1 + 2 : y2 - 2, x1 + 2 : x2 - 2].float().mean((0, 1))
        distance = [(shown - torch.tensor(colour)).abs().sum() for colour in COLOURS.values()]
        assert int(torch.stack(distance).argmin()) == int(clip.extras[ACTIONS][0].argmax()), frame
        assert DONE[frame.video][int(frame.seconds)] == frame.labels[0][0]
