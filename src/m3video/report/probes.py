"""What the probes of a run measured: bars, a table of few labels, confusion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m3video.report.facts import read_json_or_none
from m3video.train.evaluate import KIND_NAMES


@dataclass(frozen=True)
class Bar:
    """An accuracy; `share` of the bar's whole length, 0 to 1."""

    name: str
    text: str
    share: float
    note: str = ""
    """Of the name: how many videos it is of."""


@dataclass(frozen=True)
class Bars:
    """Accuracies against chance."""

    rows: list[Bar]
    chance: Bar | None


@dataclass(frozen=True)
class FewShotTable:
    """Accuracies with few labels, in per cent: mean ± standard error over the draws."""

    shots: list[str]
    rows: list[tuple[str, list[str]]]
    draws: int


@dataclass(frozen=True)
class Confusion:
    """Of one kind of probe: for each true label the counts of the predicted ones."""

    kind: str
    labels: list[str]
    rows: list[tuple[str, list[dict[str, float]]]]


@dataclass(frozen=True)
class ProbeSection:
    """One probe's numbers."""

    title: str
    note: str
    rows: list[Bar]
    chance: Bar | None
    few: FewShotTable | None
    confusions: list[Confusion]


def bar(name: str, accuracy: float, whole: float) -> Bar:
    """A bar for an accuracy between 0 and 1, where `whole` fills its track."""
    return Bar(name, f"{100 * accuracy:.1f} %", min(max(accuracy / whole, 0.0), 1.0))


def _whole(accuracies: Sequence[float]) -> float:
    """Full length of the bars: 1, or a half or a quarter where all are smaller."""
    return next(
        whole for whole in (0.25, 0.5, 1.0) if max(accuracies) <= 0.92 * whole or whole == 1
    )


def comparison(run: Path) -> Bars | None:
    """The bars of comparison.json, in its order."""
    found = read_json_or_none(run / "comparison.json")
    if not found or not isinstance(found.get("bars"), dict) or not found["bars"]:
        return None
    chance = found.get("chance")
    known = [float(value) for value in found["bars"].values()]
    whole = _whole(known + ([float(chance)] if chance is not None else []))
    rows = [bar(str(name), float(value), whole) for name, value in found["bars"].items()]
    return Bars(rows, None if chance is None else bar("chance", float(chance), whole))


def probe_sections(run: Path) -> list[ProbeSection]:
    """One section for each probe*.json that holds a probe's numbers."""
    found = [(path, read_json_or_none(path)) for path in sorted(run.glob("probe*.json"))]
    return [
        _section(path, result)
        for path, result in found
        if result is not None and "chance" in result and KIND_NAMES.keys() & result.keys()
    ]


def _section(path: Path, result: dict[str, Any]) -> ProbeSection:
    measured = {name: result[kind] for kind, name in KIND_NAMES.items() if kind in result}
    whole = _whole([*measured.values(), result["chance"]])
    clips = result.get("clips") or {}
    untrained = ", untrained weights" if result.get("untrained") else ""
    counts = [str(int(result[key])) + " classes" for key in ("classes",) if key in result]
    counts += [f"{int(clips[part]):,} {part} videos" for part in ("train", "test") if part in clips]
    return ProbeSection(
        title=f"{result.get('data', path.stem)}{untrained}",
        note=", ".join(counts) + f". From {path.name}.",
        rows=[bar(name, accuracy, whole) for name, accuracy in measured.items()],
        chance=bar("chance", result["chance"], whole),
        few=_few_shot(result.get("few_shot") or {}),
        confusions=_confusions(result),
    )


def _few_shot(found: dict[str, dict[str, dict[str, Any]]]) -> FewShotTable | None:
    kinds = [kind for kind in KIND_NAMES if kind in found]
    if not kinds:
        return None
    shots = list(found[kinds[0]])
    rows = [
        (
            KIND_NAMES[kind],
            [f"{100 * at['mean']:.1f} ± {100 * at['error']:.1f}" for at in found[kind].values()],
        )
        for kind in kinds
    ]
    return FewShotTable(shots, rows, len(found[kinds[0]][shots[0]]["accuracies"]))


def _confusions(result: dict[str, Any]) -> list[Confusion]:
    """Those of the linear and of the attentive probe that the result holds."""
    keys = {"linear probe": "confusion", "attentive probe": "attentive_confusion"}
    return [
        _confusion(kind, result.get("labels"), result[key])
        for kind, key in keys.items()
        if result.get(key)
    ]


def _confusion(kind: str, names: list[object] | None, matrix: list[list[int]]) -> Confusion:
    labels = [str(label) for label in names or range(len(matrix))]
    rows = [
        [{"count": count, "share": count / max(sum(counts), 1)} for count in counts]
        for counts in matrix
    ]
    return Confusion(kind, labels, list(zip(labels, rows, strict=False)))
