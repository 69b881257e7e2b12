"""The cells of a study: what each is, where it lies, and whether it is finished.

DIR/cells/NAME-sSEED/   a run directory; its result.json, written last, marks it finished
DIR/cache/              rendered clips that all cells are probed and tuned on
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from m3video.config import CellConfig, PretrainConfig, ProbeConfig, StudyConfig, StudyFinetune
from m3video.errors import ConfigError
from m3video.model.checkpoint import read_json
from m3video.recipes import merge, recipe_config
from m3video.train.run import MAY_DIFFER, flatten
from m3video.video.moving_shapes import CLASSES

MOVING_SHAPES = "moving-shapes"
# What makes no difference to what an untrained encoder or the videos' metadata say.
_ENCODER = ("clip.", "model.size", "train.seed")
# How the work is done, not what it is.
_PROBE_MAY_DIFFER = frozenset({"init", "out", "batch", "workers", "device"})


@dataclass(frozen=True)
class Task:
    """A cell with a seed: all that is needed to run it, in this process or another.

    Attributes:
        cell: name of the cell.
        seed: of the pre-training and of the fine-tuning.
        group: title of the table it stands in.
        kind: pretrained, untrained or metadata.
        pretrain: its run; `out` is where it lies.
        probe: how it is probed.
        finetune: how it is fine-tuned.
        cache: folder of the rendered clips; None where it is probed on videos.
    """

    cell: str
    seed: int
    group: str
    kind: str
    pretrain: PretrainConfig
    probe: ProbeConfig
    finetune: StudyFinetune | None
    cache: Path | None

    @property
    def name(self) -> str:
        """NAME-sSEED."""
        return self.pretrain.out.name

    @property
    def path(self) -> Path:
        """The run directory."""
        return self.pretrain.out

    @property
    def result(self) -> Path:
        """What marks it finished."""
        return self.path / "result.json"

    def settings(self) -> dict[str, Any]:
        """Everything that its numbers hang on, flat; kept in result.json."""
        run = flatten(self.pretrain.model_dump(mode="json"))
        run = {name: value for name, value in run.items() if name not in MAY_DIFFER}
        if self.kind == "untrained":
            run = {name: value for name, value in run.items() if name.startswith(_ENCODER)}
        if self.kind == "metadata":
            run = {}
        probe = self.probe.model_dump(mode="json", exclude=set(_PROBE_MAY_DIFFER))
        tune = {} if self.finetune is None else self.finetune.model_dump(mode="json")
        if self.kind == "metadata":
            tune = {}
        return {
            "kind": self.kind,
            **run,
            **{f"probe.{name}": value for name, value in probe.items()},
            **{f"finetune.{name}": value for name, value in {"labels": [], **tune}.items()},
        }


@dataclass(frozen=True)
class Study:
    """A study in a folder."""

    config: StudyConfig
    out: Path
    tasks: list[Task] = field(default_factory=list)

    @property
    def cache(self) -> Path:
        """Rendered clips."""
        return self.out / "cache"

    def finished(self) -> dict[str, dict[str, Any]]:
        """The results of the cells that are finished, by name.

        Raises:
            ConfigError: one was made with other settings than the study now says.
            CheckpointError: a result.json is broken.
        """
        return {task.name: _checked(task) for task in self.tasks if task.result.exists()}

    def chosen(self, only: Sequence[str]) -> list[Task]:
        """The tasks of some cells (or NAME-sSEED), all where none is named.

        Raises:
            ConfigError: a name that is none of a cell.
        """
        known = {task.cell for task in self.tasks} | {task.name for task in self.tasks}
        for name in only:
            if name not in known:
                raise ConfigError(
                    f"--only {name}: no such cell; there are {', '.join(self.config.cells)}"
                )
        return [t for t in self.tasks if not only or t.cell in only or t.name in only]


def open_study(config: StudyConfig, out: Path) -> Study:
    """Resolve and check every cell of a study; nothing is run or written.

    Raises:
        ConfigError: settings of a cell that are not allowed, or `out` holds another thing.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out}: a file, not a directory; choose another --out")
    if out.is_dir() and any(out.iterdir()) and not (out / ".gitignore").exists():
        raise ConfigError(f"{out}: not empty, and holds no study; choose another --out")
    if config.finetune is not None:
        most = max(config.finetune.labels) * len(CLASSES)
        if most > config.probe_config(out).train_clips:
            raise ConfigError(
                f"finetune.labels: {max(config.finetune.labels)} clips of {len(CLASSES)} classes "
                f"are more than there are to train on; set probe.train_clips to {most} or more"
            )
    tasks = [
        _task(config, name, cell, seed, out)
        for name, cell in config.cells.items()
        for seed in cell.seeds or config.seeds
    ]
    twice = {task.name for task in tasks if [t.name for t in tasks].count(task.name) > 1}
    if twice:
        raise ConfigError(f"two cells would both lie in cells/{sorted(twice)[0]}: rename one")
    return Study(config, out, tasks)


def _task(config: StudyConfig, name: str, cell: CellConfig, seed: int, out: Path) -> Task:
    path = out / "cells" / f"{name}-s{seed}"
    changes = merge(merge(config.base, cell.settings), {"train": {"seed": seed}})
    try:
        run = recipe_config(cell.recipe, data=config.data, out=path, changes=changes)
    except ConfigError as error:
        raise ConfigError(f"cell {name}: {error}") from error
    probe = config.probe_config(path)
    return Task(
        cell=name,
        seed=seed,
        group=cell.group,
        kind=cell.kind,
        pretrain=run,
        probe=probe,
        finetune=config.finetune,
        cache=out / "cache" if probe.data == MOVING_SHAPES else None,
    )


def _checked(task: Task) -> dict[str, Any]:
    """The result of a finished task, if it is one of these settings.

    A setting that only one side knows (another version wrote the other) is not compared.
    """
    result: dict[str, Any] = read_json(task.result)
    before, now = result.get("settings", {}), task.settings()
    for name, value in now.items():
        if name in before and before[name] != value:
            raise ConfigError(
                f"cell {task.name} is finished, with {name} {before[name]!r}, and the study says "
                f"{value!r}: remove {task.path} to run it again, or use another --out"
            )
    return result
