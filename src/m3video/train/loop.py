"""The loop of a run: next batch, step, log, checkpoint; all else is about ending well.

- A run that is killed and resumed repeats the uninterrupted one, on a CPU bit for bit: batch,
  learning rate and seed of a step depend on the config and the step's number alone.
- A step whose loss or gradient is not finite is skipped and counted; several in a row end the run.
- A video that cannot be read is named once, counted and replaced by the loader; too many end it.
"""

from __future__ import annotations

import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from m3video.errors import (
    DivergedError,
    LostProcessError,
    M3VideoError,
    NotWrittenError,
    RunFailedError,
    TooManyUnreadableError,
    VideoError,
)
from m3video.train.batches import Data, cores_shared, next_batch
from m3video.train.checkpoint import Checkpoints, TrainState, whole_checkpoints, whole_weights
from m3video.train.health import warnings
from m3video.train.interrupt import Interrupt
from m3video.train.optim import Schedule, steps_per_epoch, total_steps
from m3video.train.prefetch import prefetch
from m3video.train.progress import Clock, Display, say
from m3video.train.run import MetricsLog, RunConfig, RunDirectory, writing
from m3video.train.update import StepResult, Steps, Taken
from m3video.train.world import ALONE, World, told
from m3video.video.loader import Clips, make_loader
from m3video.video.watch import lost


