"""The command line: one verb a function, help from the configs' docstrings.

A user's mistake ends in one line on stderr and exit code 2, never in a traceback.
"""

from __future__ import annotations

import errno
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import tyro

from m3video.cli.benchmark import BENCHMARKS, benchmark
from m3video.cli.classify import evaluate, finetune
from m3video.cli.detect import detect
from m3video.cli.find import browse, embed, search
from m3video.cli.index import index
from m3video.cli.launch import LOST, ended, launch, left, main_process, several
from m3video.cli.pack import pack
from m3video.cli.parse import option, overview, parse
from m3video.cli.probe import probe
from m3video.cli.resume import given_config
from m3video.cli.weights import export_verb, import_verb
from m3video.config import PretrainConfig, TrackConfig
from m3video.errors import (
    ConfigError,
    LostProcessError,
    M3VideoError,
    NotWrittenError,
    RunFailedError,
    StoppedError,
)
from m3video.recipes import RECIPES, recipe_config
from m3video.train.interrupt import stoppable
from m3video.video.walk import shown

DEFAULT_RECIPE = "mme"
DEMO_STEPS = 1000
__all__ = ["BENCHMARKS", "VERBS", "main"]

USERS_FAULT = frozenset(
    {
        errno.EACCES,
        errno.EEXIST,
        errno.EISDIR,
        errno.ENAMETOOLONG,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EPERM,
        errno.EROFS,
    }
)
"""Errors of the file system that another path or permission mends; others are the machine's."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `m3video VERB …`; the exit code.

    0 done; 2 bad input; 1 a run that failed; 128 + the number of the signal that ended it; 75 one
    of several processes, of which another has ended.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in {"-h", "--help"}:
        print(overview("m3video", "VERB", VERBS))
        return 0 if arguments else 2
    verb, *rest = arguments
    if verb == "--version":
        print(f"m3video {version('m3video')}")
        return 0
    if verb not in VERBS:
        return _complain("", f"unknown verb {verb!r}: use one of {', '.join(VERBS)}")
    try:
        # One of several is ended by its launcher, which waits for no cleaning up.
        with nullcontext() if several() else stoppable():
            return left(VERBS[verb](rest))
    except M3VideoError as error:
        code = _code(error)
        if error.said is False or (error.said is None and main_process()):
            _complain(verb, str(error), code)
        return ended(code)
    except KeyboardInterrupt as error:
        if main_process():
            print(f"m3video {verb}: interrupted", file=sys.stderr)
        number = error.number if isinstance(error, StoppedError) else signal.SIGINT
        return ended(128 + number)
    except BrokenPipeError:
        return ended(141)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        told = error.strerror or str(error) or type(error).__name__
        return ended(_complain(verb, f"{where}{told}", _code(error)))
    except Exception:
        if not several():
            raise
        traceback.print_exc()
        return ended(1)


def _code(error: M3VideoError | OSError) -> int:
    """The exit code that says whose fault it is."""
    if isinstance(error, OSError | NotWrittenError):
        return 2 if error.errno in USERS_FAULT else 1
    if isinstance(error, LostProcessError):
        return LOST
    return 1 if isinstance(error, RunFailedError) else 2


def _complain(verb: str, message: str, code: int = 2) -> int:
    line = shown(" ".join(message.split()))  # names of files may hold what steers a terminal
    print(f"m3video{' ' + verb if verb else ''}: {line}", file=sys.stderr)
    return code


def _pretrain_defaults(arguments: list[str]) -> PretrainConfig:
    """The config that is given, or that of a recipe; what has no default is for tyro to ask for."""
    recipe = option(arguments, "recipe")
    if recipe is not None and option(arguments, "config") is not None:
        raise ConfigError("--recipe and --config both give the defaults: use one of them")
    given = given_config(PretrainConfig, arguments) if recipe is None else None
    if given is not None:
        return given
    config = recipe_config(recipe or DEFAULT_RECIPE, data="", out=Path())
    return config.model_copy(update={"data": tyro.MISSING, "out": tyro.MISSING})


_NAMED = "\n".join(
    f"{name}: {recipe.summary}" for name, recipe in RECIPES.items() if "-tiny" not in name
)
RECIPE_HELP = (
    f"the named config that gives the defaults below.\n{_NAMED}\n"
    "Each also with -tiny: 64×64 clips and a small encoder, for CPUs."
)


def _pretrain(arguments: list[str]) -> int:
    """Pre-train a video transformer from unlabelled videos by predicting what is hidden."""
    defaults = _pretrain_defaults(arguments)

    def read(
        settings: Annotated[PretrainConfig, tyro.conf.arg(name="")] = defaults,
        recipe: Annotated[
            str, tyro.conf.arg(metavar="|".join(RECIPES), help=RECIPE_HELP)
        ] = DEFAULT_RECIPE,
        config: Path | None = None,
    ) -> PretrainConfig:
        """Pre-train a video transformer by predicting what is hidden.

        Args:
            settings: all settings.
            recipe: see above.
            config: a config.yaml, as in a run directory, that gives the defaults instead.
        """
        return settings

    settings = parse(read, arguments, verb="pretrain")
    code = launch(settings.devices, ["pretrain", *arguments], settings.train.device, settings.out)
    if code is not None:
        return code
    from m3video.report.page import write_report
    from m3video.train.pretrain import pretrain

    run = pretrain(settings)
    if not main_process():
        return 0
    print(f"writing {run / 'report.html'}", file=sys.stderr)  # which takes some seconds
    page = write_report(run)
    print(f"encoder: {run / 'model'}\nreport:  {page}")
    return 0


def _track(arguments: list[str]) -> int:
    """Look at the motion of a video: trajectories and flow as a film, a page or numbers."""
    config = parse(TrackConfig, arguments, verb="track")
    from m3video.report.track import track_video

    print(track_video(config))
    return 0


def _report(arguments: list[str]) -> int:
    """Write one self-contained HTML page about a run."""

    def read(run: tyro.conf.Positional[Path]) -> Path:
        """Write one self-contained HTML page about a run: RUN/report.html.

        Args:
            run: a run directory of pretrain, finetune or detect train.
        """
        return run

    run = parse(read, arguments, verb="report")
    from m3video.report.page import write_report

    print(write_report(run))
    return 0


def _demo(arguments: list[str]) -> int:
    """Pre-train on rendered moving shapes, probe, and report: nothing else needed."""

    def read(
        out: Path = Path("runs/demo"), steps: int = DEMO_STEPS, workers: int = 1
    ) -> dict[str, Any]:
        """Pre-train with motion and with pixel targets on rendered clips, probe both, and report.

        Args:
            out: folder for the two runs, demo.json and the report.
            steps: optimiser steps of each run.
            workers: data worker processes of each run.
        """
        return {"out": out, "steps": steps, "workers": workers}

    settings = parse(read, arguments, verb="demo")
    from m3video.demo import demo

    demo(**settings)
    return 0


def _study(arguments: list[str]) -> int:
    """Run a grid of pre-trainings, measure each, and write one table and one plot."""

    def read(
        study: tyro.conf.Positional[Path],
        out: Path,
        jobs: int = 1,
        minutes: float | None = None,
        only: tuple[str, ...] | None = None,
    ) -> dict[str, Any]:
        """Run a grid of pre-trainings, measure each, and write one table and one plot.

        Cells that are finished are never run again, interrupted ones go on.

        Args:
            study: a YAML file with name, data and cells.
            out: folder for the runs, study.json, study.csv, table.md, plot.svg and study.html.
            jobs: cells at a time; each has the cores of the machine divided by this many threads.
            minutes: start no cell that would not end within this time, by those that have ended.
            only: names of cells, or NAME-sSEED; the others are left as they are.
        """
        return {"path": study, "out": out, "jobs": jobs, "minutes": minutes, "only": only}

    settings = parse(read, arguments, verb="study")
    from m3video.study.run import study

    study(**settings)
    print(f"table: {settings['out'] / 'table.md'}\npage:  {settings['out'] / 'study.html'}")
    return 0


VERBS: dict[str, Callable[[list[str]], int]] = {
    "pretrain": _pretrain,
    "probe": probe,
    "detect": detect,
    "finetune": finetune,
    "evaluate": evaluate,
    "track": _track,
    "index": index,
    "pack": pack,
    "report": _report,
    "demo": _demo,
    "study": _study,
    "embed": embed,
    "search": search,
    "browse": browse,
    "import": import_verb,
    "export": export_verb,
    "benchmark": benchmark,
}
