"""A clip as one small picture: its frames side by side, for the page to play.

Browsers cannot play every codec that decodes here, and a page with hundreds of video elements would
stall; a strip of frames is one picture, whose first frame is the still one.
"""

from __future__ import annotations

import functools

import cv2
import numpy as np
from numpy.typing import NDArray

from m3video.errors import VideoError
from m3video.video.reader import VideoReader

FRAMES = 12
"""Frames of a strip."""
HEIGHT, WIDTH = 120, 160
"""Pixels of a frame; what is left and right of it, or above and below, is cut off."""
_KEPT = 1024  # strips in memory, of about 40 KB each
_QUALITY = 72


@functools.lru_cache(maxsize=_KEPT)
def strip(path: str, start: float, end: float) -> bytes:
    """Frames of a clip, evenly spaced, side by side: WebP, 120 × (12 · 160) pixels.

    Args:
        path: the video.
        start: seconds.
        end: seconds.

    Raises:
        VideoError: it cannot be read.
    """
    with VideoReader(path) as reader:
        first = min(int(start * reader.fps), len(reader) - 1)
        last = min(max(int(end * reader.fps) - 1, first), len(reader) - 1)
        wanted = np.linspace(first, last, FRAMES).round().astype(int).tolist()
        picture = np.zeros((HEIGHT, FRAMES * WIDTH, 3), np.uint8)
        for index, image in reader.images(wanted):
            small = _cover(image)
            for place in (place for place, row in enumerate(wanted) if row == index):
                picture[:, place * WIDTH : (place + 1) * WIDTH] = small
    done, data = cv2.imencode(".webp", picture[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, _QUALITY])
    if not done:
        raise VideoError(f"{path}: no picture can be made of it")
    return data.tobytes()


def _cover(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The middle of a frame that fills the picture: uint8 [H, W, 3] → [120, 160, 3]."""
    height, width, _ = image.shape
    zoom = max(HEIGHT / height, WIDTH / width)
    tall, wide = min(round(HEIGHT / zoom), height), min(round(WIDTH / zoom), width)
    top, left = (height - tall) // 2, (width - wide) // 2
    crop = image[top : top + tall, left : left + wide]
    return np.asarray(cv2.resize(crop, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA), np.uint8)
