"""The cells of a study: what each is, where it lies, and whether it is finished.

DIR/cells/NAME-sSEED/   a run directory; its result.json, written last, marks it finished
DIR/cache/              rendered clips that all cells are probed and tuned on
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from m3video.config import (
    CellConfig,
    PretrainConfig,
    ProbeConfig,
    StudyConfig,
    StudyFinetune,
    load_pretrain_config,
)
from m3video.errors import CellError, CheckpointError, ConfigError, M3VideoError
from m3video.model.checkpoint import read_json
from m3video.recipes import merge, recipe_config
from m3video.train.run import MAY_DIFFER, RunDirectory, flatten
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
        run = _run_settings(self.pretrain)
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

    def finished(self, chosen: Sequence[Task]) -> tuple[dict[str, dict[str, Any]], list[str]]:
        """What is known before anything is run.

        Args:
            chosen: the tasks that are to be run.

        Returns:
            The results of the cells that are finished, by name; and why others, which are finished
            too and not chosen, are of no use.

        Raises:
            ConfigError: a chosen one was made, or begun, with other settings than the study says.
            CheckpointError: the result.json of a chosen one is broken.
        """
        results, left_out = {}, []
        names = {task.name for task in chosen}
        for task in self.tasks:
            try:
                if task.result.exists():
                    results[task.name] = _checked(task)
                elif task.name in names:
                    _check_begun(task)
            except M3VideoError as error:
                if task.name in names:
                    raise
                left_out.append(str(error))
        return results, left_out

    def chosen(self, only: Sequence[str] | None = None) -> list[Task]:
        """The tasks of some cells, or single ones by NAME-sSEED; all of them for None.

        A name that is both is the cell's.

        Raises:
            ConfigError: no name, or one of no cell.
        """
        if only is None:
            return self.tasks
        cells = ", ".join(self.config.cells)
        if not only:
            raise ConfigError(f"--only: names of cells are wanted; there are {cells}")
        wanted: set[str] = set()
        for name in only:
            found = {task.name for task in self.tasks if task.cell == name}
            found = found or {task.name for task in self.tasks if task.name == name}
            if not found:
                raise ConfigError(f"--only {name}: no such cell; there are {cells}")
            wanted |= found
        return [task for task in self.tasks if task.name in wanted]


def open_study(config: StudyConfig, out: Path) -> Study:
    """Resolve and check every cell of a study; nothing is run or written.

    Raises:
        CellError: settings of a cell that are not allowed.
        ConfigError: `out` holds another thing.
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
    return Study(config, out, tasks)


def _task(config: StudyConfig, name: str, cell: CellConfig, seed: int, out: Path) -> Task:
    path = out / "cells" / f"{name}-s{seed}"
    changes = merge(merge(config.base, cell.settings), {"train": {"seed": seed}})
    try:
        run = recipe_config(cell.recipe, data=config.data, out=path, changes=changes)
    except ConfigError as error:
        raise CellError(f"cell {name}: {error}") from error
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


def read_result(path: Path) -> dict[str, Any]:
    """The result.json of a cell.

    Raises:
        CheckpointError: broken, or something else.
    """
    again = f"remove {path.parent} to run the cell again"
    try:
        result = read_json(path)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; {again}") from error
    found: dict[str, Any] = result if isinstance(result, dict) else {}
    maps = all(isinstance(found.get(name), dict) for name in ("settings", "probe"))
    if not maps or not isinstance(found.get("seconds"), int | float):
        raise CheckpointError(f"{path}: not a result with settings, probe and seconds; {again}")
    return found


def _checked(task: Task) -> dict[str, Any]:
    """The result of a finished task, if it is one of these settings."""
    result = read_result(task.result)
    _compare(task, "finished", result["settings"], task.settings())
    return result


def _check_begun(task: Task) -> None:
    """Refuse to go on with a pre-training of other settings, before anything is run."""
    run = RunDirectory(task.path)
    if task.kind != "pretrained" or not task.path.exists():
        return
    if not run.config.exists():
        if any(task.path.iterdir()):
            raise ConfigError(
                f"cell {task.name}: {task.path} holds no pre-training (no config.yaml): remove it "
                "to run the cell again, or use another --out"
            )
        return
    before = _run_settings(load_pretrain_config(run.config))
    _compare(task, "begun", before, _run_settings(task.pretrain))


def _run_settings(config: PretrainConfig) -> dict[str, Any]:
    """What a pre-training computes hangs on these, flat."""
    run = flatten(config.model_dump(mode="json"))
    return {name: value for name, value in run.items() if name not in MAY_DIFFER}


def _compare(task: Task, state: str, before: dict[str, Any], now: dict[str, Any]) -> None:
    """A setting that only one side knows (another version wrote the other) is not compared."""
    for name, value in now.items():
        if name in before and before[name] != value:
            raise ConfigError(
                f"cell {task.name} is {state}, with {name} {before[name]!r}, and the study says "
                f"{value!r}: remove {task.path} to run it again, or use another --out"
            )
