"""The loop of a run: next batch, step, log, checkpoint; all else is about ending well.

- A run that is killed and resumed repeats the uninterrupted one, on a CPU bit for bit: batch,
  learning rate and seed of a step depend on the config and the step's number alone.
- A step whose loss or gradient is not finite is skipped and counted; several in a row end the run.
- A video that cannot be read is named once, counted and replaced by the loader; too many end it.
"""

from __future__ import annotations

import itertools
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from rich.console import Console
from torch import nn, optim

from m3video.errors import (
    ConfigError,
    DivergedError,
    RunFailedError,
    TooManyUnreadableError,
    VideoError,
)
from m3video.train.checkpoint import (
    TrainState,
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
)
from m3video.train.interrupt import Interrupt
from m3video.train.optim import Schedule, steps_per_epoch, total_steps
from m3video.train.progress import Clock, Display
from m3video.train.run import MetricsLog, RunConfig, RunDirectory
from m3video.train.step import StepResult
from m3video.video.loader import Clips, ClipSource, Prepare, make_loader
from m3video.video.manifest import Manifest
from m3video.video.walk import absolute as whole_path


class Steps(Protocol):
    """How a model takes a step; `model` and `optimizer` are what a checkpoint holds."""

    @property
    def model(self) -> nn.Module: ...

    @property
    def optimizer(self) -> optim.Optimizer: ...

    @property
    def device(self) -> torch.device: ...

    def step(self, clips: Clips, number: int, rate: float) -> StepResult:
        """Train on a batch; leave the model alone if loss or gradient is not finite."""
        ...


@dataclass(frozen=True)
class Data:
    """What a run trains on.

    Attributes:
        source: its clips.
        prepare: what a data worker does with each.
        manifest: its videos; None where the clips are rendered, or listed elsewhere.
        files: how many files the clips are read from; None: one each.
    """

    source: ClipSource
    prepare: Prepare
    manifest: Manifest | None
    files: int | None = None


def worker_ended(error: Exception) -> RunFailedError:
    return RunFailedError(
        f"a data worker ended, for want of memory most likely ({error}): use fewer "
        "train.workers or a smaller train.batch"
    )


