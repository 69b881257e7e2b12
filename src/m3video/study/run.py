"""The verb `study`: run every cell that is not finished, a few at a time, and rewrite the table.

- A finished cell is never run again, an interrupted one goes on, a failed one does not stop the
  others and is tried again by the next call.
- With several jobs each cell is a process of its own, in a process group of its own: Ctrl-C reaches
  this process alone, which passes it on once, so that every cell is saved.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

from rich.console import Console

from m3video.config.study import read_study
from m3video.errors import CellError, ConfigError, M3VideoError, RunFailedError
from m3video.study.cell import labelled_sets, run_cell
from m3video.study.grid import Study, Task, open_study, read_result
from m3video.study.table import measures, numbers, row_of, unfinished_rows, write_study
from m3video.train.probe import probe_manifest
from m3video.whole import write_whole

_IGNORED = ("checkpoints/", "last", "model/", "tensorboard/", "report.html", "metrics.jsonl")
GITIGNORE = "\n".join((*_IGNORED, "cache/", "logs/", ".*.partial", ".*.old", ""))
"""What a study's folder keeps out of git: all that is heavy."""

Failure = str
T = TypeVar("T")
LONGEST_REASON = 2000
"""Characters of a failure: more than anyone reads, and less than a pipe holds."""


def study(
    path: Path,
    *,
    out: Path,
    jobs: int = 1,
    minutes: float | None = None,
    only: Sequence[str] | None = None,
) -> list[dict[str, Any]]:
    """Run the cells of a study that are not finished, and write what all of them say.

    Args:
        path: the study, a YAML file; see `StudyConfig`.
        out: its folder: cells/, study.json, study.csv, table.md, plot.svg, study.html.
        jobs: cells at a time; each has the machine's cores divided by this many threads.
        minutes: start no cell that would not end within this time, by the mean of those finished.
        only: names of cells, or NAME-sSEED; the others are left as they are. None: all.

    Returns:
        The rows of study.json.

    Raises:
        ConfigError: a study, or a cell of it, that is not allowed or was finished otherwise; or
            data that cannot be probed.
        RunFailedError: a cell failed; all others were run.
        KeyboardInterrupt: Ctrl-C; the cells under way are saved.
    """
    config, source = read_study(path)
    if jobs < 1:
        raise ConfigError(f"--jobs {jobs}: at least 1 cell at a time")
    if minutes is not None and not 0 < minutes < math.inf:
        raise ConfigError(f"--minutes {minutes:g}: more than 0; leave it out for no end")
    try:
        grid = open_study(config, out)
    except CellError as error:
        raise ConfigError(f"{path}: {error}") from error
    chosen = grid.chosen(only)
    finished, left_out = grid.finished(chosen)
    todo = [task for task in chosen if task.name not in finished]
    if todo and todo[0].cache is None:  # else labels are missed only when a cell was pre-trained
        probe_manifest(todo[0].probe)
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / ".gitignore", GITIGNORE.encode())
    book = _Book(grid, source, finished, unfinished_rows(out, grid))
    for reason in left_out:
        book.say(f"left out of the table: {reason}")
    book.write()
    deadline = None if minutes is None else time.monotonic() + 60 * minutes
    ready = _render_sets(todo, book, jobs)
    if ready:
        runner = _run_here if jobs == 1 else _run_apart
        try:
            runner(ready, book, _Share.of(jobs), deadline)
        except KeyboardInterrupt:
            book.say("interrupted: the same command goes on from what is saved")
            raise
    left = [task for task in todo if task.name not in book.tried]
    if left:
        book.say(f"{len(left)} cells are left for later: {', '.join(t.name for t in left)}")
    failed = [task.name for task in todo if task.name in book.failed]
    if failed:
        raise RunFailedError(
            f"{len(failed)} of {len(book.tried)} cells failed, first {failed[0]}: "
            f"{book.failed[failed[0]]}; the same command tries again"
        )
    return book.rows()


