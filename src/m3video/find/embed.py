"""`embed`: videos -> features, one row a video or a clip.

- Videos are read as in the probe: the largest centred crop, the frames the model was trained on.
- A row is the mean over the tokens of the encoder (and over the clips of a video), or all tokens.
- Every half minute what is there becomes a part (`parts.py`); at the end the parts become one file.
  Memory does not grow with the number of videos, and after a kill the same command goes on.
- Videos that cannot be read are listed: in the file, beside it, and at the end.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from m3video.config import EmbedConfig
from m3video.errors import ConfigError, ManifestError
from m3video.find.clips import WindowBatches
from m3video.find.elsewhere import compute_elsewhere
from m3video.find.features import open_features
from m3video.find.held import Held, no_rows, part_of
from m3video.find.parts import Parts, same_job
from m3video.find.store import import_zarr, write_features
from m3video.find.windows import Windows
from m3video.jobs import PROCESSES
from m3video.model.checkpoint import WEIGHTS, load_encoder, model_folder
from m3video.model.vit import VisionTransformer
from m3video.train.interrupt import Interrupt
from m3video.train.step import choose_device
from m3video.video.columns import Videos
from m3video.video.loader import make_eval_loader
from m3video.video.manifest import Manifest, Unreadable, Video, load_manifest
from m3video.video.walk import absolute
from m3video.whole import write_whole

PLAIN_EVERY = 10.0
"""Seconds from one line to the next where there is no terminal."""


@dataclass(frozen=True)
class Embedded:
    """What `embed` wrote.

    Attributes:
        out: the file.
        rows: of it.
        shape: of a row's feature.
        unreadable: (path, reason) of the videos that are not, or not wholly, in it.
        was_there: it was there already, and nothing was read.
    """

    out: Path
    rows: int
    shape: tuple[int, ...]
    unreadable: list[tuple[str, str]]
    was_there: bool = False


def embed(config: EmbedConfig) -> Embedded:
    """Turn videos into features; see `EmbedConfig`.

    The file has the columns path (absolute), start and end (seconds), label (if there are any) and
    feature [D] or [N, D]; `m3video.find.features.open_features` reads it.

    Raises:
        ConfigError: `out` holds something else, or was begun with other settings.
        CheckpointError: no model, or one whose features are not finite.
        ManifestError: no videos, or none that can be read.
    """
    device = choose_device(config.device)
    encoder = load_encoder(config.model).to(device)
    job = describe_job(config, encoder)
    parts = Parts(config.out.with_name(f"{config.out.name}.parts"), job)
    finished = _finished(config.out, job)
    if finished is not None:
        parts.remove()
        return finished
    _check_place(config.out)
    manifest = parts.begin(lambda: _scan(config))
    windows = Windows(manifest.videos, encoder.clip, config)
    if config.engine == PROCESSES:
        parts.forget_rest()
        _compute(encoder, windows, parts, config, device)
    else:
        compute_elsewhere(windows, parts, config, device)
    missed = [(str(entry.path), entry.reason) for entry in manifest.unreadable]
    unreadable = missed + parts.unreadable()
    _check_some(config, unreadable, parts)
    _list_unreadable(config.out, unreadable)
    rows = write_features(config.out, parts.paths(), {**job, "unreadable": unreadable})
    parts.remove()
    return Embedded(config.out, rows, tuple(job["shape"]), unreadable)


def describe_job(config: EmbedConfig, encoder: VisionTransformer) -> dict[str, Any]:
    """All that the features depend on, as JSON; but for the batch, which may change last bits."""
    shape = [encoder.clip.token_count, encoder.width] if config.tokens else [encoder.width]
    chosen = config.model_dump(
        mode="json", include={"per", "segments", "window", "hop", "dtype", "labels_from_folders"}
    )
    if config.per == "clip":
        chosen["segments"] = None
    return {
        "m3video": version("m3video"),
        "model": absolute(config.model),
        "weights_sha256": weights_sha256(config.model),
        "clip": encoder.clip.model_dump(mode="json"),
        "videos": absolute(config.videos),
        **chosen,
        "shape": shape,
    }


def weights_sha256(model: str | Path) -> str:
    """SHA-256 of the weights' file of a run or model directory, in hexadecimal."""
    with (model_folder(Path(model)) / WEIGHTS).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _finished(out: Path, job: dict[str, Any]) -> Embedded | None:
    """What is at `out`, if it is what this job would write.

    Raises:
        ConfigError: something else is there.
    """
    if not out.exists():
        return None
    advice = "use another --out, or remove it"
    try:
        metadata = open_features(out).metadata
    except ConfigError:
        raise ConfigError(f"{out}: is there already, and is no features file; {advice}") from None
    same_job(job, metadata, out, advice)
    unreadable = [(path, reason) for path, reason in metadata["unreadable"]]
    return Embedded(out, metadata["rows"], tuple(metadata["shape"]), unreadable, was_there=True)