def say(console: Console, line: str) -> None:
    """Print a line as it is."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def absolute(manifest: Manifest) -> Manifest:
    """Paths as they are from anywhere: a resumed run must know an unreadable video again."""
    return Manifest(
        tuple(replace(video, path=Path(whole_path(video.path))) for video in manifest.videos),
        tuple(replace(entry, path=Path(whole_path(entry.path))) for entry in manifest.unreadable),
    )


@contextmanager
def cores_shared(device: torch.device, workers: int, before: int | None) -> Iterator[None]:
    """On a CPU, leave a core to each data worker: more threads than cores wait for each other.

    A resumed run keeps the number it had `before`: sums are rounded otherwise with another one.
    """
    threads = torch.get_num_threads()
    if device.type == "cpu":
        cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
        torch.set_num_threads(before or min(threads, max(1, cores - workers)))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def next_batch(batches: Iterator[Clips]) -> Clips:
    """The next batch; the error of a data worker comes without the worker's traceback.

    Raises:
        ConfigError: frames that do not suit what finds the motion.
        VideoError: a clip and those that could take its place cannot be read.
        RunFailedError: a worker was killed.
    """
    try:
        return next(batches)
    except (ConfigError, VideoError) as error:
        kind = type(error)
        message = str(error).strip().splitlines()[-1]
        raise kind(message.removeprefix(f"m3video.errors.{kind.__name__}: ")) from error
    except (RuntimeError, ConnectionError, EOFError) as error:
        # Killed while it handed a batch over, a worker leaves a broken connection behind.
        if isinstance(error, RuntimeError) and not str(error).startswith("DataLoader worker"):
            raise
        raise worker_ended(error) from error


class Loop:
    """A run that is under way.

    Args:
        verb: of the command line, which a run is resumed with.
        config: all settings.
        run: where it is kept.
        trainer: takes the steps.
        data: what it trains on.
        save_weights: writes `model/`.
        console: where progress goes.
        less: what needs less memory, for the error that tells.
        describe: writes what else a resumed run must find as it was; called when a run begins.
    """

    def __init__(
        self,
        verb: str,
        config: RunConfig,
        run: RunDirectory,
        trainer: Steps,
        data: Data,
        save_weights: Callable[[], None],
        console: Console,
        *,
        less: str,
        describe: Callable[[], None] | None = None,
    ) -> None:
        self.verb = verb
        self.config = config
        self.run = run
        self.trainer = trainer
        self.data = data
        self.console = console
        self.less = less
        self._save_weights = save_weights
        self._describe = describe
        self.steps = total_steps(config.train, len(data.source))
        self.schedule = Schedule.of(config.train, self.steps)
        self.state = TrainState()
        self.clock = Clock()

    def go(self) -> Path:
        """Train to the last step, from the newest checkpoint if resumed; gives the directory."""
        before = self.run.threads() if self.config.resume else None
        with cores_shared(self.trainer.device, self.config.train.workers, before):
            try:
                return self._go()
            except RuntimeError as error:
                # torch raises this wherever the training process is when a worker dies, within an
                # update of the weights even: nothing is saved then, the last checkpoint stands.
                if not str(error).startswith("DataLoader worker"):
                    raise
                raise worker_ended(error) from error

    def _go(self) -> Path:
        device = str(self.trainer.device)
        if self.config.resume:
            place = newest_checkpoint(self.run.checkpoints, self.run.last)
            if place is not None:
                self.state = load_checkpoint(place, self.trainer.model, self.trainer.optimizer)
            self.run.note_resumption(self.config, self.state.step, device)
            say(self.console, f"resuming {self.run.path} after step {self.state.step}")
        if self.state.step >= self.steps:
            say(self.console, f"{self.run.path}: all {self.steps} steps are done")
            self.save()
            return self.run.path
        with Interrupt() as interrupt:
            batches = iter(self._batches())
            first = next_batch(batches)  # if the data fails at once, nothing has been written
            if not self.config.resume:
                self._check_unreadable(first)
                if self._describe is not None:
                    self._describe()
                self.run.create(self.config, self.data.manifest, device)
            self._loop(itertools.chain([first], batches), interrupt)
        return self.run.path

    def _batches(self) -> Iterable[Clips]:
        train = self.config.train
        return make_loader(
            self.data.source,
            batch=train.batch,
            seed=train.seed,
            first_step=self.state.step,
            last_step=self.steps,
            workers=train.workers,
            prepare=self.data.prepare,
            pin_memory=self.trainer.device.type == "cuda",
        )

    def _loop(self, batches: Iterator[Clips], interrupt: Interrupt) -> None:
        config, state = self.config.train, self.state
        display, due = Display(self.console, self.verb, self.steps, state.step), False
        with MetricsLog(self.run, state.step) as log, display:
            while state.step < self.steps:
                begin = time.perf_counter()
                clips = self._next_or_save(batches, display)
                waited = time.perf_counter() - begin
                rate = self.schedule(state.step + 1)
                result = self._step(clips, rate)
                self._count(result, time.perf_counter() - begin, waited)
                logged = state.step % config.log_every == 0 or state.step == self.steps
                if logged or not result.finite:
                    log.write(self._metrics(result, rate))
                display.update(state.step, result.losses, self._clips_per_second, self.clock)
                self._stop_if_diverged(result, display)
                due = due or state.step % config.checkpoint_every == 0
                # Weights that the next loss is not finite with must not take a good one's place.
                if state.step == self.steps or interrupt.requested or (due and result.finite):
                    log.sync()
                    self.save()
                    due = False
                if interrupt.requested and state.step < self.steps:
                    display.say(
                        f"interrupted: saved after step {state.step} of {self.steps}; go on with: "
                        f"m3video {self.verb} {self.run.resume_options}"
                    )
                    raise KeyboardInterrupt

    def _step(self, clips: Clips, rate: float) -> StepResult:
        number = self.state.step + 1
        try:
            return self.trainer.step(clips, number, rate)
        except torch.OutOfMemoryError as error:
            raise RunFailedError(
                f"step {number} needs more memory than {self.trainer.device} has: use a larger "
                f"train.accumulate, or a smaller {self.less}"
            ) from error

    def _next_or_save(self, batches: Iterator[Clips], display: Display) -> Clips:
        """The next batch; when the data fails, what was learnt so far is kept."""
        try:
            clips = next_batch(batches)
            self._note_unreadable(clips, display)
        except (VideoError, TooManyUnreadableError, RunFailedError):
            if self.state.step:
                self.save()
            raise
        return clips

    def _count(self, result: StepResult, seconds: float, waited: float) -> None:
        self.state.step += 1
        self.state.seconds += seconds
        self.clock.add(seconds, waited)
        self.state.bad_steps += not result.finite
        self.state.bad_in_a_row = 0 if result.finite else self.state.bad_in_a_row + 1

    @property
    def _clips_per_second(self) -> float:
        return self.config.train.batch / self.clock.seconds_per_step

    def _metrics(self, result: StepResult, rate: float) -> dict[str, float | int | None]:
        """One line of metrics.jsonl; the last three keys are times, all others repeat exactly."""
        state, taken = self.state, result.finite
        per_epoch = steps_per_epoch(len(self.data.source), self.config.train.batch)
        each = {
            f"loss/{name}": loss if math.isfinite(loss) else None
            for name, loss in result.losses.items()
        }
        return {
            "step": state.step,
            "epoch": state.step / per_epoch,
            "loss": result.loss if taken else None,
            **each,
            "lr": rate,
            "grad_norm": result.grad_norm if taken else None,
            "bad_steps": state.bad_steps,
            "unreadable": len(state.unreadable),
            "time": state.seconds,
            "clips_per_second": self._clips_per_second,
            "data_wait": self.clock.data_wait,
        }

    def _stop_if_diverged(self, result: StepResult, display: Display) -> None:
        state = self.state
        if not result.finite:
            display.say(f"step {state.step}: loss or gradient is not finite; the step is skipped")
        if state.bad_in_a_row >= self.config.train.max_bad_steps:
            place = newest_checkpoint(self.run.checkpoints, self.run.last)
            kept = f"{place} is kept" if place else "there is no checkpoint yet"
            raise DivergedError(
                f"loss or gradient was not finite {state.bad_in_a_row} steps in a row, up to step "
                f"{state.step}; {kept}; try a new run (from it with --init) with a lower train.lr, "
                "train.clip_grad, or train.precision fp32"
            )

    def _check_unreadable(self, clips: Clips) -> dict[str, str]:
        """The videos that were met as unreadable for the first time in this batch: path → reason.

        Raises:
            TooManyUnreadableError: with them it is more than `train.max_unreadable` of the data.
        """
        known = self.state.unreadable
        new = {path: reason for path, reason in clips.unreadable if path not in known}
        count, limit = len(known) + len(new), self.config.train.max_unreadable
        files = self.data.files or len(self.data.source)
        if new and count > limit * files:
            path, reason = next(iter(new.items()))
            raise TooManyUnreadableError(
                f"{count} of {files} videos could not be read, more than "
                f"train.max_unreadable {limit} allows; the last was {path}: {reason}; "
                "see `m3video index`, or allow more"
            )
        return new

    def _note_unreadable(self, clips: Clips, display: Display) -> None:
        """Name, count and write down what could not be read while a batch was made."""
        new = self._check_unreadable(clips)
        if new:
            for path, reason in new.items():
                display.say(f"unreadable: {path}: {reason}")
            self.state.unreadable.update(new)
            self.run.write_unreadable({**self.run.read_unreadable(), **new})

    def save(self) -> None:
        """Write a checkpoint, and `model/`."""
        save_checkpoint(
            self.run.checkpoints,
            self.run.last,
            model=self.trainer.model,
            optimizer=self.trainer.optimizer,
            state=self.state,
            keep=self.config.train.keep,
        )
        self._save_weights()
