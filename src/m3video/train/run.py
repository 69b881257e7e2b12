"""A run directory: what was asked, where it ran, what it measured.

config.yaml       the resolved config; written last of the first four, so it marks a run
environment.json  versions and machine; one more entry under `resumed` for each resumption
manifest.csv      the videos of the run; resuming reads it, so nothing is scanned again
boxes.csv         the key frames of a detector; resuming reads it
unreadable.csv    files that could not be read, and why
metrics.jsonl     one line a logged step; tensorboard/ holds the same
checkpoints/, last, model/: see `m3video.train.checkpoint`
"""

from __future__ import annotations

import csv
import io
import json
import os
import shlex
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from torch.utils.tensorboard import SummaryWriter

from m3video.config import (
    DetectTrainConfig,
    FinetuneConfig,
    PretrainConfig,
    load_config,
    save_config,
)
from m3video.errors import CheckpointError, ConfigError, NotWrittenError
from m3video.model.checkpoint import read_json
from m3video.train.environment import describe_environment
from m3video.train.world import launch_id
from m3video.video.manifest import Manifest, write_manifest
from m3video.whole import write_json, write_whole, written_whole

MAY_DIFFER = frozenset(
    {
        "resume",
        "out",
        "devices",
        "train.device",
        "train.strategy",
        "train.recompute",
        "train.workers",
        "train.checkpoint_every",
        "train.keep",
        "train.log_every",
        "train.max_bad_steps",
        "train.max_unreadable",
        "train.stall_seconds",
    }
)
"""Settings that do not change what is computed, so a resumed run may change them.

Another device rounds otherwise; torch's threads stay those of the run's start.
"""

