"""Files and folders that appear whole or not at all: written aside, synced, renamed."""

from __future__ import annotations

import csv
import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_FULL = frozenset({errno.EDQUOT, errno.EFBIG, errno.ENOSPC})  # of what is written, not of a name


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def written_whole(path: Path, *, shared: bool = False) -> Iterator[Path]:
    """Write a file or a directory so that it appears whole or not at all.

    Yields a path beside `path`. What the block creates there is flushed to the disk and then
    renamed to `path`; when the block raises, it is removed. A file at `path` is replaced in one
    instant; a directory is moved aside first, so a crash in between leaves `path` absent.

    Args:
        path: what is to appear.
        shared: another process may write the same at the same time, as Ray starts a job again when
            it takes its process for lost. Each then writes aside under a name of its own, and what
            a killed one leaves (`.NAME.*.partial`) is for the caller to remove.

    Raises:
        IsADirectoryError: `path` is a directory and the block wrote a file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    own = f".{os.getpid()}-{secrets.token_hex(4)}" if shared else ""
    aside = path.with_name(f".{path.name}{own}.partial")
    _remove(aside)  # what a killed process left
    try:
        yield aside
        for written in [*aside.rglob("*"), aside]:
            sync(written)
        old = path.with_name(f".{path.name}.old")
        _remove(old)
        if path.is_dir() and not aside.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if path.is_dir():  # a directory cannot be renamed over another
            path.rename(old)
        aside.replace(path)
        _remove(old)
        sync(path.parent)
    except BaseException as error:
        if isinstance(error, OSError) and error.errno in _FULL and error.filename is None:
            error.filename = str(path)
        _remove(aside)
        raise


def write_whole(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    with written_whole(path) as aside:
        aside.write_bytes(data)


def write_csv(path: Path, rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV whole or not at all."""
    with (
        written_whole(path) as aside,
        aside.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        plain = csv.writer(file, lineterminator="\n")
        quoted = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
        for row in rows:  # a carriage return is quoted by none but the latter
            writer = quoted if any("\r" in str(cell) for cell in row) else plain
            writer.writerow(row)


def write_json(path: Path, value: object) -> None:
    """Write JSON whole or not at all."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    # File names that are not UTF-8 hold lone surrogates; \\udcXX is how JSON writes these.
    write_whole(path, text.encode("utf-8", "backslashreplace"))
