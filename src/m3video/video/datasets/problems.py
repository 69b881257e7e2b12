"""What a copy of a data set lacks or has beyond its lists: printed as counts, written as a CSV."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.markup import escape

from m3video.video.datasets.annotation import Annotated
from m3video.video.walk import path_in_csv
from m3video.whole import write_csv

_EXAMPLES = 3


@dataclass(frozen=True)
class Problem:
    """One video or file, a row of `NAME.missing.csv`."""

    status: Literal["missing", "unreadable", "short", "surplus"]
    split: str = ""
    id: str = ""
    label: str = ""
    path: str = ""
    reason: str = ""


def video_problem(
    status: Literal["missing", "unreadable", "short"],
    row: Annotated,
    path: str | Path = "",
    reason: str = "",
) -> Problem:
    """What is wrong with a listed video."""
    return Problem(status, row.split, row.id, row.label or "", str(path), reason)


def print_problems(problems: Sequence[Problem], console: Console) -> None:
    """A line for each status: how many in each split, and the first ones."""
    for status in ("missing", "unreadable", "short", "surplus"):
        found = [problem for problem in problems if problem.status == status]
        if not found:
            continue
        counts = split_counts([problem.split for problem in found])
        examples = "; ".join(
            f"{problem.path or problem.id}{': ' if problem.reason else ''}{problem.reason}"
            for problem in found[:_EXAMPLES]
        )
        more = " …" if len(found) > _EXAMPLES else ""
        line = f"[red]{status}[/red] {counts}: {escape(examples)}{more}"
        console.print(line, soft_wrap=True)


def split_counts(splits: Sequence[str]) -> str:
    """Such as "train 3, val 1"; only the number where there are no splits."""
    if not any(splits):
        return f"{len(splits):,}"
    names = [name for name in ("train", "val", "test", "") if name in splits]
    return ", ".join(f"{name or 'no split'} {splits.count(name):,}" for name in names)


def write_problems(problems: Sequence[Problem], path: Path) -> None:
    """Write the CSV; where there is nothing to tell, remove that of an earlier time."""
    if not problems:
        path.unlink(missing_ok=True)
        return
    folder = path.parent.resolve()
    rows: list[tuple[object, ...]] = [tuple(field.name for field in fields(Problem))]
    for problem in problems:
        *start, name, reason = astuple(problem)
        rows.append((*start, path_in_csv(Path(name), folder) if name else "", reason))
    write_csv(path, rows)
