"""The verbs finetune and evaluate, from the command line to their files and their refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from m3video.cli import main
from m3video.config import ClipConfig, FinetuneConfig, load_config
from m3video.model.checkpoint import save_model
from m3video.model.vit import VisionTransformer


def write_encoder(folder: Path, width: int = 16) -> Path:
    torch.manual_seed(0)
    encoder = VisionTransformer(
        frames=4, size=(32, 48), tubelet=2, patch=8, width=width, depth=2, heads=2
    )
    save_model(encoder, folder, ClipConfig(frames=4, stride=2, size=(32, 48), patch=8))
    return folder


def tune(init: Path, data: Path, out: Path, *more: str) -> int:
    arguments = ["finetune", "--init", str(init), "--data", str(data), "--out", str(out)]
    return main([*arguments, "--train.workers", "0", "--train.device", "cpu", *more])


def test_from_videos_to_a_picture_of_the_confusion(
    tmp_path: Path, made_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    init, run = write_encoder(tmp_path / "init"), tmp_path / "run"
    options = ["--val-share", "0.3", "--train.steps", "2", "--train.batch", "2"]
    assert tune(init, made_folder, run, *options) == 0
    out = capsys.readouterr().out
    assert f"classifier: {run}/model" in out
    assert f"evaluation: {run}/evaluation" in out
    assert (run / "evaluation" / "confusion.svg").read_text().startswith("<svg")
    config = load_config(FinetuneConfig, run / "config.yaml")
    assert config.augment.operations == 0, "tiny is for narrow encoders"
    assert config.train.batch == 2

    place = str(tmp_path / "e")
    arguments = ["evaluate", "--model", str(run), "--data", str(made_folder), "--out", place]
    assert main([*arguments, "--workers", "0", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "top-1" in out
    assert "6 videos tested, 0 left out because they could not be read" in out
    result = json.loads((tmp_path / "e" / "evaluation.json").read_text())
    assert result["views"]["segments"] == 2
    assert (tmp_path / "e" / "confusion.svg").exists()


def test_resume_reads_the_runs_own_config(
    tmp_path: Path, made_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    init, run = write_encoder(tmp_path / "init"), tmp_path / "run"
    assert tune(init, made_folder, run, "--train.steps", "2", "--train.batch", "2") == 0
    assert main(["finetune", "--out", str(run), "--resume"]) == 0
    assert "all 2 steps are done" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("width", "recipe", "batch"),
    [(16, None, 16), (192, None, 384), (192, "tiny", 16), (16, "ssv2", 512)],
)
def test_the_recipe_follows_the_encoder_unless_it_is_named(
    tmp_path: Path, width: int, recipe: str | None, batch: int, capsys: pytest.CaptureFixture[str]
) -> None:
    init = write_encoder(tmp_path / "init", width)
    named = [] if recipe is None else ["--recipe", recipe]
    with pytest.raises(SystemExit) as ended:
        tune(init, tmp_path, tmp_path / "run", *named, "--help")
    assert ended.value.code == 0
    help_text = " ".join(capsys.readouterr().out.split())
    assert f"(default: {batch})" in help_text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--recipe", "k400"], "recipe 'k400' is not known: use one of kinetics, ssv2"),
        (["--sampling", "sparse"], "sparse"),
        (["--labels", "0"], "labels"),
        (["--train.drop-path", "1"], "--train.drop-path: "),
        (["--val-share", "1.5"], "--val-share: "),
    ],
)
def test_bad_options_are_one_line(
    tmp_path: Path, options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    init = write_encoder(tmp_path / "init")
    assert tune(init, tmp_path, tmp_path / "run", *options) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_model_without_classes_is_refused(
    tmp_path: Path, made_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    init = write_encoder(tmp_path / "init")
    arguments = ["--model", str(init), "--data", str(made_folder), "--out", str(tmp_path / "e")]
    assert main(["evaluate", *arguments]) == 2
    said = capsys.readouterr().err
    assert "an encoder without classes; fine-tune it first with m3video finetune" in said
