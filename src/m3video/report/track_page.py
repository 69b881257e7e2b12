"""The page about a video's motion: films, their key, and what the motion comes to."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from m3video.config import TrackConfig
from m3video.report.film import data_url
from m3video.report.flow_wheel import wheel_key
from m3video.report.plots import number
from m3video.report.track_figures import Figures

PAGE_FRAMES = 600
"""Frames that a page shows at most: browsers hold it whole in memory."""
PAGE_BYTES = 16_000_000
"""About what the films of a page take at most."""
BEST_RATE = 2500  # kilobits a second beyond which such films gain nothing
LEGEND = {
    "Trajectories": (
        "Points on a grid and the way they came. New ones start again and again, while the "
        "tails of those before them fade."
    ),
    "Flow": "Where each pixel goes until the next frame.",
}


@dataclass(frozen=True)
class PageFilm:
    """One film."""

    title: str
    content: io.BytesIO
    size: tuple[int, int]
    """Height and width."""

    @property
    def url(self) -> str:
        """As a `data:` URL."""
        return data_url(self.content.getvalue(), "video/mp4")


@dataclass(frozen=True)
class TrackPage:
    """All that the template reads."""

    name: str
    lead: str
    warnings: list[str]
    figures: list[tuple[str, list[tuple[str, str]]]]
    """Of each figure its name, and for each estimator its value and unit."""
    estimators: tuple[str, ...]
    groups: list[list[PageFilm]]
    """The films of each estimator."""
    legend: list[tuple[str, str]]
    key: str
    fastest: str
    settings: str


def film_rate(films: int, frames: int, fps: float) -> int:
    """Kilobits a second of each film of a page."""
    return max(1, min(BEST_RATE, int(8 * PAGE_BYTES * fps / (1000 * films * frames))))


def track_page(
    config: TrackConfig,
    video: tuple[int, int, float],
    spans: tuple[range, range],
    figures: Sequence[Figures],
    groups: list[list[PageFilm]],
    fastest: float,
) -> TrackPage:
    """Say what is shown.

    Args:
        config: of the verb.
        video: height, width, frames a second.
        spans: the frames that are shown, and those that were asked for.
        figures: of each estimator.
        groups: the films of each estimator.
        fastest: the speed at the rim of the wheel.
    """
    height, width, fps = video
    shown, asked = spans
    points = "every pixel" if config.spacing == 1 else f"every {config.spacing} px"
    steps = "1 step" if config.length == 1 else f"{config.length} steps"
    lead = (
        f"{width} × {height} px, {number(round(fps, 2))} frames a second, frames {shown[0]:,} to "
        f"{shown[-1]:,}. Flow by {', '.join(config.flow)}; trajectories of {steps} from points "
        f"{points}{', without the motion of the camera' if config.camera else ''}."
    )
    warnings = []
    if len(shown) < len(asked):
        warnings.append(
            f"These are the first {len(shown):,} of {len(asked):,} frames. Choose others with "
            "--start and --count, or write an .mp4, which shows all."
        )
    titles = {"Trajectories": config.show != "flow", "Flow": config.show != "tracks"}
    legend = [(title, LEGEND[title]) for title, there in titles.items() if there]
    if config.visibility == "forward-backward" and titles["Flow"]:
        legend.append(("Greyed flow", "There the flow back leads elsewhere: nothing is followed."))
    return TrackPage(
        name=config.video.name,
        lead=lead,
        warnings=warnings,
        figures=figure_rows(config, figures),
        estimators=config.flow,
        groups=groups,
        legend=legend,
        key=_key_url(),
        fastest=number(fastest),
        settings=yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False),
    )


def figure_rows(
    config: TrackConfig, figures: Sequence[Figures]
) -> list[tuple[str, list[tuple[str, str]]]]:
    """The figures in words; an estimator that has none of a kind gets a dash."""
    own = "Mean speed, without the camera" if config.camera else "Mean speed"
    after = f"Visible after {config.length} step{'s' if config.length > 1 else ''}"
    rows = [
        (own, [_pixels(each.speed) for each in figures]),
        ("Camera speed", [_pixels(each.camera_speed) for each in figures]),
        (after, [_share(each.seen_share) for each in figures]),
        ("Forward and backward agree", [_share(each.agreed_share) for each in figures]),
    ]
    return [row for row in rows if any(value != "–" for value, _ in row[1])]


def render_track_page(page: TrackPage) -> str:
    """The page as HTML; every string that came from outside is escaped."""
    environment = Environment(
        loader=PackageLoader("m3video.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template("track_page.html.j2").render(page=page)


def _pixels(value: float | None) -> tuple[str, str]:
    return ("–", "") if value is None else (f"{value:.2f}", "px a frame")


def _share(value: float | None) -> tuple[str, str]:
    return ("–", "") if value is None else (f"{100 * value:.1f} %", "")


def _key_url() -> str:
    wheel, opacity = wheel_key(192)
    shown = np.dstack([wheel[..., ::-1], np.rint(255 * opacity).astype(np.uint8)])
    done, content = cv2.imencode(".png", shown)
    assert done
    return data_url(content.tobytes(), "image/png")
