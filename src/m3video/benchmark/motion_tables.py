"""The tables of `benchmark motion`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from m3video.benchmark.accuracy import DURATIONS, LENGTHS, OUTLIERS, RANGES, THRESHOLDS

_LABELS = {
    "mme": "all of recipe mme",
    "tracks": "flow and tracks, once",
    "hog": "hog (grid, rgb)",
    "flow": "flow (target, after flow)",
    "hof": "hof (after flow)",
    "mbh": "mbh (after flow)",
}
_NOT_MEASURED = "not measured"


def print_table(result: dict[str, Any]) -> None:
    """Show what `benchmark_motion` found."""
    console = Console()
    console.print(_cost(result))
    console.print(_gpu(result["gpu"]))
    console.print(_motion(result))
    console.print(_tracks(result))
    console.print(_visibility(result))
    console.print(_camera(result["camera"]))
    if result["flow_epe"]:
        console.print(_pairs(result))
    else:
        console.print("No pairs with known flow were given: --flow FOLDER")
    for name, reason in result["missing"].items():
        console.print(f"{name}: {_NOT_MEASURED}: {reason}", highlight=False, markup=False)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    return table


def _pixels(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _aligned(cells: Iterable[str]) -> str:
    return " ".join(f"{cell:>3}" for cell in cells)


def _cost(result: dict[str, Any]) -> Table:
    height, width = result["frame_size"]
    small, large = (f"ViT-{result[key].upper()}" for key in ("size", "size_b"))
    table = _table(
        f"Cost of one clip of {height}×{width}, one CPU thread. A training step: "
        f"{small} {result['step_seconds']:.2f} s, {large} {result['step_seconds_b']:.2f} s",
        "",
        "ms / clip",
        f"share of a\n{small} step",
        f"share of a\n{large} step",
    )
    for group in ("targets", "estimators"):
        for name, row in result[group].items():
            label = f"{name} (after tracks)" if name.startswith("trajectory") else name
            table.add_row(
                _LABELS.get(name, label),
                f"{1e3 * row['seconds']:.1f}",
                f"{row['share_of_step']:.1%}",
                f"{row['share_of_step_b']:.1%}",
            )
        table.add_section()
    return table


def _gpu(figures: dict[str, Any] | None) -> Table:
    table = _table("On a GPU", "", "")
    table.show_header = False
    shown = ("batched, clips / s", "batched, ms / clip", "targets of mme, share of the step")
    if figures is None:
        for label in shown:
            table.add_row(label, _NOT_MEASURED)
        return table
    table.title = (
        f"On {figures['device']}, batches of {figures['batch']}. A training step of "
        f"ViT-{figures['size'].upper()} in bf16: {figures['step_seconds']:.3f} s"
    )
    values = (
        f"{figures['clips_per_second']:.1f}",
        f"{figures['ms_per_clip']:.1f}",
        f"{figures['targets_share_of_step']:.1%}",
    )
    for label, value in zip(shown, values, strict=True):
        table.add_row(label, value)
    return table


def _motion(result: dict[str, Any]) -> Table:
    table = _table(
        f"Moving shapes, {result['scenes']} scenes at each of {len(DURATIONS)} speeds: seeds that "
        "can truly be seen for L steps, by how far they truly go a step: mean / largest in pixels "
        "/ how many seeds",
        "px a step",
        *(f"L = {length}" for length in LENGTHS),
    )
    for kind, (low, high) in RANGES.items():
        each = (result["seed_motion"][kind][str(length)] for length in LENGTHS)
        cells = (f"{_pixels(t['mean'])} / {_pixels(t['max'])} / {t['seeds']}" for t in each)
        table.add_row(f"{kind} {low:g}–{high:g}", *cells)
    return table


def _tracks(result: dict[str, Any]) -> Table:
    limits = " ".join(f"<{pixels}" for pixels in THRESHOLDS)
    table = _table(
        f"Those seeds after L steps: mean pixels from the truth, and % of them {limits} px from it",
        "",
        *(column for length in LENGTHS for column in (f"L = {length}", limits)),
    )
    for kind in RANGES:
        table.add_row(kind, style="bold")
        for name, ranges in result["seed_error"].items():
            within = result["within_px"][name][kind]
            cells = []
            for length in map(str, LENGTHS):
                shares = (_percent(within[length][str(pixels)]) for pixels in THRESHOLDS)
                cells += [_pixels(ranges[kind][length]), _aligned(shares)]
            table.add_row(f"  {name}", *cells)
        table.add_section()
    return table


def _visibility(result: dict[str, Any]) -> Table:
    table = _table(
        f"Visibility after {result['visibility_length']} steps, by flow forward and back (and by "
        "being in the frame): % of what is said that is so (precision), and of what is so that is "
        f"said (recall). Truly hidden: {result['hidden_share']:.1%} of the seeds",
        "",
        *(
            f"{what}\n{score}"
            for what in ("visible", "hidden")
            for score in ("precision", "recall")
        ),
    )
    for name, scores in result["visibility"].items():
        cells = [
            f"{_share(scores[key])} ({_share(scores['frame'][key])})"
            for key in ("precision", "recall", "hidden_precision", "hidden_recall")
        ]
        table.add_row(name, *cells)
    return table


def _camera(camera: dict[str, dict[str, float | None]]) -> Table:
    table = _table(
        "The camera's motion: pixels a step that the still background goes",
        "flow",
        "truly, with the camera",
        "camera removed",
        "error of the flow",
    )
    for name, row in camera.items():
        cells = (row[key] for key in ("before", "after", "flow_error"))
        table.add_row(name, *("–" if cell is None else f"{cell:.3f}" for cell in cells))
    return table


def _pairs(result: dict[str, Any]) -> Table:
    pairs = sorted({pair for errors in result["flow_epe"].values() for pair in errors})
    limits = " ".join(f">{pixels}" for pixels in OUTLIERS)
    table = _table(
        "Pairs with known flow: mean end-point error in pixels, over all / at seeds, and % "
        f"of the pixels that miss by {limits} px",
        "",
        *(column for pair in pairs for column in (pair, limits)),
    )
    for name, errors in result["flow_epe"].items():
        cells = []
        for pair in pairs:
            shares = result["flow_outliers"][name][pair]
            outliers = (_percent(shares[str(pixels)]) for pixels in OUTLIERS)
            at_seeds = _pixels(result["flow_epe_seeds"][name][pair])
            cells += [f"{_pixels(errors[pair])} / {at_seeds}", _aligned(outliers)]
        table.add_row(name, *cells)
    return table
