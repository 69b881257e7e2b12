"""What a person sees of a run: a live bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import time
from collections import deque
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from m3video.video.walk import shown

PLAIN_EVERY = 10.0
"""Seconds from one plain line to the next."""
WINDOW = 50
"""Steps that speed and waiting are averaged over."""


def say(console: Console, line: str) -> None:
    """Print lines as they are, but for what would steer a terminal: names of files may hold it."""
    text = "\n".join(shown(each) for each in line.split("\n"))
    console.print(text, markup=False, highlight=False, soft_wrap=True)


class Clock:
    """Speed and waiting over the last steps.

    A step is reported as (seconds in all, seconds of them spent waiting for data). Clocks are set
    while a run is under way: no time is negative, and no speed is infinite.
    """

    def __init__(self) -> None:
        self._steps: deque[tuple[float, float]] = deque(maxlen=WINDOW)

    def add(self, seconds: float, waited: float) -> float:
        """Note a step; gives the seconds that count."""
        seconds = max(seconds, 0.0)
        self._steps.append((seconds, min(max(waited, 0.0), seconds)))
        return seconds

    @property
    def steps_per_second(self) -> float:
        """0 where the clock stood still."""
        return 1 / self.seconds_per_step if self.seconds_per_step else 0.0

    @property
    def seconds_per_step(self) -> float:
        """Mean time of a step."""
        return sum(seconds for seconds, _ in self._steps) / max(len(self._steps), 1)

    @property
    def data_wait(self) -> float:
        """Share of the time spent waiting for data, 0 to 1."""
        total = sum(seconds for seconds, _ in self._steps)
        return sum(waited for _, waited in self._steps) / total if total else 0.0


class _Live:
    """A bar that is there while it is entered."""

    _bar: Progress

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()


class Display(_Live):
    """Progress on stderr: losses, clips a second, time left, share of time waiting for data."""

    def __init__(self, console: Console, verb: str, steps: int, done: int) -> None:
        self._console = console
        self._steps = steps
        self._said = -PLAIN_EVERY
        self._bar = Progress(
            TextColumn(verb),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(verb, total=steps, completed=done, text="")

    def update(self, step: int, losses: dict[str, float], rate: float, clock: Clock) -> None:
        """Show a step.

        Args:
            step: steps done.
            losses: by target.
            rate: clips a second.
            clock: for the time left and the waiting.
        """
        parts = [f"{name} {loss:.4f}" for name, loss in losses.items()]
        text = "  ".join([*parts, f"{rate:.1f} clips/s", f"data wait {clock.data_wait:.0%}"])
        if self._console.is_terminal:
            self._bar.update(self._task, completed=step, text=text)
            return
        now = time.monotonic()
        if abs(now - self._said) >= PLAIN_EVERY or step == self._steps:
            self._said = now
            left = (self._steps - step) * clock.seconds_per_step
            self.say(f"step {step}/{self._steps}  {text}  left {left:.0f} s")

    def say(self, line: str) -> None:
        """Print a line, above the bar if there is one."""
        say(self._console, line)


class Counter(_Live):
    """Works of one kind that are done, on stderr: a bar on a terminal, elsewhere a line now and
    then, and none of what is done before the first is due.
    """

    def __init__(self, console: Console, title: str, total: int) -> None:
        self._console = console
        self._title = title
        self._total = total
        self._done = 0
        self._said = time.monotonic()
        self._bar = Progress(
            TextColumn(title),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(title, total=total)

    def advance(self) -> None:
        """One more is done."""
        self._done += 1
        self._bar.advance(self._task)
        now = time.monotonic()
        if not self._console.is_terminal and abs(now - self._said) >= PLAIN_EVERY:
            self._said = now
            say(self._console, f"{self._title}: {self._done}/{self._total} fits")