RunConfig = PretrainConfig | FinetuneConfig | DetectTrainConfig
C = TypeVar("C", PretrainConfig, FinetuneConfig, DetectTrainConfig)
Metrics = dict[str, float | int | None]


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the errors of the file system into one that names a file.

    Raises:
        NotWrittenError: for any OSError; it names `path` where the error names none.
    """
    try:
        yield
    except OSError as error:
        where, why = error.filename or path, error.strerror or error
        raise NotWrittenError.of(f"{where}: cannot be written: {why}", error) from error


class RunDirectory:
    """The files of a run in `path`, and the rules for starting and resuming one there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.environment = path / "environment.json"
        self.manifest = path / "manifest.csv"
        self.unreadable = path / "unreadable.csv"
        self.metrics = path / "metrics.jsonl"
        self.tensorboard = path / "tensorboard"
        self.checkpoints = path / "checkpoints"
        self.last = path / "last"
        self.model = path / "model"

    @property
    def resume_options(self) -> str:
        """What to give the verb to go on with this run."""
        return f"--resume --out {shlex.quote(str(self.path))}"

    def check_free(self) -> None:
        """Refuse a path that holds something already.

        Raises:
            ConfigError: a file, a directory that is not empty, or one that cannot be written to.
        """
        if self.path.exists() and not self.path.is_dir():
            raise ConfigError(f"{self.path}: a file, not a directory; choose another --out")
        if self.config.exists():
            raise ConfigError(
                f"{self.path}: already holds a run; go on with it by --resume, or choose another "
                "--out"
            )
        if self.path.exists() and any(self.path.iterdir()):
            raise ConfigError(f"{self.path}: not empty; choose another --out, or empty it first")
        above = next(
            place for place in (self.path, *self.path.absolute().parents) if place.exists()
        )
        if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
            raise ConfigError(f"{self.path}: {above} cannot be written to; choose another --out")

    def opened(self, config: C) -> C:
        """Check that a run can start here, or go on; gives the config to go on with.

        Processes that torchrun starts again, in place of some that failed, go on with the run that
        it began, whatever was asked.

        Raises:
            CheckpointError, ConfigError: as `check_free` and `check_resume`.
        """
        if self.config.exists() and self._is_of(launch_id()):
            config = config.model_copy(update={"resume": True})
        if config.resume:
            self.check_resume(config)
        else:
            self.check_free()
        return config

    def _is_of(self, launch: str | None) -> bool:
        """Whether the run was begun by this torchrun."""
        if launch is None or not self.environment.exists():
            return False
        return bool(read_json(self.environment).get("launch") == launch)

    def check_resume(self, config: RunConfig) -> None:
        """Refuse to resume where there is no run, or with settings that would make it another one.

        Raises:
            CheckpointError: no run there.
            ConfigError: a setting differs from the run's, and is not in `MAY_DIFFER`.
        """
        if not self.config.exists():
            raise CheckpointError(
                f"{self.path}: no run to resume (no config.yaml); leave out --resume to start one"
            )
        before = flatten(load_config(type(config), self.config).model_dump(mode="json"))
        now = flatten(config.model_dump(mode="json"))
        for name, value in now.items():
            if name not in MAY_DIFFER and value != before[name]:
                raise ConfigError(
                    f"--resume: {name} is {value!r}, the run in {self.path} has {before[name]!r}; "
                    f"resume with `{self.resume_options}`, or start a new run with --init"
                )

    def create(self, config: RunConfig, manifest: Manifest | None, device: str) -> None:
        """Write the files that describe a run that is about to start."""
        self.path.mkdir(parents=True, exist_ok=True)
        if manifest is not None:
            write_manifest(manifest, self.manifest)
            self.write_unreadable({str(entry.path): entry.reason for entry in manifest.unreadable})
        facts = {**describe_environment(device), "launch": launch_id(), "resumed": []}
        write_json(self.environment, facts)
        self.write_config(config)

    def write_config(self, config: RunConfig) -> None:
        """Write config.yaml, whole, as it is given back with --config."""
        with written_whole(self.config) as aside:
            save_config(config.model_copy(update={"resume": False}), aside)

    def note_resumption(self, config: RunConfig, step: int, device: str) -> None:
        """Write down that a run goes on, where, and with which of the settings that may differ."""
        entry = {"step": step, **describe_environment(device)}
        before = json.loads(self.environment.read_text()) if self.environment.exists() else {}
        resumed = [*before.get("resumed", []), entry]
        with writing(self.path):
            self.write_config(config)
            write_json(self.environment, {**before, "resumed": resumed})

    def threads(self) -> int | None:
        """Torch's CPU threads when the run was started; None where nobody wrote it down."""
        if not self.environment.exists():
            return None
        found = read_json(self.environment).get("torch_threads")
        return found if isinstance(found, int) and found > 0 else None

    def losses(self) -> list[float]:
        """The loss of each logged step that was taken, in order; empty where nothing is logged."""
        lines = self.metrics.read_bytes().splitlines() if self.metrics.exists() else []
        rows = [json.loads(line) for line in lines if _step_of(line) < float("inf")]
        return [row["loss"] for row in rows if row["loss"] is not None]

    def read_unreadable(self) -> dict[str, str]:
        """Path → reason, as `write_unreadable` wrote it; empty when there is no file."""
        if not self.unreadable.exists():
            return {}
        with self.unreadable.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            return {row["path"]: row["reason"] for row in csv.DictReader(file)}

    def write_unreadable(self, reasons: Mapping[str, str]) -> None:
        """Write unreadable.csv, whole: path, reason."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("path", "reason"))
        writer.writerows(sorted(reasons.items()))
        with writing(self.unreadable):
            write_whole(self.unreadable, text.getvalue().encode("utf-8", "surrogateescape"))


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as {"train.batch": 256, …}."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        inner = (
            flatten(value, f"{prefix}{name}.")
            if isinstance(value, dict)
            else {prefix + name: value}
        )
        flat.update(inner)
    return flat


class MetricsLog:
    """metrics.jsonl and TensorBoard, cut back to a step and then appended to.

    Raises:
        NotWrittenError: by all methods.
    """

    def __init__(self, run: RunDirectory, step: int) -> None:
        self._run = run
        self._hook = threading.excepthook
        lines = run.metrics.read_bytes().splitlines() if run.metrics.exists() else []
        kept = [line for line in lines if _step_of(line) <= step]
        with writing(run.metrics):
            write_whole(run.metrics, b"".join(line + b"\n" for line in kept))
            self._file = run.metrics.open("a")
        with writing(run.tensorboard):
            self._board = SummaryWriter(
                str(run.tensorboard), purge_step=step + 1 if lines else None, flush_secs=30
            )

    def write(self, metrics: Metrics) -> None:
        """Append one line; a null in it means that there was no finite value."""
        with writing(self._run.metrics):
            self._file.write(json.dumps(metrics, allow_nan=False) + "\n")
            self._file.flush()
        step = metrics["step"]
        assert isinstance(step, int)
        with writing(self._run.tensorboard):
            for name, value in metrics.items():
                if name != "step" and value is not None:
                    self._board.add_scalar(name, value, step)

    def sync(self) -> None:
        """Have the lines on the disk, before a checkpoint that says they are."""
        with writing(self._run.metrics):
            os.fsync(self._file.fileno())
        with writing(self._run.tensorboard):
            self._board.flush()

    def __enter__(self) -> Self:
        threading.excepthook = self._in_a_thread
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for path, close in (
            (self._run.metrics, self._file.close),
            (self._run.tensorboard, self._board.close),
        ):
            try:
                with writing(path):
                    close()
            except NotWrittenError:
                if error is None:
                    raise
        threading.excepthook = self._hook

    def _in_a_thread(self, what: threading.ExceptHookArgs) -> None:
        """TensorBoard writes in a thread, and raises here what fails there; once is enough."""
        if not isinstance(what.exc_value, OSError):
            self._hook(what)


def _step_of(line: bytes) -> float:
    """The step of a line, or infinity where it was cut off while it was written."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
