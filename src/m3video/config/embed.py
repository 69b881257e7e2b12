"""Features of videos: how they are made, searched and looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

import tyro
from pydantic import Field, model_validator

from m3video.config.base import Config
from m3video.jobs import PROCESSES, check_engine

FEATURE_SUFFIXES = (".parquet", ".npz", ".zarr")


class EmbedConfig(Config):
    """Turn videos into features: one vector a video, or one a clip."""

    videos: tyro.conf.Positional[str]
    """A folder, a manifest or a list, as for `index`."""
    model: Path
    """A run or model directory."""
    out: Path
    """features.parquet, features.npz or features.zarr. What is interrupted goes on with the same
    command."""
    per: Literal["video", "clip"] = "video"
    """video: one row a video, the mean of its `segments` clips. clip: one row a clip; the clips
    slide over the whole video."""
    segments: int = Field(2, ge=1)
    """Clips of a video, evenly spaced; for `per video`."""
    window: float | None = Field(None, gt=0)
    """Seconds of a clip, over which its frames are spread evenly. By default as the model was
    trained: T frames, the stride apart."""
    hop: float | None = Field(None, gt=0)
    """Seconds from the start of one clip to that of the next; for `per clip`. By default the
    length of a clip."""
    tokens: bool = False
    """Keep all tokens [N, D] of a clip, not their mean [D]; for `per clip`, .npz and .zarr."""
    dtype: Literal["float32", "float16"] = "float32"
    """Of the features in the file."""
    labels_from_folders: bool = False
    """Take each video's label from the folder it lies in."""
    batch: int = Field(16, ge=1)
    """Clips at a time through the encoder."""
    workers: int = Field(2, ge=0)
    """Processes that read videos."""
    device: str = "auto"
    """auto, cpu, cuda, or any torch device."""
    engine: str = PROCESSES
    """processes of this machine; ray for processes that Ray starts here, each with the encoder;
    ray:auto or ray:HOST:PORT for those of a cluster that shares its files."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        check_engine(self.engine)
        suffix = self.out.suffix.lower()
        if suffix not in FEATURE_SUFFIXES:
            raise ValueError(f"out {self.out} must end in .parquet, .npz or .zarr")
        if self.per == "video" and self.hop is not None:
            raise ValueError(f"hop {self.hop:g} is for --per clip, and per is video")
        if self.tokens and self.per == "video":
            raise ValueError(
                "tokens of several clips have no mean that means anything: use --per clip"
            )
        if self.tokens and suffix == ".parquet":
            raise ValueError(
                f"out {self.out}: tokens are an array a row: use .npz or .zarr, or leave out "
                "--tokens"
            )
        if self.per == "video" and self.segments > self.batch:
            raise ValueError(
                f"segments {self.segments} of a video go through the encoder together, and batch "
                f"is {self.batch}: use a batch of at least as many"
            )
        return self


class SearchConfig(Config):
    """Find what is most alike: the nearest rows of a features file."""

    query: tyro.conf.Positional[str]
    """A video file, or a row of the features file: its path, or the end of it. PATH@SECONDS is the
    clip at that time."""
    features: Path
    """What `embed` wrote."""
    model: Path | None = None
    """Where the model is now, if it was moved; for a query that is no row."""
    count: int = Field(10, ge=1)
    """Rows to show."""
    others: bool = False
    """Leave out all clips of the query's own video."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print JSON."""
    device: str = "auto"
    """auto, cpu, cuda, or any torch device; for a query that is no row."""


class BrowseConfig(Config):
    """Look at a features file in the browser: clips, a map of them, and what is alike."""

    features: tyro.conf.Positional[Path]
    """What `embed` wrote."""
    port: int = Field(8000, ge=0, le=65535)
    """On 127.0.0.1; 0 finds a free one."""
    map: Literal["auto", "umap", "pca"] = "auto"
    """How features become places on the map. auto: umap, or pca for few rows or without
    umap-learn."""
    clusters: int = Field(10, ge=2)
    """Groups that k-means finds; fewer where there are fewer rows."""
