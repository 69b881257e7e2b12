"""What a classifier got right: top-1, top-5, per class, and the confusion; as files.

evaluation.json   accuracies (0 to 1), over all tested videos and of each class; written last
predictions.csv   path, truth, and the five likeliest classes with their probabilities
confusion.json    how often each class (row) was taken for each other (column)
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from m3video.errors import ConfigError
from m3video.whole import write_json, write_whole

EVALUATION = "evaluation.json"
PREDICTIONS = "predictions.csv"
CONFUSION = "confusion.json"


def check_folder(out: Path) -> None:
    """Refuse a place that is no folder for an evaluation.

    Raises:
        ConfigError: a file, a folder with other things than an evaluation in it, or one that cannot
            be written to.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out}: a file, not a folder; choose another --out")
    check_above(out)
    if out.is_dir() and any(out.iterdir()) and not (out / EVALUATION).exists():
        raise ConfigError(f"{out}: not empty, and holds no evaluation; choose another --out")


def check_above(out: Path) -> None:
    """Refuse a place that cannot be written to before anything is computed.

    Raises:
        ConfigError: the nearest folder above it is a file, or closed.
    """
    above = next(place for place in out.absolute().parents if place.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise ConfigError(f"{out}: {above} cannot be written to; choose another --out")


def accuracies(averages: Tensor, truth: Tensor, labels: Sequence[str]) -> dict[str, Any]:
    """Accuracies of averaged probabilities; of equal ones the first class counts as likelier.

    Args:
        averages: float64 [V, C].
        truth: int64 [V].
        labels: C names.

    Returns:
        videos, classes, answered (classes that videos were taken for), chance (share of the
        commonest class), top1, top5, mean_class (mean over the classes that occur of their top-1)
        and per_class (label, videos, top1, top5; null where a class does not occur).
    """
    best = top(averages)
    first, any_of_five = best[:, 0] == truth, (best == truth[:, None]).any(1)
    counts = truth.bincount(minlength=len(labels))
    rows: list[dict[str, Any]] = []
    for number, label in enumerate(labels):
        of_class = truth == number
        found = bool(counts[number])
        rows.append(
            {
                "label": label,
                "videos": int(counts[number]),
                "top1": float(first[of_class].double().mean()) if found else None,
                "top5": float(any_of_five[of_class].double().mean()) if found else None,
            }
        )
    occurring = [float(row["top1"]) for row in rows if row["videos"]]
    return {
        "videos": len(truth),
        "classes": len(labels),
        "answered": len(set(best[:, 0].tolist())),
        "chance": float(counts.max()) / len(truth),
        "top1": float(first.double().mean()),
        "top5": float(any_of_five.double().mean()),
        "mean_class": sum(occurring) / len(occurring),
        "per_class": rows,
    }


def top(averages: Tensor, count: int = 5) -> Tensor:
    """The likeliest classes, likeliest first: int64 [V, count], or [V, C] where C is less."""
    return averages.sort(dim=1, descending=True, stable=True).indices[:, :count]


def confusion(averages: Tensor, truth: Tensor) -> Tensor:
    """How often each class (row) was taken for each (column): int64 [C, C]."""
    classes = averages.shape[1]
    counts = torch.zeros(classes, classes, dtype=torch.int64)
    counts.index_put_((truth, top(averages, 1)[:, 0]), torch.ones_like(truth), accumulate=True)
    return counts


def write_evaluation(
    out: Path,
    averages: Tensor,
    truth: Tensor,
    paths: Sequence[str],
    labels: Sequence[str],
    facts: dict[str, Any],
) -> dict[str, Any]:
    """Write the three files, each whole.

    Args:
        out: the folder.
        averages: float64 [V, C].
        truth: int64 [V].
        paths: V names.
        labels: C names.
        facts: what else evaluation.json holds, before the accuracies.

    Returns:
        What evaluation.json holds.
    """
    result = {**facts, **accuracies(averages, truth, labels)}
    write_whole(out / PREDICTIONS, _predictions(averages, truth, paths, labels))
    counts = confusion(averages, truth).tolist()
    write_json(out / CONFUSION, {"labels": list(labels), "counts": counts})
    write_json(out / EVALUATION, result)
    return result


def _predictions(
    averages: Tensor, truth: Tensor, paths: Sequence[str], labels: Sequence[str]
) -> bytes:
    best = top(averages)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    places = range(1, best.shape[1] + 1)
    writer.writerow(["path", "truth", *(f"{kind}{n}" for n in places for kind in ("class", "p"))])
    for path, label, classes, row in zip(paths, truth.tolist(), best, averages, strict=True):
        pairs = [(labels[number], f"{float(row[number]):.6f}") for number in classes.tolist()]
        writer.writerow([path, labels[label], *(value for pair in pairs for value in pair)])
    return text.getvalue().encode("utf-8", "surrogateescape")
