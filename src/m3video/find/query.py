"""What is searched for: a row of the features file, all rows of one video, or another video.

A query is PATH or PATH@SECONDS. PATH is that of a row, or the end of it; where there is no such row
it is a video file, whose features are made as those of the rows were.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from m3video.config import EmbedConfig, SearchConfig
from m3video.errors import ConfigError, VideoError
from m3video.find.clips import WindowBatches
from m3video.find.embed import weights_sha256
from m3video.find.features import FeatureFile
from m3video.find.held import encode
from m3video.find.windows import Windows
from m3video.model.checkpoint import load_encoder
from m3video.train.step import choose_device
from m3video.video.sampling import sample_generator
from m3video.video.scan import Unreadable, scan_video
from m3video.video.shards import member_of
from m3video.video.walk import absolute


@dataclass(frozen=True)
class Query:
    """What is searched for.

    Attributes:
        values: float32 [D], the mean of its clips.
        rows: that it is made of.
        video: all rows of its video.
    """

    values: Tensor
    rows: Collection[int] = ()
    video: Collection[int] = ()


def find_query(file: FeatureFile, config: SearchConfig) -> Query:
    """Look a query up, or make its features.

    Raises:
        ConfigError: it is nothing, or the model is another one.
        VideoError: the video cannot be read.
    """
    path, seconds = split_query(config.query)
    video = rows_of(file, path)
    if not video:
        return Query(_embed_query(file, path, seconds, config))
    rows = video
    if seconds is not None:
        spans = [(float(file.start[row]), float(file.end[row])) for row in video]
        rows = [video[_at(spans, seconds, file.paths[video[0]])]]
    return Query(_mean_of_rows(file, rows), rows, video)


def split_query(query: str) -> tuple[str, float | None]:
    """PATH or PATH@SECONDS; what follows the last @ and is no time belongs to the path."""
    path, _, after = query.rpartition("@")
    number = after.removesuffix("s").replace(".", "", 1)
    if path and number.isascii() and number.isdigit():
        return path, float(after.removesuffix("s"))
    return query, None


def rows_of(file: FeatureFile, path: str) -> list[int]:
    """The rows of the video with this path; of the one whose path ends in it, if there is no file.

    Raises:
        ConfigError: several videos' paths end in it.
    """
    names = {path, absolute(path)}  # as embed wrote it
    whole = [row for row, known in enumerate(file.paths) if known in names]
    if whole or Path(path).exists():
        return whole
    ending = [row for row, known in enumerate(file.paths) if known.endswith(f"/{path}")]
    videos = sorted({file.paths[row] for row in ending})
    if len(videos) > 1:
        raise ConfigError(
            f"query {path}: is the end of {len(videos)} paths, as {videos[0]} and {videos[1]}; "
            "give more of it"
        )
    return ending


def _at(spans: list[tuple[float, float]], seconds: float, path: str) -> int:
    """Which of a video's clips covers a time: the one whose middle is nearest to it.

    Raises:
        ConfigError: none.
    """
    covering = [n for n, (start, end) in enumerate(spans) if start <= seconds <= end]
    if not covering:
        raise ConfigError(
            f"query @{seconds:g}: no clip of {path} is there; they end at "
            f"{max(end for _, end in spans):.2f} s"
        )
    return min(covering, key=lambda n: abs(sum(spans[n]) / 2 - seconds))


def float_tensor(chunk: NDArray[np.floating[Any]]) -> Tensor:
    """A float32 copy."""
    return torch.from_numpy(np.array(chunk, np.float32))


def _mean_of_rows(file: FeatureFile, rows: list[int]) -> Tensor:
    """The mean feature of some rows: float32 [D]."""
    found, first = [], 0
    for chunk in file.chunks():
        inside = [row - first for row in rows if first <= row < first + len(chunk)]
        found.append(float_tensor(chunk[inside]))
        first += len(chunk)
    return torch.cat(found).mean(0)


@torch.inference_mode()
def _embed_query(
    file: FeatureFile, path: str, seconds: float | None, config: SearchConfig
) -> Tensor:
    """Features of a video that is no row, made as the rows were: float32 [D]."""
    if not Path(path).is_file() and member_of(Path(path)) is None:
        raise ConfigError(
            f"query {path}: neither a video file nor the path of one of the {len(file)} rows of "
            f"{file.path}"
        )
    model = config.model or Path(file.metadata["model"])
    device = choose_device(config.device)
    encoder = load_encoder(model).to(device)
    known = file.metadata["weights_sha256"]
    if weights_sha256(model) != known:
        raise ConfigError(
            f"--model {model}: its weights are not those that {file.path} was made with (SHA-256 "
            f"{known}); give that model, or embed again with this one"
        )
    video = scan_video(Path(path), decode=False)
    if isinstance(video, Unreadable):
        raise VideoError(f"{path}: {video.reason}")
    settings = EmbedConfig.model_validate(
        {name: file.metadata[name] for name in ("per", "window", "hop")}
        | {"segments": file.metadata["segments"] or 1, "batch": file.metadata["segments"] or 16}
        | {"videos": path, "model": model, "out": "query.npz"}
    )
    windows = Windows([video], encoder.clip, settings)
    first, batch = 0, settings.batch // windows.each
    if seconds is not None:
        first = _at([windows.seconds(unit) for unit in range(len(windows))], seconds, path)
        batch = 1
    source = WindowBatches(windows, first=first, batch=batch)
    features = []
    for number in range(len(source) if seconds is None else 1):
        clips = source.clip(number, 0, sample_generator(0, 0, 0))
        if clips.unreadable:
            raise VideoError(": ".join(clips.unreadable[0]))
        features.append(encode(encoder, clips.frames, tokens=False, device=device)[:, 0])
    source.close()
    return torch.cat(features).mean(0)