@dataclass(frozen=True)
class _Share:
    """What one cell has of the machine."""

    jobs: int
    threads: int
    workers: int | None

    @classmethod
    def of(cls, jobs: int) -> _Share:
        cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
        # Where every core has a cell, a worker process would only take it from another.
        return cls(jobs, max(1, cores // jobs), 0 if jobs >= cores else None)


class _Book:
    """What is known of the cells, and the files that say it."""

    def __init__(
        self,
        grid: Study,
        source: str,
        results: dict[str, dict[str, Any]],
        failed: dict[str, Failure],
    ) -> None:
        self.grid, self.source = grid, source
        self.results, self.failed = results, failed
        self.tried: set[str] = set()
        self.console = Console(stderr=True)

    def say(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def started(self, task: Task) -> None:
        self.tried.add(task.name)
        done, all_of_them = len(self.results), len(self.grid.tasks)
        self.say(f"{task.name}: started; {done} of {all_of_them} cells are finished")

    def ended(self, task: Task, result: dict[str, Any] | Failure) -> None:
        """Take a result, or the reason why there is none, and write everything anew."""
        if isinstance(result, str):
            self.failed[task.name] = result
            self.say(f"{task.name}: failed: {result}")
        else:
            self.failed.pop(task.name, None)
            self.results[task.name] = result
            row = row_of(task, result, None)
            found = numbers(row)
            words = [f"{title} {found[key]:.1%}" for key, title in measures([row])]
            self.say(f"{task.name}: {' · '.join(words)} · {result['seconds']:.0f} s")
        self.write()

    def rows(self) -> list[dict[str, Any]]:
        return [
            row_of(task, self.results.get(task.name), self.failed.get(task.name))
            for task in self.grid.tasks
            if task.name in self.results or task.name in self.failed
        ]

    def write(self) -> None:
        write_study(self.grid, self.rows(), self.source)

    def fits(self, task: Task, deadline: float | None) -> bool:
        """Whether a cell would end in time, by the mean of the finished ones of its kind."""
        if deadline is None:
            return True
        times = [r["seconds"] for r in self.results.values() if r.get("kind") == task.kind]
        return time.monotonic() + (fmean(times) if times else 0.0) < deadline


def _render_sets(tasks: Sequence[Task], book: _Book, jobs: int) -> list[Task]:
    """Render what several cells are probed on before any of them asks for it.

    Returns:
        The tasks whose sets are there; the others have failed.
    """
    ready = []
    for task in tasks:
        ended = _attempt(task, partial(_render, task, jobs - 1))
        if isinstance(ended, str):
            book.tried.add(task.name)
            book.ended(task, ended)
        else:
            ready.append(task)
    return ready


def _render(task: Task, workers: int) -> None:
    if task.cache is not None:
        labelled_sets(task.pretrain.clip, task.probe, task.cache, workers=workers)


def _attempt(task: Task, work: Callable[[], T]) -> T | Failure:
    """A result, or the reason of a failure in one line; Ctrl-C passes.

    One cell's failure, whatever it is, must not cost the others: its traceback goes to its log.
    """
    try:
        return work()
    except Exception as error:
        log = _log(task)
        with log.open("a", encoding="utf-8", errors="backslashreplace") as file:
            traceback.print_exc(file=file)
        words = " ".join(str(error).split())
        if not isinstance(error, M3VideoError):  # whose messages are written to be read alone
            words = f"{type(error).__name__}: {words}" if words else type(error).__name__
        return words[:LONGEST_REASON]


def _log(task: Task) -> Path:
    """DIR/logs/NAME.log, beside DIR/cells/NAME; its folder is made."""
    log = task.path.parent.parent / "logs" / f"{task.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    return log


def _run_here(tasks: Sequence[Task], book: _Book, share: _Share, deadline: float | None) -> None:
    for task in tasks:
        if not book.fits(task, deadline):
            continue
        book.started(task)
        work = partial(run_cell, task, threads=share.threads, workers=share.workers)
        book.ended(task, _attempt(task, work))


@dataclass(frozen=True)
class _Running:
    task: Task
    process: SpawnProcess
    answer: Connection


def _run_apart(tasks: Sequence[Task], book: _Book, share: _Share, deadline: float | None) -> None:
    waiting, running = list(tasks), list[_Running]()
    try:
        while waiting or running:
            while waiting and len(running) < share.jobs:
                task = waiting.pop(0)
                if book.fits(task, deadline):
                    running.append(_start(task, share))
                    book.started(task)
            ready = wait([one.process.sentinel for one in running]) if running else []
            for one in [one for one in running if one.process.sentinel in ready]:
                running.remove(one)
                book.ended(one.task, _answer(one))
    except BaseException:  # Ctrl-C, or a table that cannot be written: no cell goes on unseen
        _stop(running)
        raise


def _start(task: Task, share: _Share) -> _Running:
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(
        target=_child, args=(task, share, _log(task), sending), name=task.name
    )
    process.start()
    sending.close()
    return _Running(task, process, receiving)


def _child(task: Task, share: _Share, log: Path, answer: Connection) -> None:
    """A process of one cell: its output goes to a log, its result to the parent."""
    os.setpgid(0, 0)
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        work = partial(run_cell, task, threads=share.threads, workers=share.workers)
        ended = _attempt(task, work)
        if isinstance(ended, str):
            answer.send(ended)
    except KeyboardInterrupt:
        sys.exit(130)


def _end_with_parent() -> None:
    """Nobody waits for the cell any more: save and stop, so that it is not run twice."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGINT)


def _answer(one: _Running) -> dict[str, Any] | Failure:
    one.process.join()
    if one.task.result.exists():
        return _attempt(one.task, partial(read_result, one.task.result))
    with contextlib.suppress(EOFError):  # the process ended without a word
        return str(one.answer.recv())
    code = one.process.exitcode or 0
    if code < 0:
        reason = f"the process was ended by {signal.Signals(-code).name}"
        return reason + (", for want of memory most likely" if code == -signal.SIGKILL else "")
    return f"the process ended with code {code}; see logs/{one.task.name}.log"


def _stop(running: Sequence[_Running]) -> None:
    """Pass Ctrl-C on, and wait until every cell is saved; another Ctrl-C ends them at once."""
    try:
        for one in running:
            if one.process.pid is not None and one.process.is_alive():
                os.kill(one.process.pid, signal.SIGINT)
        for one in running:
            one.process.join()
    except KeyboardInterrupt:
        for one in running:
            one.process.kill()
        raise
