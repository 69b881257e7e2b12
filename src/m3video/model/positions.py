"""A table of positions, read on another grid of tokens.

The table holds sines and cosines of a token's number in (time, row, column) order, so it cannot be
computed at places between tokens: half a row further down has the number of a token some columns to
the right. On another grid the table is therefore interpolated, and stretched over the same extent:
16 frames of 224×224 become 32 frames of the same time, or 384×384 pixels of the same picture.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import interpolate

Grid = tuple[int, int, int]
"""Tokens in time, rows and columns."""


def interpolate_positions(table: Tensor, grid: Grid, tokens: Grid) -> Tensor:
    """Read a table of positions on another grid over the same extent.

    Bicubic in rows and columns, linear in time; cell centres are mapped to cell centres, so a new
    token whose centre is that of an old one has its position exactly. An axis that keeps its length
    is not interpolated; the same grid gives the same table, bit for bit.

    Args:
        table: float [t·h·w, D].
        grid: (t, h, w), the grid of the table.
        tokens: (t', h', w'), the grid that is wanted.

    Returns:
        float [t'·h'·w', D].
    """
    width = table.shape[1]
    t, h, w = grid
    values = table.reshape(t, h, w, width)
    if tokens[1:] != grid[1:]:
        images = values.permute(0, 3, 1, 2)
        images = interpolate(images, size=tokens[1:], mode="bicubic", align_corners=False)
        values = images.permute(0, 2, 3, 1)
    if tokens[0] != t:
        lines = values.permute(1, 2, 3, 0).flatten(0, 1)
        lines = interpolate(lines, size=tokens[0], mode="linear", align_corners=False)
        values = lines.permute(2, 0, 1).reshape(*tokens, width)
    return values.reshape(-1, width).contiguous()
