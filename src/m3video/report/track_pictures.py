"""Pictures of motion: tails over a frame, flow in colour, and several of them in one film's frame.

A note on coordinates: panels have another size than the video, so a point x of the video lies at
(x + ½) s − ½ of a panel.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from m3video.motion.fields import Fields
from m3video.report.flow_wheel import flow_picture, wheel_colours, wheel_key
from m3video.report.overlays import HUES, Floats, Frame, draw_tails, fade, motion_palette
from m3video.report.track_motion import Follower, Window

PAPER = (24, 25, 29)
INK = (226, 227, 230)
GAP = 8  # pixels between panels
STRIP = 30  # pixels above a panel, for its title
WIDEST, HIGHEST = 1920, 1200
SMALLEST = 480  # longer side of a panel, if the whole is not too large then
TURN = 3  # frames that the dots of one window take to give way to those of the next
_FONT = cv2.FONT_HERSHEY_SIMPLEX

# Pastel, as the wheel's colours are half-way to its rim: a full blue is lost on a dark frame.
_DIRECTIONS = 0.72 * wheel_colours(np.arange(HUES) / HUES) + 0.28 * 255


@dataclass(frozen=True)
class Look:
    """How large panels are drawn, and what the strongest colour means."""

    video: tuple[int, int]
    """Height and width of the video."""
    panel: tuple[int, int]
    """Height and width of a panel; even."""
    fastest: float
    """Pixels of the video a frame that get the wheel's full colour."""

    @property
    def scale(self) -> float:
        """Pixels of a panel for one of the video."""
        return self.panel[1] / self.video[1]

    @property
    def thickness(self) -> int:
        """Of tails, in pixels of a panel."""
        return max(1, round(max(self.panel) / 640))


def panel_size(video: tuple[int, int], columns: int, rows: int) -> tuple[int, int]:
    """Height and width of a panel: readable, and the whole film no larger than players like."""
    height, width = video
    scale = max(1.0, SMALLEST / max(video))
    scale = min(scale, WIDEST / (columns * width), HIGHEST / (rows * height))
    return max(2, 2 * round(height * scale / 2)), max(2, 2 * round(width * scale / 2))


def resized(frame: Frame, size: tuple[int, int]) -> Frame:
    """A frame in another size [H, W]."""
    if frame.shape[:2] == size:
        return frame
    smaller = size[0] < frame.shape[0]
    how = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(frame, size[::-1], interpolation=how), dtype=np.uint8)


def quiet(frame: Frame) -> Frame:
    """The frame with less colour and light, so that it is still seen and tails stand out."""
    luma = np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY))[..., None]
    return np.rint(0.34 * luma + 0.26 * frame + 8.0).astype(np.uint8)


def tracks_panel(frame: Frame, follower: Follower, length: int, look: Look) -> Frame:
    """Tails over the frame: each segment fades away within `length` frames.

    Args:
        frame: uint8 [H, W, 3] of the video.
        follower: as far as this frame.
        length: L.
        look: of the panel.
    """
    canvas = quiet(resized(frame, look.panel))
    now = follower.current.steps
    fading = follower.previous
    if fading is not None:
        head = max(0.0, 1.0 - now / TURN)
        canvas = _draw_window(canvas, fading, now, length, head, look)
    head = 1.0 if fading is None else min(1.0, now / TURN)
    return _draw_window(canvas, follower.current, 0, length, head, look)


def _draw_window(
    canvas: Frame, window: Window, old: int, length: int, head: float, look: Look
) -> Frame:
    """Draw a window whose newest step is `old` frames old."""
    points, visible = tail(window)
    age = old + np.arange(window.steps)[::-1]
    opacity = 0.95 * np.clip(1.0 - age / length, 0.0, 1.0)
    scale = np.array(look.panel[::-1]) / np.array(look.video[::-1])
    return draw_tails(
        canvas,
        (points + 0.5) * scale - 0.5,
        visible,
        opacity,
        motion_palette(_DIRECTIONS, look.fastest * look.scale),
        head=head,
        thickness=look.thickness,
    )


