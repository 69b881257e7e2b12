"""The confusion of a classifier as a picture: rows are the truth, columns what was predicted.

A cell's darkness is the share of its row, so a class of few videos is as visible as one of many.
Up to `NAMED` classes are named and their shares written; of more, only the cells are drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from m3video.model.checkpoint import read_json
from m3video.train.classified import CONFUSION
from m3video.whole import write_whole

PICTURE = "confusion.svg"
NAMED = 60
"""More names than these cannot be read beside the picture."""
WRITTEN = 30
"""More classes than these leave no room for the shares in the cells."""
LETTER = 6.6
"""Pixels of a letter of a name, widest likely."""
TITLE, GAP = 40, 8


def write_confusion(folder: Path) -> Path:
    """Draw the confusion.json of an evaluation's folder, as confusion.svg beside it.

    Raises:
        CheckpointError: there is none.
    """
    found = read_json(folder / CONFUSION)
    place = folder / PICTURE
    write_whole(place, confusion_svg(found["labels"], found["counts"]).encode())
    return place


def confusion_svg(labels: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """The picture.

    Args:
        labels: names of the C classes.
        counts: C rows (truth) of C columns (predicted).
    """
    classes = len(labels)
    cell = max(2, min(34, 900 // classes))
    named = classes <= NAMED
    margin = GAP + round(LETTER * max(map(len, labels))) if named else 24
    left, top = margin + 20, TITLE + margin
    side = cell * classes
    width, height = left + side + 20, top + side + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" font-family="system-ui, sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        f'<text x="{left + side / 2}" y="18" text-anchor="middle">predicted</text>',
        f'<text transform="translate(14 {top + side / 2}) rotate(-90)" '
        'text-anchor="middle">truth</text>',
        *_cells(labels, counts, left, top, cell),
        f'<rect x="{left}" y="{top}" width="{side}" height="{side}" fill="none" stroke="#888"/>',
    ]
    if named:
        parts += _names(labels, left, top, cell)
    return "\n".join([*parts, "</svg>\n"])


def _cells(
    labels: Sequence[str], counts: Sequence[Sequence[int]], left: int, top: int, cell: int
) -> Iterator[str]:
    """A square for each pair that occurs, and a grey bar for a class without videos."""
    written = len(labels) <= WRITTEN and cell >= 24
    for row, of_row in enumerate(counts):
        total = sum(of_row)
        y = top + row * cell
        if not total:
            yield (
                f'<rect x="{left}" y="{y}" width="{cell * len(labels)}" height="{cell}" '
                f'fill="#eee"><title>{escape(labels[row])}: no videos</title></rect>'
            )
        for column, count in enumerate(of_row):
            if not count:
                continue
            share, x = count / total, left + column * cell
            said = f"{labels[row]} → {labels[column]}: {count} of {total}"
            # Right answers are blue, wrong ones red.
            colour = "#1f5fa8" if row == column else "#b3261e"
            yield (
                f'<rect x="{x}" y="{y}" width="{cell}" height="{cell}" fill="{colour}" '
                f'fill-opacity="{0.08 + 0.92 * share:.3f}"><title>{escape(said)}</title></rect>'
            )
            if written:
                ink = "#fff" if share > 0.5 else "#222"
                yield (
                    f'<text x="{x + cell / 2}" y="{y + cell / 2 + 4}" text-anchor="middle" '
                    f'font-size="11" fill="{ink}" pointer-events="none">{100 * share:.0f}</text>'
                )


def _names(labels: Sequence[str], left: int, top: int, cell: int) -> Iterator[str]:
    size = min(12, cell)
    for number, label in enumerate(labels):
        middle = number * cell + cell / 2
        yield (
            f'<text x="{left - GAP}" y="{top + middle + size / 3:.1f}" text-anchor="end" '
            f'font-size="{size}">{escape(label)}</text>'
        )
        yield (
            f'<text transform="translate({left + middle + size / 3:.1f} {top - GAP}) rotate(-90)" '
            f'font-size="{size}">{escape(label)}</text>'
        )
