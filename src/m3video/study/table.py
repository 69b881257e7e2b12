"""What a study says: rows, means and standard errors, and the files that hold them.

study.json   {name, data, chance, rows}: one row a run
study.csv    the same, flat
table.md     mean ± standard error over the seeds, a section a group
plot.svg     the same as a picture; study.html: all of it on one page
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import yaml

from m3video.config import CellConfig
from m3video.report.facts import read_json_or_none
from m3video.report.study import Line, Measure, Page, Section, plot, render
from m3video.study.grid import Study, Task
from m3video.whole import write_json, write_whole

Row = dict[str, Any]


def row_of(task: Task, result: dict[str, Any] | None, failed: str | None) -> Row:
    """The row of study.json of a finished or a failed run.

    Returns:
        cell, seed, group, kind, run (its folder within the study), probe, finetune,
        finetune_by_texture, loss, seconds, parts, versions; failed (the reason) where there are no
        numbers.
    """
    row: Row = {
        "cell": task.cell,
        "seed": task.seed,
        "group": task.group,
        "kind": task.kind,
        "run": f"cells/{task.name}",
        "probe": {},
        "finetune": {},
        "seconds": None,
    }
    if result is None:
        return {**row, "failed": failed or "unknown"}
    names = ("probe", "finetune", "finetune_by_texture", "loss", "seconds", "parts", "versions")
    return {**row, **{name: result[name] for name in names if name in result}}


def unfinished_rows(out: Path, study: Study) -> dict[str, str]:
    """Reasons of the failures that an earlier call wrote down, by run, of cells not finished."""
    found = read_json_or_none(out / "study.json") or {}
    rows = found.get("rows")
    failed = {
        row["run"]: str(row["failed"])
        for row in (rows if isinstance(rows, list) else [])
        if isinstance(row, dict) and isinstance(row.get("run"), str) and "failed" in row
    }
    return {
        task.name: failed[f"cells/{task.name}"]
        for task in study.tasks
        if f"cells/{task.name}" in failed and not task.result.exists()
    }


def measures(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Key and title of every number that some row has, in the order of the columns."""
    textures = list(dict.fromkeys(t for row in rows for t in row["probe"].get("by_texture", {})))
    labels = sorted({int(n) for row in rows for n in row["finetune"]})
    shots = sorted({int(n) for row in rows for n in _few_shot(row)})
    known = [
        ("linear", "linear probe"),
        *[(f"linear/{texture}", f"linear, {texture}") for texture in textures],
        *[(f"few/{n}", f"linear, {n} a class") for n in shots],
        ("attentive", "attentive probe"),
        ("knn", "k-NN"),
        *[(f"finetune/{n}", f"fine-tuned, {n} a class") for n in labels],
    ]
    there = {key for row in rows for key in numbers(row)}
    return [(key, title) for key, title in known if key in there]


def _few_shot(row: Row) -> dict[str, Any]:
    """What the linear probe reached with few labels, by labels a class."""
    found: dict[str, Any] = row["probe"].get("few_shot", {}).get("linear", {})
    return found


def numbers(row: Row) -> dict[str, float]:
    """The accuracies of a row by the keys of `measures`."""
    probe = row["probe"]
    found = {name: probe[name] for name in ("linear", "attentive", "knn") if name in probe}
    found.update({f"few/{n}": few["mean"] for n, few in _few_shot(row).items()})
    found.update({f"linear/{name}": value for name, value in probe.get("by_texture", {}).items()})
    found.update({f"finetune/{name}": value for name, value in row["finetune"].items()})
    return found


def mean_and_error(values: Sequence[float], planned: int) -> Measure:
    """Mean, and the standard error: sample deviation / √n; None for a single value.

    Args:
        values: of the seeds that are finished.
        planned: how many seeds the study asks for.
    """
    error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return Measure(fmean(values), error, len(values), planned)


def sections(study: Study, rows: Sequence[Row]) -> list[Section]:
    """The lines of each group, in the order of the study; cells without a row are left out.

    Cells of no group are first: further down they would stand under another group's heading.
    """
    titles = sorted(dict.fromkeys(task.group for task in study.tasks), key=bool)
    found = []
    for title in titles:
        names = list(dict.fromkeys(task.cell for task in study.tasks if task.group == title))
        lines = [
            _line(
                name,
                [row for row in rows if row["cell"] == name],
                planned=sum(task.cell == name for task in study.tasks),
            )
            for name in names
        ]
        found.append(Section(title, [line for line in lines if line.runs]))
    return [section for section in found if section.lines]