def tail(window: Window) -> tuple[Floats, NDArray[np.bool_]]:
    """Where the points of a window seem to have come from: [n, s + 1, 2], and bool [n, s + 1].

    The path ends where the point is last seen and goes back along its displacements. That is the
    way it went, or where the camera's motion is removed the way it went by itself.
    """
    if not window.steps:
        seeds = window.points[0].reshape(-1, 1, 2).numpy()
        return seeds, np.ones(seeds.shape[:2], np.bool_)
    tracks = window.tracks()
    points = tracks.points.flatten(0, 1).numpy()
    visible = tracks.visible.flatten(0, 1).numpy()
    going = tracks.displacements.flatten(0, 1).numpy().cumsum(axis=1)
    going = np.concatenate([np.zeros_like(going[:, :1]), going], axis=1)
    every, last = np.arange(len(points)), np.maximum(visible.sum(axis=1) - 1, 0)
    return (points[every, last] - going[every, last])[:, None] + going, visible


def flow_panel(fields: Fields, look: Look, *, checked: bool) -> Frame:
    """Flow of one pair as colours; greyed where it is `checked` and the way back disagrees."""
    flow = fields.relative[0, 0].permute(1, 2, 0).contiguous().numpy()
    smaller = look.panel[0] < flow.shape[0]
    how = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    drawn = np.asarray(cv2.resize(flow, look.panel[::-1], interpolation=how), np.float32)
    picture = flow_picture(drawn, look.fastest)
    if not checked or fields.consistent is None:
        return picture
    holds = fields.consistent[0, 0].numpy().astype(np.uint8)
    kept = cv2.resize(holds, look.panel[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    return np.where(np.asarray(kept)[..., None] > 0, picture, fade(picture, 0.75))


def sheet(rows: list[list[tuple[str, Frame]]]) -> Frame:
    """Panels with their titles in one picture, uint8 [H, W, 3]; all panels have one size."""
    height, width = rows[0][0][1].shape[:2]
    columns = max(len(row) for row in rows)
    whole = np.empty(
        (
            len(rows) * (STRIP + height) + (len(rows) - 1) * GAP,
            columns * width + (columns - 1) * GAP,
            3,
        ),
        np.uint8,
    )
    whole[:] = PAPER
    for down, row in enumerate(rows):
        for right, (title, panel) in enumerate(row):
            top, left = down * (STRIP + height + GAP), right * (width + GAP)
            _title(whole[top : top + STRIP, left : left + width], title)
            whole[top + STRIP : top + STRIP + height, left : left + width] = panel
    return whole


def _title(strip: Frame, text: str) -> None:
    """Write into a strip, smaller if it is narrow."""
    size = 0.55
    (wide, _), _ = cv2.getTextSize(text, _FONT, size, 1)
    size *= min(1.0, (strip.shape[1] - 12) / wide)
    written = np.ascontiguousarray(strip)
    cv2.putText(written, text, (6, STRIP - 10), _FONT, size, INK, 1, cv2.LINE_AA)
    strip[:] = written


def add_key(panel: Frame, fastest: float) -> Frame:
    """Draw the wheel in the lower right corner, with the speed of its rim in pixels a frame."""
    height, width = panel.shape[:2]
    side = int(np.clip(0.2 * min(height, width), 40, 120))
    text = f"{fastest:g} px/frame"
    (wide, high), _ = cv2.getTextSize(text, _FONT, 0.45, 1)
    box = max(side, wide) + 12, side + high + 20
    if box[0] + 8 > width or box[1] + 8 > height:
        return panel
    drawn = panel.copy()
    left, top = width - box[0] - 8, height - box[1] - 8
    plate = drawn[top : top + box[1], left : left + box[0]]
    plate[:] = fade(plate, 0.82, PAPER)
    wheel, opacity = wheel_key(side)
    inset = (box[0] - side) // 2
    under = plate[6 : 6 + side, inset : inset + side]
    under[:] = np.rint(under + (wheel.astype(np.float32) - under) * opacity[..., None])
    corner = left + (box[0] - wide) // 2, top + box[1] - 7
    cv2.putText(drawn, text, corner, _FONT, 0.45, INK, 1, cv2.LINE_AA)
    return drawn
