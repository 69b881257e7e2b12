"""Videos of a texture that moves as a whole by a known number of pixels from frame to frame."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np

from tests.motion.textures import texture

Move = tuple[int, int]
MOVES: tuple[Move, ...] = tuple((2 + k % 3, -1 + k % 2) for k in range(23))
"""(x, y) from each frame to the next: no two neighbours alike, so nothing can be interpolated."""


def write_pan(
    path: Path,
    codec: str = "libx264",
    *,
    moves: Sequence[Move] = MOVES,
    size: tuple[int, int] = (112, 176),
    options: dict[str, str] | None = None,
    rotation: float | None = None,
) -> Path:
    """Write len(moves) + 1 frames of height × width `size`; the texture goes by `moves`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = size
    places = np.cumsum([(0, 0), *moves], axis=0)
    margin = int(np.abs(places).max())
    scene = texture(height + 2 * margin, width + 2 * margin, 3, smooth=1.5).numpy()
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options or {})
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 4_000_000
        if rotation is not None:
            stream.set_display_rotation(rotation)
        for x, y in places:
            view = scene[margin - y : margin - y + height, margin - x : margin - x + width]
            image = np.ascontiguousarray(np.repeat(view[..., None], 3, axis=2))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode(None))
    return path