class Loop:
    """A run that is under way.

    Args:
        verb: of the command line, which a run is resumed with.
        config: all settings.
        run: where it is kept.
        trainer: takes the steps.
        data: what it trains on.
        save_weights: writes `model/`, from the state dict of the trainer's model.
        console: where progress goes.
        less: what needs less memory, for the error that tells.
        describe: writes what else a resumed run must find as it was; called when a run begins.
        world: the processes that take part; rank 0 alone writes.
    """

    def __init__(
        self,
        verb: str,
        config: RunConfig,
        run: RunDirectory,
        trainer: Steps,
        data: Data,
        save_weights: Callable[[dict[str, Tensor]], None],
        console: Console,
        *,
        less: str,
        describe: Callable[[], None] | None = None,
        world: World = ALONE,
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
        self.world = world
        repeats = getattr(data.source, "repeats", 1)
        self.part = world.share(config.train.batch, config.train.accumulate, repeats)
        self.checkpoints = Checkpoints(
            run.checkpoints, run.last, trainer.model, trainer.optimizer, config.train.keep, world
        )
        self.steps = total_steps(config.train, len(data.source))
        self.schedule = Schedule.of(config.train, self.steps)
        self.state = TrainState()
        self.lag = 1 if trainer.device.type == "cuda" else 0
        self._taken = deque[Taken]()
        self._failed: NotWrittenError | None = None
        self.clock = Clock()
        self._warned: set[str] = set()

    def go(self) -> Path:
        """Train to the last step, from the newest checkpoint if resumed; gives the directory."""
        before = self.run.threads() if self.config.resume else None
        with cores_shared(self.trainer.device, self.config.train.workers, before):
            try:
                return self._go()
            except NotWrittenError as error:
                if not self.run.config.exists():
                    raise
                raise self._not_written(error) from error

    def _go(self) -> Path:
        device = str(self.trainer.device)
        if self.config.resume:
            self.state = self.checkpoints.resume() or self.state
            self.world.first(lambda: self.run.note_resumption(self.config, self.state.step, device))
            say(self.console, f"resuming {self.run.path} after step {self.state.step}")
        if self.world.size > 1:
            each = self.config.train.batch // self.world.size
            say(self.console, f"{self.world.size} processes, {each} clips of each batch in each")
        if self.state.step >= self.steps:
            say(self.console, f"{self.run.path}: all {self.steps} steps are done")
            self.save(last=True)
            return self.run.path
        with Interrupt() as interrupt:
            batches = iter(self._batches())
            if self.data.ahead:
                batches = prefetch(batches, self.trainer.device)
            # If the data fails at once, nothing has been written.
            first = self._together(lambda: next_batch(batches))
            if not self.config.resume:
                self._check_unreadable(first)
                self.world.first(lambda: self._create(device))
            self._loop(itertools.chain([first], batches), interrupt)
        return self.run.path

    def _create(self, device: str) -> None:
        if self._describe is not None:
            self._describe()
        self.run.create(self.config, self.data.manifest, device)

    def _not_written(self, error: NotWrittenError) -> RunFailedError:
        """What is kept, and how to go on."""
        places = whole_checkpoints(self.run.checkpoints)
        kept = f"{places[-1]} is kept" if places else "there is no checkpoint yet"
        return RunFailedError(
            f"{error}; stopped after step {self.state.step}, {kept}; when that is mended, go on "
            f"with: m3video {self.verb} {self.run.resume_options}"
        )

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
            part=self.part,
            stall_seconds=train.stall_seconds,
            refused=lost(self.state.unreadable),
        )

    def _loop(self, batches: Iterator[Clips], interrupt: Interrupt) -> None:
        config, state = self.config.train, self.state
        display, due = Display(self.console, self.verb, self.steps, state.step), False
        with self._metrics_log() as log, display:
            mark = time.perf_counter()
            while state.step < self.steps:
                begin = time.perf_counter()
                clips = self._next_or_save(batches, log, display)
                waited = time.perf_counter() - begin
                rate = self.schedule(state.step + 1)
                result = self._step(clips, rate)
                mark = self._count_time(mark, waited)
                state.step += 1
                self._taken.append(Taken(state.step, result, rate, len(state.unreadable)))
                stop = self.world.agree(interrupt.requested)[0]
                due = due or state.step % config.checkpoint_every == 0
                read_all = due or stop or state.step == self.steps
                self._read_agreed(log, display, 0 if read_all else self.lag)
                # Weights that the next loss is not finite with must not take a good one's place.
                if state.step == self.steps or stop or (due and result.finite):
                    self.world.first(lambda: self._sync(log))
                    self.save(last=stop or state.step == self.steps)
                    due, mark = False, time.perf_counter()
                if stop and state.step < self.steps:
                    display.say(
                        f"interrupted: saved after step {state.step} of {self.steps}; go on with: "
                        f"m3video {self.verb} {self.run.resume_options}"
                    )
                    raise interrupt.error

    @contextmanager
    def _metrics_log(self) -> Iterator[MetricsLog | None]:
        if not self.world.main:
            yield None
            return
        with MetricsLog(self.run, self.state.step) as log:
            yield log

    def _read_agreed(self, log: MetricsLog | None, display: Display, left: int) -> None:
        """As `_read`, and a checkpoint that is written appears, for which all look together."""
        self._read(log, display, left)
        with self._failing_together(), writing(self.run.path):
            self.checkpoints.appear()

    @contextmanager
    def _failing_together(self) -> Iterator[None]:
        """What rank 0 alone cannot write ends all processes before the next step, and not now."""
        try:
            yield
        except NotWrittenError as error:
            if self.world.size == 1:
                raise
            self._failed = self._failed or error

    def _sync(self, log: MetricsLog | None) -> None:
        """Have what was measured on the disk, before a checkpoint that says it is."""
        if self._failed is not None:
            raise self._failed
        if log is not None:
            log.sync()

    def _read(self, log: MetricsLog | None, display: Display, left: int) -> None:
        """Read what steps measured, but for the last `left`: these may still be under way."""
        while len(self._taken) > left:
            taken = self._taken.popleft()
            self._count(taken.result)
            logged = taken.step % self.config.train.log_every == 0 or taken.step == self.steps
            if log is not None and (logged or not taken.result.finite):
                with self._failing_together():
                    log.write(self._metrics(taken))
            display.update(taken.step, taken.result.losses, self._clips_per_second, self.clock)
            self._warn(taken, display)
            self._stop_if_diverged(taken, display)

    def _step(self, clips: Clips, rate: float) -> StepResult:
        number = self.state.step + 1
        try:
            with told():
                return self.trainer.step(clips, number, rate)
        except torch.OutOfMemoryError as error:
            raise RunFailedError(
                f"step {number} needs more memory than {self.trainer.device} has: use a larger "
                f"train.accumulate, or a smaller {self.less}"
            ) from error

    def _next_or_save(
        self, batches: Iterator[Clips], log: MetricsLog | None, display: Display
    ) -> Clips:
        """The next batch; when the data fails, what was learnt so far is kept."""
        try:
            clips = self._together(lambda: next_batch(batches))
            self._note_unreadable(clips, display)
        except LostProcessError:  # nothing more can be summed, or waited for
            raise
        except (VideoError, TooManyUnreadableError, RunFailedError):
            self._read(log, display, 0)
            if self.state.step:
                self.save(last=True)
                options = self.run.resume_options
                display.say(f"saved; go on with: m3video {self.verb} {options}")
            raise
        return clips

    def _together(self, load: Callable[[], Clips]) -> Clips:
        """What this process loads; all processes know what any could not read, or fail with it."""
        clips: Clips | None = None
        error: M3VideoError | None = self._failed
        try:
            clips = load()
        except M3VideoError as raised:
            error = error or raised
        failed, unreadable = self.world.agree(
            error is not None, clips is not None and bool(clips.unreadable)
        )
        if failed:
            errors = self.world.gather(error)
            rank, first = next((n, found) for n, found in enumerate(errors) if found is not None)
            first = error if rank == self.world.rank and error is not None else first
            first.said = rank != self.world.rank
            raise first
        assert clips is not None
        if unreadable:
            parts = self.world.gather(clips.unreadable)
            clips.unreadable = [entry for part in parts for entry in part]
        return clips

    def _count_time(self, mark: float, waited: float) -> float:
        """Note a step that began at `mark`, where the one before it ended; gives its own end."""
        now = time.perf_counter()
        self.state.seconds += self.clock.add(now - mark, waited)
        return now

    def _count(self, result: StepResult) -> None:
        self.state.bad_steps += not result.finite
        self.state.bad_in_a_row = 0 if result.finite else self.state.bad_in_a_row + 1

    @property
    def _clips_per_second(self) -> float:
        return self.config.train.batch * self.clock.steps_per_second

    def _metrics(self, taken: Taken) -> dict[str, float | int | None]:
        """One line of metrics.jsonl; the last three keys are times, all others repeat exactly."""
        state, result = self.state, taken.result
        per_epoch = steps_per_epoch(len(self.data.source), self.config.train.batch)
        each = {
            f"loss/{name}": loss if math.isfinite(loss) else None
            for name, loss in result.losses.items()
        }
        health = result.health if result.finite else {}
        return {
            "step": taken.step,
            "epoch": taken.step / per_epoch,
            "loss": result.loss if result.finite else None,
            **each,
            "lr": taken.rate,
            "grad_norm": result.grad_norm if result.finite else None,
            **{key: value if math.isfinite(value) else None for key, value in health.items()},
            "bad_steps": state.bad_steps,
            "unreadable": taken.unreadable,
            "time": state.seconds,
            "clips_per_second": self._clips_per_second,
            "data_wait": self.clock.data_wait,
        }

    def _warn(self, taken: Taken, display: Display) -> None:
        """Say once that nothing is learned, or that the features collapse."""
        figures = taken.result.health if taken.result.finite else {}
        found = warnings(figures, taken.step, self.steps, self.config.train.batch)
        for kind in found.keys() - self._warned:
            display.say(f"warning: {found[kind]}")
        self._warned |= found.keys()

    def _stop_if_diverged(self, taken: Taken, display: Display) -> None:
        state = self.state
        if not taken.result.finite:
            display.say(f"step {taken.step}: loss or gradient is not finite; the step is skipped")
        if state.bad_in_a_row >= self.config.train.max_bad_steps:
            with writing(self.run.path):
                self.checkpoints.appear(wait=True)
            place = self.checkpoints.newest()
            kept = f"{place} is kept" if place else "there is no checkpoint yet"
            raise DivergedError(
                f"loss or gradient was not finite {state.bad_in_a_row} steps in a row, up to step "
                f"{taken.step}; {kept}; try a new run (from it with --init) with a lower train.lr, "
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
            known = self.state.unreadable
            self.world.first(
                lambda: self.run.write_unreadable({**self.run.read_unreadable(), **known})
            )

    def save(self, *, last: bool = False) -> None:
        """Write a checkpoint, and `model/`.

        Args:
            last: nothing follows it: wait until it is there. A checkpoint in parts is written in
                the background else, and `model/`, which is put together for it, with the last.
        """
        with writing(self.run.path):
            self.checkpoints.save(self.state)
            if last:
                self.checkpoints.appear(wait=True)
            if last or not self.checkpoints.sharded:
                weights = whole_weights(self.trainer.model, self.world)
                self.world.first(lambda: self._save_weights(weights))
