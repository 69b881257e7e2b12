"""How a file asks to be shown: turned by quarters, or mirrored."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from av.sidedata.sidedata import SideData
from av.video.frame import VideoFrame
from numpy.typing import NDArray


@dataclass(frozen=True)
class Turn:
    """From coded to displayed: first rows and columns change places, then sides are mirrored."""

    transpose: bool = False
    mirror_x: bool = False
    mirror_y: bool = False

    @classmethod
    def of(cls, frame: VideoFrame) -> Turn:
        """What the display matrix of a frame says.

        The matrix maps (x, y) to (a x + c y, b x + d y), in 16.16 fixed point, row by row
        a b u c d v.
        """
        side_data = frame.side_data.get("DISPLAYMATRIX")
        if side_data is None:
            return cls()
        assert isinstance(side_data, SideData)
        a, b, _, c, d, *_ = np.frombuffer(memoryview(side_data), np.int32).tolist()
        if abs(b) > abs(a):
            return cls(transpose=True, mirror_x=c < 0, mirror_y=b < 0)
        return cls(mirror_x=a < 0, mirror_y=d < 0)

    def pixels(self, coded: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A view of coded pixels [H, W, C] as they are displayed."""
        if self.transpose:
            coded = coded.transpose(1, 0, 2)
        return coded[:: -1 if self.mirror_y else 1, :: -1 if self.mirror_x else 1]

    def blocks(self, coded: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
        """Blocks with vectors of a coded frame as they are displayed.

        Args:
            coded: [V, 6] left, top, width, height, and the vector's x and y, in pixels.
            height: of the coded frame.
            width: of the coded frame.
        """
        if self.transpose:
            coded = coded[:, [1, 0, 3, 2, 5, 4]]
            height, width = width, height
        left, top, across, down, x, y = coded.T
        if self.mirror_x:
            left, x = width - left - across, -x
        if self.mirror_y:
            top, y = height - top - down, -y
        return np.stack([left, top, across, down, x, y], axis=1)
