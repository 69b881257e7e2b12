"""Files and folders that appear whole or not at all: written aside, synced, renamed."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
def written_whole(path: Path) -> Iterator[Path]:
    """Write a file or a directory so that it appears whole or not at all.

    Yields a path beside `path`. What the block creates there is flushed to the disk and then
    renamed to `path`; when the block raises, it is removed. A file at `path` is replaced in one
    instant; a directory is moved aside first, so a crash in between leaves `path` absent.

    Raises:
        IsADirectoryError: `path` is a directory and the block wrote a file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.partial")
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
    except BaseException:
        _remove(aside)
        raise


def write_whole(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    with written_whole(path) as aside:
        aside.write_bytes(data)


def write_json(path: Path, value: object) -> None:
    """Write JSON whole or not at all."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    # File names that are not UTF-8 hold lone surrogates; \\udcXX is how JSON writes these.
    write_whole(path, text.encode("utf-8", "backslashreplace"))
