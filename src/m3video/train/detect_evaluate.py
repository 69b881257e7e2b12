"""The verb `detect evaluate`: frame mAP of a detector, on annotated or on found boxes.

Every key frame of the split counts, also those without an annotated box: what is said there is
wrong. Key frames that cannot be read are named, and what is annotated in them is missed.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track as progress
from torch import Tensor

from m3video.config import DetectEvaluateConfig
from m3video.errors import ConfigError, ManifestError, VideoError
from m3video.model.checkpoint import load_detector
from m3video.model.detector import Detector
from m3video.train.classified import EVALUATION, check_folder
from m3video.train.detect import split_frames
from m3video.train.detect_clips import (
    BOXES,
    PRESENT,
    VIEW,
    Boxes,
    EvaluationKeyFrames,
    action_matrix,
)
from m3video.train.detect_map import FrameDetections, FrameTruth, frame_map
from m3video.train.step import choose_device
from m3video.video.augment import normalise
from m3video.video.datasets.boxes import KeyFrame, parse_box
from m3video.video.loader import Clips, make_eval_loader
from m3video.whole import write_json, write_whole

DETECTIONS = "detections.csv"
"""The file of what was said, in the folder of an evaluation."""
ANNOTATED = "annotated"
"""What evaluation.json calls the boxes where they are not those of a detector of people."""
PERSON_FIELDS = 8
"""video_id, timestamp, x1, y1, x2, y2, an action that is not read, score."""


@dataclass(frozen=True)
class Said:
    """What a detector says of all key frames.

    Attributes:
        scores: of each key frame [n, C], 0 to 1; no row where it cannot be read.
        unreadable: (path, reason).
    """

    scores: list[np.ndarray[Any, np.dtype[np.float64]]]
    unreadable: list[tuple[str, str]]


def evaluate_detector(config: DetectEvaluateConfig) -> dict[str, Any]:
    """Test a detector, and write evaluation.json and detections.csv into `config.out`.

    Returns:
        model, data, split, boxes ("annotated", or the file of the found ones), map (0 to 1),
        actions {name: average precision}, unknown (annotated actions that the detector has no
        word for; they count as 0), key_frames, annotated, judged (boxes), unreadable.

    Raises:
        CheckpointError: `model` is no detector.
        ManifestError: `data` or `detections` cannot be understood.
        ConfigError: no key frame of the split, nothing annotated or found in them, or a folder that
            holds other things.
        VideoError: no key frame could be read.
    """
    check_folder(config.out)
    model = load_detector(config.model)
    frames = split_frames(config.data, config.split)
    if not any(len(frame.boxes) for frame in frames):
        raise ConfigError(f"{config.data}: no key frame of split {config.split!r} has a box")
    boxes = _judged_boxes(frames, config)
    said = say_actions(model, frames, boxes, config)
    if not sum(map(len, said.scores)):
        path, reason = said.unreadable[0]
        raise VideoError(f"{path}: {reason}; no key frame of split {config.split!r} can be read")
    known = {name for frame in frames for names in frame.labels for name in names}
    unknown = sorted(known - set(model.labels))
    truth = [
        FrameTruth(
            frame.boxes.astype(np.float64),
            action_matrix(frame.labels, model.labels).astype(np.bool_),
        )
        for frame in frames
    ]
    found = [
        FrameDetections(place[: len(scores)].astype(np.float64), scores)
        for place, scores in zip(boxes, said.scores, strict=True)
    ]
    precisions = frame_map(truth, found, most=config.most)
    pairs = zip(model.labels, precisions, strict=True)
    by_name = {name: value for name, value in pairs if value is not None}
    by_name.update(dict.fromkeys(unknown, 0.0))
    result = {
        "model": str(config.model),
        "data": str(config.data.absolute()),
        "split": config.split,
        "boxes": ANNOTATED if config.detections is None else str(config.detections),
        "map": fmean(by_name.values()),
        "actions": by_name,
        "unknown": unknown,
        "key_frames": len(frames),
        "annotated": sum(len(frame.boxes) for frame in frames),
        "judged": sum(map(len, said.scores)),
        "unreadable": [list(entry) for entry in said.unreadable],
    }
    write_whole(config.out / DETECTIONS, _csv(frames, found, model.labels))
    write_json(config.out / EVALUATION, result)
    return result


def _judged_boxes(frames: Sequence[KeyFrame], config: DetectEvaluateConfig) -> list[Boxes]:
    """The boxes of each key frame that are judged: annotated or found ones."""
    if config.detections is None:
        return [frame.boxes for frame in frames]
    boxes = found_boxes(config.detections, frames, config.person_score)
    if not any(map(len, boxes)):
        raise ConfigError(
            f"{config.detections}: no box of score {config.person_score:g} or more in a key frame "
            f"of split {config.split!r}; are they those of another split?"
        )
    return boxes


def found_boxes(path: Path, frames: Sequence[KeyFrame], lowest: float) -> list[Boxes]:
    """The boxes that a detector of people found in key frames; others are left out.

    Args:
        path: lines video_id,timestamp,x1,y1,x2,y2,,score.
        frames: the key frames.
        lowest: score.

    Raises:
        ManifestError: it cannot be read, or a line cannot be understood.
    """
    found: dict[tuple[str, float], dict[tuple[float, ...], None]] = {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for line, cells in enumerate(csv.reader(file), start=1):
                where = f"{path}, line {line}"
                if len(cells) != PERSON_FIELDS:
                    raise ManifestError(
                        f"{where}: {len(cells)} fields; wanted are "
                        "video_id,timestamp,x1,y1,x2,y2,,score"
                    )
                try:
                    timestamp, score = float(cells[1]), float(cells[7])
                except ValueError:
                    raise ManifestError(
                        f"{where}: timestamp {cells[1]!r} and score {cells[7]!r} must be numbers"
                    ) from None
                if score >= lowest:
                    box = parse_box(cells[2:6], where)
                    found.setdefault((cells[0], timestamp), {})[box] = None
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error
    return [
        np.array(list(found.get((frame.video, frame.timestamp), {})), np.float32).reshape(-1, 4)
        for frame in frames
    ]


def say_actions(
    model: Detector,
    frames: Sequence[KeyFrame],
    boxes: Sequence[Boxes],
    config: DetectEvaluateConfig,
) -> Said:
    """Judge the boxes of all key frames, those of a key frame together."""
    device = choose_device(config.device)
    model = model.to(device).eval()
    nothing = np.zeros((0, len(model.labels)))
    scores = [nothing] * len(frames)
    unreadable: list[tuple[str, str]] = []
    asked = [number for number, found in enumerate(boxes) if len(found)]
    source = EvaluationKeyFrames(
        [frames[number] for number in asked],
        [boxes[number] for number in asked],
        model.encoder.clip,
    )
    console = Console(stderr=True)
    for clips in progress(
        make_eval_loader(source, batch=config.batch, workers=config.workers),
        description="key frames",
        total=-(-len(source) // config.batch),
        transient=True,
        console=console,
        disable=not console.is_terminal,
    ):
        unreadable += [
            entry for entry in dict.fromkeys(clips.unreadable) if entry not in unreadable
        ]
        if len(clips.index):
            values = _judge(model, clips, device)
            for row, number in enumerate(clips.index.tolist()):
                present = clips.extras[PRESENT][row]
                scores[asked[number]] = values[row][present].double().numpy()
    return Said(scores, unreadable)


@torch.inference_mode()
def _judge(model: Detector, clips: Clips, device: torch.device) -> Tensor:
    """Probabilities float32 [B, M, C]; 0 where there is no box. Crops without a box are not run."""
    present = clips.extras[PRESENT]
    rows = present.nonzero()[:, 0]
    views = clips.frames.shape[1]
    wanted = (rows * views + clips.extras[VIEW][present]).numpy()
    used, crops = np.unique(wanted, return_inverse=True)
    inputs = normalise(clips.frames.flatten(0, 1)[torch.from_numpy(used)].to(device))
    places = clips.extras[BOXES][present].to(device)
    logits = model(inputs, places, torch.from_numpy(crops).to(device))
    out = torch.zeros(*present.shape, len(model.labels))
    out[present] = logits.float().sigmoid().cpu()
    return out


def _csv(
    frames: Sequence[KeyFrame], found: Sequence[FrameDetections], labels: Sequence[str]
) -> bytes:
    """What was said: video_id,timestamp,x1,y1,x2,y2,action,score, as the official files."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for frame, said in zip(frames, found, strict=True):
        for box, scores in zip(said.boxes.tolist(), said.scores.tolist(), strict=True):
            place = [frame.video, f"{frame.timestamp:g}", *(f"{number:.6g}" for number in box)]
            for label, score in zip(labels, scores, strict=True):
                writer.writerow([*place, label, f"{score:.6g}"])
    return text.getvalue().encode("utf-8", "surrogateescape")


def format_detection(result: dict[str, Any]) -> str:
    """A table for the terminal: the mean, then the actions, best first, in per cent."""
    actions = sorted(result["actions"].items(), key=lambda pair: -pair[1])
    rows = [("frame mAP at IoU 0.5", result["map"]), *actions]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name.ljust(width)}  {100 * value:5.1f} %" for name, value in rows)