def _line(cell: str, rows: Sequence[Row], planned: int) -> Line:
    each = [numbers(row) for row in rows]
    keys = dict.fromkeys(key for found in each for key in found)
    links = {row["seed"]: f"{row['run']}/result.json" for row in rows if "failed" not in row}
    seconds = [row["seconds"] for row in rows if row["seconds"] is not None]
    return Line(
        cell=cell,
        values={
            key: mean_and_error([found[key] for found in each if key in found], planned)
            for key in keys
        },
        runs=[(str(row["seed"]), links.get(row["seed"]) or row["run"]) for row in rows],
        failed=[(str(row["seed"]), row["failed"]) for row in rows if "failed" in row],
        seconds=fmean(seconds) if seconds else None,
        source=next(iter(links.values())) if len(links) == 1 else None,
    )


def chance_of(rows: Sequence[Row]) -> float | None:
    """Accuracy of always saying the commonest class."""
    found = [row["probe"]["chance"] for row in rows if "chance" in row["probe"]]
    return max(found) if found else None


def table_csv(rows: Sequence[Row]) -> str:
    """One line a run: cell, seed, group, kind, the accuracies, seconds, run, failed."""
    keys = [key for key, _ in measures(rows)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("cell", "seed", "group", "kind", *keys, "seconds", "run", "failed"))
    for row in rows:
        found = numbers(row)
        accuracies = [f"{found[key]:.6f}" if key in found else "" for key in keys]
        seconds = "" if row["seconds"] is None else row["seconds"]
        head = (row["cell"], row["seed"], row["group"], row["kind"])
        writer.writerow((*head, *accuracies, seconds, row["run"], row.get("failed", "")))
    return text.getvalue()


def table_markdown(title: str, rows: Sequence[Row], parts: Sequence[Section]) -> str:
    """Accuracies in per cent, mean ± standard error over the seeds.

    A number of one run links to its result.json; of several, the seeds do.
    """
    columns = measures(rows)
    lines = [f"# {title}", "", caption(rows), ""]
    for part in parts:
        if part.title:
            lines += [f"## {part.title}", ""]
        lines.append("| | " + " | ".join(name for _, name in columns) + " | time | runs |")
        lines.append("|---|" + "--:|" * (len(columns) + 1) + "---|")
        for line in part.lines:
            cells = [
                _linked(line.values[key].text, line.source) if key in line.values else "–"
                for key, _ in columns
            ]
            spent = _linked(line.time, line.source)
            failed = {seed for seed, _ in line.failed}
            runs = [
                f"[{seed}]({run})" + (" failed" if seed in failed else "")
                for seed, run in line.runs
            ]
            lines.append(f"| {line.cell} | {' | '.join(cells)} | {spent} | {', '.join(runs)} |")
        lines.append("")
    reasons = [
        f"- {line.cell}, seed {seed}: {reason}"
        for part in parts
        for line in part.lines
        for seed, reason in line.failed
    ]
    return "\n".join([*lines, *(["## Failed", "", *reasons, ""] if reasons else [])])


def _linked(words: str, link: str | None) -> str:
    return words if link is None else f"[{words}]({link})"


def caption(rows: Sequence[Row]) -> str:
    """What the numbers of a table are."""
    chance = chance_of(rows)
    against = "" if chance is None else f" Chance: {100 * chance:.1f} %."
    return (
        "Accuracy in %, mean ± standard error over seeds; numbers of one run, and seeds, link to "
        f"their run.{against}"
    )


def write_study(study: Study, rows: Sequence[Row], source: str) -> None:
    """Write study.json, study.csv, table.md, plot.svg and study.html, each whole.

    Args:
        study: the study.
        rows: of `row_of`, in the study's order.
        source: the text of the study's YAML file.
    """
    out, name = study.out, study.config.name
    chance, parts, columns = chance_of(rows), sections(study, rows), measures(rows)
    head = {"name": name, "data": study.config.data, "chance": chance}
    write_json(out / "study.json", {**head, "rows": list(rows)})
    write_whole(out / "study.csv", table_csv(rows).encode())
    write_whole(out / "table.md", table_markdown(name, rows, parts).encode())
    picture = plot(name, parts, columns, chance)
    write_whole(out / "plot.svg", picture.encode())
    page = Page(
        name=name,
        data=study.config.data,
        caption=caption(rows),
        columns=columns,
        sections=parts,
        plot=picture,
        finished=sum("failed" not in row for row in rows),
        planned=len(study.tasks),
        source=source,
        configs=[(cell, _settings(config)) for cell, config in study.config.cells.items()],
        versions=_versions(rows),
    )
    write_whole(out / "study.html", render(page).encode("utf-8", "replace"))


def _settings(cell: CellConfig) -> str:
    return yaml.safe_dump(cell.model_dump(mode="json", exclude_defaults=True), sort_keys=False)


def _versions(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """What the runs ran with; several values where runs differ."""
    found: dict[str, dict[str, None]] = {}
    for row in rows:
        for name, value in row.get("versions", {}).items():
            if name == "packages":
                words = ", ".join(f"{package} {number}" for package, number in value.items())
            else:
                words = str(value)
            if name != "started":
                found.setdefault(name, {})[words] = None
    return [(name.replace("_", " "), "; ".join(values)) for name, values in found.items()]
