"""Every command and snippet of the README is executed.

Shell blocks marked `bash` run as they stand, in order, in one folder that has `videos` and
`labelled`; some verbs get a few settings more, so that minutes become seconds. `make` commands are
checked by make itself without being run: they run this very suite. Blocks marked `sh` want
machines that are not here.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from tests.conftest import write_video
from tests.model import official

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()

SMALL = "--clip.frames 4 --clip.stride 2 --clip.size 48 64 --model.size nano --train.batch 2"
SMALL += " --train.steps 2 --train.workers 0 --shapes.clips 4"
SMALLER = {
    "pretrain": SMALL,
    "probe": "--shots 1 --epochs 2 --attentive-epochs 1 --workers 0 --folds 2",
    "finetune": "--recipe tiny --train.steps 2 --train.batch 2 --train.workers 0",
    "evaluate": "--workers 0",
    "embed": "--workers 0",
    "search": "",
    "import": "--frames 16 --size 64 64 --heads 3",
    "export": "",
    "track": "--count 20",
    "index": "--workers 1",
    "pack": "--workers 1",
    "report": "",
    "benchmark motion": "--repeats 1 --only dis",
    "study": "",
    "benchmark loader": "--clips 2",
    "benchmark train": "--repeats 1 --size nano --batch 1",
    "benchmark step": "--size nano --steps 1 --batch 1",
    "benchmark embed": "--count 1",
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    lines = [line for block in blocks("bash") for line in block.splitlines() if line.strip()]
    return [shlex.split(line, comments=True) for line in lines]


def smaller(command: list[str]) -> list[str]:
    key = " ".join(command[1:3]) if command[1] == "benchmark" else command[1]
    return [*command, *shlex.split(SMALLER[key])]


def small_study() -> str:
    """The README's study, with less to train on and to measure."""
    (block,) = blocks("yaml")
    study = yaml.safe_load(block)
    assert {"base", "probe", "finetune", "cells"} <= study.keys()
    study |= {"seeds": [0], "probe": {"train_clips": 26, "test_clips": 26, "epochs": 2}}
    study |= {"finetune": {"labels": [2], "steps": 2}}
    clip = {"frames": 4, "size": [32, 48]}
    study["base"] = {"clip": clip, "train": {"steps": 1, "batch": 2, "workers": 0}}
    return yaml.safe_dump(study)


def run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}{done.stderr}"


@pytest.mark.slow
def test_commands_and_snippets_run_as_shown(tmp_path: Path, made_folder: Path) -> None:
    labelled = tmp_path / "labelled"
    shutil.copytree(made_folder, labelled)
    shutil.copytree(made_folder, tmp_path / "others")
    write_video(tmp_path / "cat.mp4", frames=70)
    (tmp_path / "study.yaml").write_text(small_study())
    shapes = json.loads(official.GOLDEN.read_text())["videomae_pretrain_tiny"]["shapes"]
    torch.save({"model": official.formula_weights(shapes)}, tmp_path / "videomae.pth")
    for command in commands():
        assert command[0] == "m3video", command
        run([sys.executable, "-m", *smaller(command)], tmp_path)
    made = (
        "shards/000000.tar",
        "runs/shards/model",
        "manifest.csv",
        "motion.json",
        "runs/mme/report.html",
        "runs/mme/model",
    )
    tracks = ("tracks.mp4", "tracks.html", "tracks.npz", "studies/masks/table.md")
    labels = (
        "runs/ft/model",
        "runs/ft/others/confusion.svg",
        "runs/ft/report.html",
        "features.parquet",
        "clips.parquet",
    )
    weights = ("models/videomae/model.safetensors", "exported/hf/config.json")
    weights += ("exported/ft.onnx", "exported/ft.pt2")
    for name in made + tracks + labels + weights:
        assert (tmp_path / name).exists(), name
    snippets = blocks("python")
    assert snippets
    for snippet in snippets:
        check = "\nassert tokens.shape[0] == 1 and tokens.shape[2] == encoder.width\n"
        run([sys.executable, "-c", snippet + check], tmp_path)


def test_the_two_commands_are_targets_of_make() -> None:
    (first,) = [block for block in blocks("") if "make demo" in block]
    targets = [shlex.split(line, comments=True) for line in first.splitlines()]
    assert targets == [["make", "demo"], ["make", "test"]]
    for command in targets:
        run([*command, "--dry-run"], ROOT)


def test_the_python_example_has_five_lines() -> None:
    (snippet,) = blocks("python")
    assert len(snippet.splitlines()) == 5


def test_links_and_pictures_exist() -> None:
    links = re.findall(r"\]\(((?!https?:)[^)#]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
