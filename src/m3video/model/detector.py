"""Boxes in a clip -> actions: the model that is fine-tuned on AVA.

As VideoMAE's (arXiv 2203.12602, appendix "action detection"): the tokens of a clip are averaged
over time, RoIAlign cuts 7×7 cells out of this map for each box, their maximum is taken, and a
linear layer says each action with a probability of its own.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, grid_sample

from m3video.model.vit import VisionTransformer

CELLS = 7
"""Rows and columns of cells that a box is cut into."""
SAMPLES = 2
"""Rows and columns of points that a cell is the mean of."""
RARE = 0.01
"""Probability that is said of every action before anything is learned: most boxes lack most."""


def roi_align(maps: Tensor, boxes: Tensor, rows: Tensor, *, cells: int, samples: int) -> Tensor:
    """RoIAlign (arXiv 1703.06870, section 3): each cell is the mean of bilinear samples.

    A value of a map stands at the centre of its square, so x of a box is x · w − ½ in the numbers
    of columns (what others call `aligned`). Points outside of the centres take the value of the
    nearest edge.

    Args:
        maps: [B, D, h, w].
        boxes: [K, 4], x1, y1, x2, y2 as fractions of width and height.
        rows: int64 [K], the map of each box.
        cells: c, a side.
        samples: points of a cell, a side.

    Returns:
        [K, D, c, c], in the type of the boxes.
    """
    steps = (torch.arange(cells * samples, device=boxes.device) + 0.5) / (cells * samples)
    # What grid_sample calls −1 … 1 without aligned corners is 0 … 1 here: the edges of the map.
    x = 2 * (boxes[:, 0:1] + (boxes[:, 2:3] - boxes[:, 0:1]) * steps) - 1
    y = 2 * (boxes[:, 1:2] + (boxes[:, 3:4] - boxes[:, 1:2]) * steps) - 1
    shape = len(boxes), cells * samples, cells * samples
    points = torch.stack([x[:, None, :].expand(shape), y[:, :, None].expand(shape)], dim=-1)
    # In bfloat16 a place in the frame would be rounded to 1/256 of it.
    sampled = grid_sample(
        maps[rows].to(points.dtype), points, padding_mode="border", align_corners=False
    )
    return avg_pool2d(sampled, samples)


class Detector(nn.Module):
    """Clip and boxes -> logits of actions, each a yes or no of its own.

    As in the classifier, the norm of the encoder, where it has one, is moved behind the pooling.

    Args:
        encoder: becomes a part of the detector, and loses its norm to it.
        labels: the names of the actions.
    """

    def __init__(self, encoder: VisionTransformer, labels: tuple[str, ...]) -> None:
        super().__init__()
        self.labels = labels
        self.norm: nn.LayerNorm = encoder.take_norm()
        self.encoder = encoder
        self.head = nn.Linear(encoder.width, len(labels))
        nn.init.zeros_(self.head.weight)
        nn.init.constant_(self.head.bias, -math.log((1 - RARE) / RARE))

    def forward(self, clip: Tensor, boxes: Tensor, rows: Tensor) -> Tensor:
        """Say the actions of boxes.

        Args:
            clip: float [B, 3, T, H, W], normalised.
            boxes: float [K, 4], x1, y1, x2, y2 as fractions of width and height.
            rows: int64 [K], the clip of each box.

        Returns:
            [K, C].
        """
        t, h, w = self.encoder.tokens
        maps = self.encoder(clip).unflatten(1, (t, h, w)).mean(1).permute(0, 3, 1, 2)
        pooled = roi_align(maps, boxes, rows, cells=CELLS, samples=SAMPLES).amax((2, 3))
        return cast(Tensor, self.head(self.norm(pooled)))
