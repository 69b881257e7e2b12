"""What a page says of a classifier, part by part: which videos, which recipe, how many steps."""

from __future__ import annotations

import base64
from pathlib import Path

import cv2
import numpy as np
import pytest

from m3video.config import DetectTrainConfig, FinetuneConfig
from m3video.errors import ConfigError, VideoError
from m3video.finetune_recipes import finetune_config
from m3video.report.answers import FRAMES, SIDE, Answer, in_order, read_film
from m3video.report.evaluation import Confused, confused_pairs, confusion_picture
from m3video.report.facts import Metrics, read_any_config, steps_by_metrics
from m3video.report.tuned import changed, defaults, nearest_recipe
from tests.conftest import write_video
from tests.report.tuned_runs import classifier_run, detector_run


def answer(name: str, truth: str, said: str, share: float) -> Answer:
    return Answer(name, truth, ((said, share), ("other", 1 - share)))


def test_sure_mistakes_come_first_a_class_at_a_time() -> None:
    answers = [
        answer("a1", "a", "b", 0.9),
        answer("a2", "a", "b", 0.8),
        answer("c1", "c", "b", 0.3),
        answer("b1", "b", "b", 0.99),
    ]
    assert [each.path for each in in_order(answers)] == ["a1", "c1", "a2", "b1"]
    many = [answer(f"w{n}", "a", "b", 0.5) for n in range(10)] + [answer("right", "b", "b", 0.6)]
    assert in_order(many)[8].path == "right"
    assert len(in_order(many)) == 11


def test_films_are_small_and_show_the_whole_video(tmp_path: Path) -> None:
    path = write_video(tmp_path / "long.mp4", frames=80, height=180, width=320)
    frames, fps = read_film(str(path))
    assert frames.shape == (FRAMES, 126, SIDE, 3)
    assert 5 <= fps <= 12  # 32 frames of 3.2 s
    small, _ = read_film(str(write_video(tmp_path / "small.mp4", frames=5, height=48, width=96)))
    assert small.shape == (5, 96, 192, 3)
    with pytest.raises(VideoError):
        read_film(str(tmp_path / "gone.mp4"))


def test_pairs_leave_out_what_is_right_and_what_never_happened() -> None:
    found = Confused(labels=["a", "b", "c"], counts=[[9, 1, 0], [2, 1, 2], [0, 0, 0]])
    pairs = [
        (pair.truth, pair.predicted, pair.count, pair.videos) for pair in confused_pairs(found)
    ]
    assert pairs == [("b", "a", 2, 5), ("b", "c", 2, 5), ("a", "b", 1, 10)]


def test_a_large_confusion_is_blue_where_right_and_red_where_wrong() -> None:
    counts = np.diag(np.full(100, 4)).tolist()
    counts[2][7] = 4
    found = Confused(labels=[str(n) for n in range(100)], counts=counts)
    picture = confusion_picture(found)
    assert picture.svg is None
    content = np.frombuffer(base64.b64decode(picture.url.split(",")[1]), np.uint8)
    pixels = cv2.imdecode(content, cv2.IMREAD_UNCHANGED)
    assert pixels is not None
    cell = pixels.shape[0] // 100
    blue, _, red, opaque = (int(value) for value in pixels[3 * cell, 3 * cell])
    assert (blue > red, opaque) == (True, 255)
    blue, _, red, opaque = (int(value) for value in pixels[2 * cell, 7 * cell])
    assert (red > blue, opaque < 200) == (True, True)
    assert pixels[7 * cell, 2 * cell, 3] == 0


def test_the_nearest_recipe_is_named_and_what_differs_from_it() -> None:
    for name in ("ssv2", "tiny", "kinetics"):
        config = finetune_config(
            name, init=Path("a"), data="b", out=Path("c"), changes={"train": {"lr": 0.5}}
        )
        assert nearest_recipe(config) == (name, ["train.lr"])
    config = FinetuneConfig(init=Path("a"), data="b", out=Path("c"))
    assert changed(config, defaults(config)) == []
    detect = DetectTrainConfig.model_validate(
        {"init": "a", "data": "b", "out": "c", "augment": {"scales": [1.0]}}
    )
    (one,) = changed(detect, defaults(detect))
    assert (one.name, one.value) == ("augment.scales", "1")


def test_steps_in_all_follow_from_the_epochs_of_the_metrics(tmp_path: Path) -> None:
    config = finetune_config("tiny", init=tmp_path, data="b", out=tmp_path)
    metrics = Metrics([3, 7], {"epoch": [0.3, 0.7]})
    assert steps_by_metrics(config, metrics) == 300
    assert steps_by_metrics(config, Metrics([], {})) is None
    assert steps_by_metrics(config, Metrics([4], {})) is None


def test_the_kind_of_a_run_is_read_from_its_config(tmp_path: Path) -> None:
    assert isinstance(read_any_config(classifier_run(tmp_path / "a")), FinetuneConfig)
    run = detector_run(tmp_path / "b")
    assert isinstance(read_any_config(run), DetectTrainConfig)
    (run / "config.yaml").write_text("split: [")
    with pytest.raises(ConfigError, match=r"config\.yaml"):
        read_any_config(run)
    (run / "config.yaml").write_text("split: train\nsplits: 3\n")
    with pytest.raises(ConfigError, match="no such setting"):
        read_any_config(run)