def _check_place(out: Path) -> None:
    """Refuse a place that cannot be written, before hours of work."""
    above = next(folder for folder in Path(absolute(out)).parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise ConfigError(f"{out}: cannot be written, as {above} is not a folder that can be")
    if out.suffix.lower() == ".zarr":
        import_zarr()


def _scan(config: EmbedConfig) -> Manifest:
    """The videos, with absolute paths; one whose name no features file can hold is unreadable."""
    found = load_manifest(
        config.videos,
        workers=config.workers,
        labels_from_folders=config.labels_from_folders,
        decode=False,
        progress=True,
        engine=config.engine,
    )
    unreadable = [Unreadable(Path(absolute(e.path)), e.reason) for e in found.unreadable]

    def named() -> Iterator[Video]:
        for video in found.videos:
            path = Path(absolute(video.path))
            try:
                f"{path}{video.label}".encode()
            except UnicodeEncodeError:
                reason = "its name or label is not UTF-8, and a features file holds nothing else"
                unreadable.append(Unreadable(path, reason))
                continue
            yield replace(video, path=path, extra={})

    videos = Videos(named())
    return Manifest(videos, tuple(unreadable))


def _compute(
    encoder: VisionTransformer,
    windows: Windows,
    parts: Parts,
    config: EmbedConfig,
    device: torch.device,
) -> None:
    """Write parts until every unit is in one.

    Raises:
        KeyboardInterrupt: on Ctrl-C, after what is there is kept.
    """
    first = done = parts.done()
    batch = config.batch // windows.each
    source = WindowBatches(windows, first=first, batch=batch)
    held = Held()
    with Interrupt() as interrupt, _Bar(len(windows), done) as bar:
        for clips in make_eval_loader(source, batch=1, workers=config.workers):
            one = replace(clips, frames=clips.frames[0], extras={"unit": clips.extras["unit"][0]})
            held.add(one, encoder, windows, config, device)
            done = min(done + batch, len(windows))
            bar.show(done)
            if held.full or interrupt.requested or done == len(windows):
                table = part_of(windows, held, no_rows(encoder, config))
                parts.write(first, done, table, held.unreadable)
                first, held = done, Held()
            if interrupt.requested and done < len(windows):
                bar.say(f"interrupted at {done} of {len(windows)}: the same command goes on")
                raise interrupt.error


def _check_some(config: EmbedConfig, unreadable: Sequence[tuple[str, str]], parts: Parts) -> None:
    if parts.rows() == 0:
        path, reason = unreadable[0]
        parts.remove()
        raise ManifestError(
            f"{config.videos}: none of its {len(unreadable)} videos can be read; the first: "
            f"{path}: {reason}"
        )


def _list_unreadable(out: Path, unreadable: Sequence[tuple[str, str]]) -> None:
    """Write `<stem>.unreadable.csv` beside the file, or remove that of an earlier time."""
    beside = unreadable_list(out)
    if not unreadable:
        beside.unlink(missing_ok=True)
        return
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("path", "reason"), *unreadable])
    write_whole(beside, text.getvalue().encode("utf-8", "surrogateescape"))


def unreadable_list(out: Path) -> Path:
    """Where the videos that could not be read are listed."""
    return out.with_name(f"{out.stem}.unreadable.csv")


class _Bar(Progress):
    """Rows done, on the error stream: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self, total: int, done: int) -> None:
        console = Console(stderr=True)
        super().__init__(
            TextColumn("embed"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._said = time.monotonic()
        self._total = total
        self._row = self.add_task("embed", total=total, completed=done)
        if done:
            self.say(f"going on at {done} of {total}")

    def say(self, line: str) -> None:
        """Print a line, above the bar where there is one."""
        self.console.print(line, markup=False, highlight=False)

    def show(self, done: int) -> None:
        """Show how many rows are done."""
        self.update(self._row, completed=done)
        if not self.console.is_terminal and time.monotonic() - self._said >= PLAIN_EVERY:
            self._said = time.monotonic()
            self.say(f"embed {done}/{self._total}")
