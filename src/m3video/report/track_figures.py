"""What a video's motion comes to, in a few numbers that are summed frame by frame."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from m3video.motion.camera import bring_back
from m3video.motion.fields import Fields
from m3video.motion.trajectory import Tracks
from m3video.report.track_motion import PairMotion
from m3video.video.reader import VideoReader

_SAMPLED = 12
"""Pairs that the wheel's scale is found in."""
_OF_PIXELS, _OF_PAIRS = 0.98, 0.8
"""Shares that are not faster: of a pair's pixels, and of the pairs, so that a cut says nothing."""
_SLOWEST = 1.0
"""Pixels a frame that the wheel's scale has at least: less is the estimator's noise."""


@dataclass
class Figures:
    """Running sums of one estimator."""

    name: str
    points: int = 0
    seen: int = 0
    steps: int = 0
    way: float = 0.0
    pairs: int = 0
    camera_way: float = 0.0
    checked: int = 0
    agreed: int = 0

    def add_window(self, tracks: Tracks) -> None:
        """Add whole trajectories with leading [h, w]."""
        lasting = tracks.visible[..., 1:]
        length = torch.linalg.vector_norm(tracks.displacements, dim=-1)
        self.points += lasting[..., -1].numel()
        self.seen += int(lasting[..., -1].sum())
        self.steps += int(lasting.sum())
        self.way += float(length[lasting].double().sum())

    def add_pair(self, fields: Fields) -> None:
        """Add the fields of one pair."""
        height, width = fields.flow.shape[-2:]
        if fields.camera is not None:
            y, x = torch.meshgrid(
                torch.linspace(0, height - 1, 9), torch.linspace(0, width - 1, 9), indexing="ij"
            )
            places = torch.stack([x, y], dim=-1)
            moved = bring_back(places, fields.camera[0, 0]) - places
            self.pairs += 1
            self.camera_way += float(torch.linalg.vector_norm(moved, dim=-1).mean())
        if fields.consistent is not None:
            self.checked += fields.consistent.numel()
            self.agreed += int(fields.consistent.sum())

    @property
    def speed(self) -> float | None:
        """Mean way of a visible step, in pixels."""
        return self.way / self.steps if self.steps else None

    @property
    def camera_speed(self) -> float | None:
        """Mean way of the background between two frames, in pixels."""
        return self.camera_way / self.pairs if self.pairs else None

    @property
    def seen_share(self) -> float:
        """Share of the trajectories whose point is visible to the end."""
        return self.seen / max(self.points, 1)

    @property
    def agreed_share(self) -> float | None:
        """Share of the pixels that the flow back leads back to."""
        return self.agreed / self.checked if self.checked else None


def wheel_scale(
    reader: VideoReader, span: range, source: PairMotion, small: tuple[int, int], *, camera: bool
) -> float:
    """A speed that few pixels exceed, in pixels a frame: found in a few pairs of the span.

    One scale holds for a whole film, because colours that change their meaning cannot be compared.
    `camera`: the flow that is shown is without the camera's motion.
    """
    share = torch.tensor([reader.width / small[1], reader.height / small[0]])[:, None, None]
    count = min(_SAMPLED, len(span) - 1)
    firsts = {span[(2 * part + 1) * (len(span) - 1) // (2 * count)] for part in range(count)}
    wanted = sorted(firsts | {first + 1 for first in firsts})
    speeds, before = [], None
    for number, image in reader.images(wanted):
        if before is not None and number - 1 in firsts:
            fields = source.fields(number - 1, [before, image])
            shown = (fields.relative if camera else fields.flow)[0, 0] * share
            speed = torch.linalg.vector_norm(shown[:, ::4, ::4], dim=0).nan_to_num(0.0)
            speeds.append(float(np.quantile(speed.numpy(), _OF_PIXELS)))
        before = image.copy()
    return two_digits(max(float(np.quantile(speeds, _OF_PAIRS)), _SLOWEST))


def two_digits(value: float) -> float:
    """Rounded to two digits, so that it can be written beside the wheel."""
    return round(value, 1 - math.floor(math.log10(value)))
