"""Run directories of classifiers and detectors, written by what writes real ones, untrained."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from m3video.config import ClipConfig, DetectTrainConfig, save_config
from m3video.finetune_recipes import finetune_config
from m3video.model.checkpoint import save_model
from m3video.model.classifier import Classifier
from m3video.model.vit import VisionTransformer
from m3video.train.classified import write_evaluation
from m3video.train.environment import describe_environment
from tests.conftest import write_video

CLIP = ClipConfig(frames=4, stride=2, size=(32, 48), patch=8)
LABELS = ("<script>alert(1)</script>", 'say "no" & go', "kick", "never <b>seen</b>")
STEPS = 6


def encoder() -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(
        frames=4, size=(32, 48), tubelet=2, patch=8, width=16, depth=2, heads=2
    )


def write_metrics(run: Path, name: str, steps: int, videos_in_batches: int = 2) -> None:
    """Lines as the loop writes them, of an epoch of so many batches."""
    rows = [
        {
            "step": step,
            "epoch": step / videos_in_batches,
            "loss": 2 / step,
            f"loss/{name}": 2 / step,
            "lr": 1e-4 * step,
            "grad_norm": 1.0,
            "bad_steps": 0,
            "unreadable": 0,
            "time": 1.5 * step,
            "clips_per_second": 8.0,
            "data_wait": 0.25,
        }
        for step in range(1, steps + 1)
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def classifier_run(run: Path, *, steps: int = STEPS, videos: int = 5) -> Path:
    """A fine-tuned run of 4 classes, without an evaluation."""
    run.mkdir(parents=True)
    config = finetune_config(
        "tiny", init=Path("weights"), data="videos", out=run, changes={"train": {"epochs": 3}}
    )
    save_config(config, run / "config.yaml")
    (run / "environment.json").write_text(json.dumps(describe_environment("cpu")))
    lines = ["path,frames,fps,width,height,duration,label,split"]
    lines += [
        f"v{number}.mp4,40,25,96,72,1.6,kick,{'train' if number else 'test'}"
        for number in range(videos)
    ]
    (run / "manifest.csv").write_text("\n".join(lines) + "\n")
    write_metrics(run, "cross_entropy", steps)
    save_model(Classifier(encoder(), LABELS), run / "model", CLIP)
    return run


def evaluate_classifier(run: Path) -> Path:
    """Evaluation of five videos, of which two are right, one is gone, and none is of class 3."""
    folder = run / "evaluation"
    names = ["<i>a</i>.mp4", "b & c.mp4", "gone.mp4", "d.mp4", "e.mp4"]
    paths = [run.parent / "seen" / name for name in names]
    for path in paths:
        if path.name != "gone.mp4":
            write_video(path, frames=20)
    guessed = [0, 0, 0, 2, 2]
    averages = torch.full((5, 4), 0.1, dtype=torch.float64)
    for row, label in enumerate(guessed):
        averages[row, label] = 0.7 - 0.02 * row
    write_evaluation(
        folder,
        averages,
        torch.tensor([0, 1, 1, 2, 1]),
        [str(path) for path in paths],
        LABELS,
        {
            "data": "videos",
            "split": "test",
            "views": {"segments": 2, "crops": 3},
            "left_out": [["broken <b>.mp4", "no frame"]],
            "unreadable": [],
        },
    )
    return folder


def detector_run(run: Path, *, steps: int = 4, planned: int = 4) -> Path:
    """A detector's run without an evaluation."""
    run.mkdir(parents=True)
    config = DetectTrainConfig.model_validate(
        {"init": "weights", "data": "boxes.csv", "out": run, "train": {"steps": planned}}
    )
    save_config(config, run / "config.yaml")
    write_metrics(run, "binary_cross_entropy", steps)
    return run
