"""The engine `ray` of `jobs`: a function as a stage of Ray Data.

- Items and results travel pickled, with their numbers, so Ray's types and order do not matter.
- A block of items whose process was lost is tried again by Ray; where that does not help, its items
  are tried one by one, and those that still end their process are given to `crashed`.
- Every process works in the folder that the command was given in: relative paths mean the same.
"""

from __future__ import annotations

import logging
import os
import pickle
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from m3video.errors import ConfigError

T = TypeVar("T")
R = TypeVar("R")

BLOCK = 16
"""Items at most that a task works through: starting one takes some milliseconds."""
_TRIES = 2  # times that Ray starts a task again whose process was lost
_STORE_BYTES = 200 * 2**20  # of Ray on this machine: only names and facts pass through it


class _Stage:
    """What a Ray process does with one row."""

    def __init__(self, function: Callable[[T], R], folder: Path) -> None:
        self._function = function
        self._folder = folder

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        if self._folder.is_dir():  # a machine of the cluster may not have it
            os.chdir(self._folder)
        error: Exception | None = None
        value: Any = None
        try:
            value = self._function(pickle.loads(row["item"]))
        except Exception as raised:  # Ray would take it for a lost block
            error = raised
        return {"number": row["number"], "done": pickle.dumps((value, error))}


def in_ray(
    function: Callable[[T], R],
    items: Sequence[T],
    crashed: Callable[[T], R],
    *,
    engine: str,
    workers: int,
    gpus: int = 0,
) -> Generator[tuple[int, R]]:
    """As `jobs.run_jobs`; number and result of each item, once, as they come."""
    with _cluster(engine, workers) as ray:
        _check_ready(ray, function, engine)
        cores = max(1, int(ray.cluster_resources().get("CPU", 1)))
        missing: Sequence[int] = range(len(items))
        for block in (min(BLOCK, max(1, len(items) // (4 * cores))), 1):
            seen = set()
            for number, done in _stage(ray, function, items, missing, block, gpus):
                if number in seen:
                    continue
                seen.add(number)
                value, error = pickle.loads(done)
                if error is not None:
                    raise error
                yield number, value
            missing = [number for number in missing if number not in seen]
            if not missing:
                return
        for number in missing:
            yield number, crashed(items[number])


def _stage(
    ray: Any,
    function: Callable[[T], R],
    items: Sequence[T],
    numbers: Sequence[int],
    block: int,
    gpus: int,
) -> Iterator[tuple[int, bytes]]:
    """Number and pickled result of the items whose process was not lost."""
    rows = [{"number": number, "item": pickle.dumps(items[number])} for number in numbers]
    dataset = ray.data.from_items(rows, override_num_blocks=-(-len(rows) // block))
    stage = _Stage(function, Path.cwd())
    with warnings.catch_warnings():
        # Ray Data has no other way yet to limit the tries, which are endless else.
        warnings.simplefilter("ignore", DeprecationWarning)
        mapped = dataset.map(stage.__call__, num_cpus=1, num_gpus=gpus, max_retries=_TRIES)
    for row in mapped.iter_rows():
        yield row["number"], row["done"]


def _check_ready(ray: Any, function: Callable[[T], R], engine: str) -> None:
    """Refuse a cluster whose processes cannot import the function: all items would seem to crash.

    Raises:
        ConfigError: they could not.
    """
    try:
        ray.get(ray.remote(_ready).remote(function))
    except ray.exceptions.RayError as error:
        why = str(error).strip().splitlines()[-1]
        raise ConfigError(
            f"engine {engine}: its processes cannot do this, and need m3video {version('m3video')} "
            f"installed: {why}"
        ) from None


def _ready(function: Callable[[T], R]) -> bool:
    return callable(function)


@contextmanager
def _cluster(engine: str, workers: int) -> Iterator[Any]:
    """Ray, connected: to what is running already, to an address, or to one started here."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent to anyone
    try:
        import ray
        import ray.data
    except ImportError:
        raise ConfigError(
            f"engine {engine}: needs Ray: pip install 'm3video[ray]', or use --engine processes"
        ) from None
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    address = engine if engine.startswith("ray://") else engine.removeprefix("ray").lstrip(":")
    ours = not ray.is_initialized()
    if ours and address:
        try:
            ray.init(address=address, **quiet)
        except (ConnectionError, ValueError, RuntimeError) as error:
            why = str(error).splitlines()[0]
            raise ConfigError(f"engine {engine}: no Ray cluster answers there: {why}") from None
    elif ours:
        ray.init(
            "local",
            num_cpus=max(workers, 1),
            include_dashboard=False,
            object_store_memory=_STORE_BYTES,
            **quiet,
        )
    context = ray.data.DataContext.get_current()
    before = context.max_errored_blocks, context.enable_progress_bars
    context.max_errored_blocks, context.enable_progress_bars = -1, False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    try:
        yield ray
    finally:
        context.max_errored_blocks, context.enable_progress_bars = before
        if ours:
            ray.shutdown()
