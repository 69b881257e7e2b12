"""Look at the motion of a video: a film, a page, or the numbers.

Memory does not grow with the video: it is decoded once from start to end, and what is made of a
frame is written before the next ones are read. (A film's own index takes some bytes a frame.)
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from m3video.config import FlowName, MotionConfig, TrackConfig
from m3video.config.track import frames_of
from m3video.errors import ConfigError, VideoError
from m3video.motion.fields import Fields
from m3video.motion.trajectory import Tracks
from m3video.report.film import FilmWriter
from m3video.report.overlays import Frame
from m3video.report.track_arrays import TrackArrays
from m3video.report.track_figures import Figures, wheel_scale
from m3video.report.track_motion import Follower, Moment, PairMotion, moments, working_size
from m3video.report.track_page import (
    PAGE_FRAMES,
    PageFilm,
    film_rate,
    render_track_page,
    track_page,
)
from m3video.report.track_pictures import (
    Look,
    add_key,
    flow_panel,
    panel_size,
    sheet,
    tracks_panel,
)
from m3video.train.step import choose_device
from m3video.video.reader import VideoReader
from m3video.whole import write_whole, written_whole

State = tuple[Moment, list[Follower], list[Tracks | None]]


def track_video(config: TrackConfig) -> Path:
    """Write a film, a page or the numbers of a video's motion, whole or not at all.

    The numbers (`.npz`), in pixels of the video as it is displayed, n windows of L steps that start
    in frames `starts`, an h × w grid of points:

        points         float32 [n, h, w, L + 1, 2]: (x, y), the seed first
        displacements  float32 [n, h, w, L, 2]: next − current point, without the camera's motion if
                       that is removed
        visible        bool [n, h, w, L + 1]
        starts int64 [n], fps float64, size int64 (height, width), settings: JSON text

    With several estimators the first three are `NAME/points` and so on.

    Returns:
        The path that was written.

    Raises:
        ConfigError: settings that do not fit the video, or an estimator that is not available.
        VideoError: the video cannot be read.
    """
    if config.out.is_dir():
        raise ConfigError(f"out {config.out} is a folder: give the name of a file to write")
    if config.out.exists() and config.video.exists() and config.out.samefile(config.video):
        raise ConfigError(f"out {config.out} is the video itself: give another name")
    place = str(choose_device(config.device))
    kind = config.out.suffix.lower()
    with ExitStack() as stack:
        reader = stack.enter_context(VideoReader(config.video, threads=0))
        span = _span(config, reader)
        stack.enter_context(_shorter_is_told(config, span))
        small = working_size(reader.height, reader.width, config.size)
        sources = []
        for name in config.flow:
            motion = _motion(config, name, figures=kind == ".html")
            sources.append(PairMotion(config.video, motion, small, place))
            stack.callback(sources[-1].close)
        shown = span[:PAGE_FRAMES] if kind == ".html" else span
        states = _followed(config, reader, moments(reader, shown, sources, small), len(shown))
        if kind == ".npz":
            _write_arrays(config, reader, span, states)
            return config.out
        fastest = config.fastest or wheel_scale(
            reader, shown, sources[0], small, camera=config.camera
        )
        if kind == ".html":
            _write_page(config, reader, (shown, span), states, fastest)
        else:
            _write_film(config, reader, states, fastest)
    return config.out


def _motion(config: TrackConfig, name: FlowName, *, figures: bool) -> MotionConfig:
    """What is measured: for figures also what the pictures may not show."""
    back = figures and name != "codec"
    return MotionConfig(
        flow=name,
        weights=config.weights if name == "raft" else None,
        camera=config.camera or figures,
        visibility="forward-backward" if back else config.visibility,
    )


def _span(config: TrackConfig, reader: VideoReader) -> range:
    """The frames that are asked for.

    Raises:
        ConfigError, VideoError: there are none, too few, or they are too small.
    """
    total = len(reader)
    start = frames_of(config.start, reader.fps)
    count = total - start if config.count is None else frames_of(config.count, reader.fps)
    if start >= total or count < 1 or start + count > total:
        seconds = f"{total} frames, {total / reader.fps:.2f} s"
        raise VideoError(
            f"{config.video}: start {config.start}, count {config.count or 'all'}: it has "
            f"{seconds}; choose a part of that"
        )
    if count < 2:
        raise VideoError(f"{config.video}: {count} frame shows no motion; give at least 2")
    if count <= config.length:
        raise ConfigError(
            f"length {config.length} with {count} frames: use --length 1 to {count - 1}, "
            "or more frames"
        )
    smaller = min(reader.height, reader.width)
    if config.spacing > smaller:
        raise ConfigError(
            f"spacing {config.spacing}: use 1 to {smaller} for {reader.height}×{reader.width}"
        )
    return range(start, start + count)


@contextmanager
def _shorter_is_told(config: TrackConfig, span: range) -> Iterator[None]:
    """Where a frame cannot be decoded, say how many can be shown before it."""
    try:
        yield
    except VideoError as error:
        whole = 0 if error.frame is None else error.frame - span.start
        if whole <= config.length:
            raise
        remedy = f"use --count {whole} for the {whole} frames before it"
        raise VideoError(f"{error}; {remedy}", frame=error.frame) from error


def _followed(
    config: TrackConfig, reader: VideoReader, frames: Iterator[Moment], count: int
) -> Iterator[State]:
    """Each frame, the points of each estimator as far as this frame, and windows that end in it."""
    size = reader.height, reader.width
    followers = [Follower(*size, config.spacing, config.length) for _ in config.flow]
    finished: list[Tracks | None] = [None] * len(config.flow)
    with _progress() as bar:
        task = bar.add_task("track", total=count)
        for moment in frames:
            yield moment, followers, finished
            bar.advance(task)
            if moment.fields is not None:
                finished = [
                    follower.step(_asked(config, fields))
                    for follower, fields in zip(followers, moment.fields, strict=True)
                ]


def _asked(config: TrackConfig, fields: Fields) -> Fields:
    """Fields without what was measured for the figures only."""
    checked = config.visibility == "forward-backward"
    return Fields(
        fields.flow,
        fields.camera if config.camera else None,
        fields.consistent if checked else None,
    )


def _progress() -> Progress:
    console = Console(stderr=True)
    return Progress(
        TextColumn("finding motion"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )


def _write_arrays(
    config: TrackConfig, reader: VideoReader, span: range, states: Iterator[State]
) -> None:
    height, width = reader.height, reader.width
    starts = [span[first] for first in range(0, len(span) - config.length, config.length)]
    small = {
        "starts": starts,
        "fps": float(reader.fps),
        "size": [height, width],
        "settings": config.model_dump(mode="json"),
    }
    grid = height // config.spacing, width // config.spacing
    with TrackArrays(config.out, config.flow, len(starts), grid, config.length, small) as arrays:
        for _, _, finished in states:
            for estimator, tracks in enumerate(finished):
                if tracks is not None:
                    arrays.add(estimator, tracks)


def _write_film(
    config: TrackConfig, reader: VideoReader, states: Iterator[State], fastest: float
) -> None:
    video = reader.height, reader.width
    kinds, columns = 1 + (config.show == "both"), len(config.flow)
    # One estimator: its panels side by side. Several: one beside the other, kind under kind.
    across, down = (kinds, 1) if columns == 1 else (columns, kinds)
    look = Look(video, panel_size(video, across, down), fastest)
    with (
        written_whole(config.out) as aside,
        FilmWriter(aside, reader.fps, crf=20, preset="veryfast", threads=0) as film,
    ):
        for panels in drawn(config, states, look):
            rows = panels if columns == 1 else [list(row) for row in zip(*panels, strict=True)]
            title, last = rows[-1][-1]
            rows[-1][-1] = title, add_key(last, fastest)
            film.add(sheet(rows))


def drawn(
    config: TrackConfig, states: Iterator[State], look: Look
) -> Iterator[list[list[tuple[str, Frame]]]]:
    """The panels of each frame: for each estimator its titles and pictures."""
    fields: list[Fields] = []
    checked = config.visibility == "forward-backward"
    kept = " without the camera" if config.camera else ""
    for moment, followers, _ in states:
        if moment.fields is not None:  # the last frame keeps the flow of the pair before it
            fields = [_asked(config, each) for each in moment.fields]
        everything = []
        for name, follower, flow in zip(config.flow, followers, fields, strict=True):
            panels = []
            if config.show != "flow":
                picture = tracks_panel(moment.frame, follower, config.length, look)
                panels.append((f"{name}: trajectories{kept}", picture))
            if config.show != "tracks":
                panels.append((f"{name}: flow{kept}", flow_panel(flow, look, checked=checked)))
            everything.append(panels)
        yield everything


def _write_page(
    config: TrackConfig,
    reader: VideoReader,
    spans: tuple[range, range],
    states: Iterator[State],
    fastest: float,
) -> None:
    video = reader.height, reader.width
    look = Look(video, panel_size(video, 2, 1), fastest)
    figures = [Figures(name) for name in config.flow]
    films: dict[str, tuple[io.BytesIO, FilmWriter]] = {}
    kinds = 1 + (config.show == "both")
    rate = film_rate(kinds * len(config.flow), len(spans[0]), reader.fps)
    with ExitStack() as stack:
        for panels in drawn(config, counted(states, figures), look):
            for title, picture in chain.from_iterable(panels):
                if title not in films:
                    file = io.BytesIO()
                    film = FilmWriter(file, reader.fps, crf=23, preset="fast", rate=rate, threads=0)
                    films[title] = file, stack.enter_context(film)
                films[title][1].add(picture)
    done = [PageFilm(title, file, look.panel) for title, (file, _) in films.items()]
    groups = [done[first : first + kinds] for first in range(0, len(done), kinds)]
    page = track_page(config, (*video, reader.fps), spans, figures, groups, fastest)
    write_whole(config.out, render_track_page(page).encode("utf-8", "replace"))


def counted(states: Iterator[State], figures: list[Figures]) -> Iterator[State]:
    """The same states, added to the figures of each estimator as they pass."""
    for moment, followers, finished in states:
        for each, tracks in zip(figures, finished, strict=True):
            if tracks is not None:
                each.add_window(tracks)
        for each, fields in zip(figures, moment.fields or [], strict=False):
            each.add_pair(fields)
        yield moment, followers, finished
