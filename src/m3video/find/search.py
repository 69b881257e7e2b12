"""`search`: the rows of a features file that are nearest to one of them, or to another video.

Likeness is the cosine after standardisation, as in the probe's nearest neighbours: each of the D
features has its mean over the file's rows subtracted and is divided by its deviation. Features of
transformers share a large common part, and a few of them vary far more than the rest; without
standardisation nearly all cosines are near 1 and those few decide.

The search is exact. It makes two passes over the file, a chunk at a time: one for mean and
deviation, one for the nearest.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from m3video.config import SearchConfig
from m3video.find.features import open_features
from m3video.find.query import find_query, float_tensor
from m3video.video.walk import shown

EPSILON = 1e-6
"""Added to deviations, as the probe does."""


@dataclass(frozen=True)
class Standard:
    """Mean and deviation of each feature over a file's rows.

    Attributes:
        mean: float32 [D].
        deviation: float32 [D], of the population.
    """

    mean: Tensor
    deviation: Tensor

    def __call__(self, values: Tensor) -> Tensor:
        """Standardised rows of length 1, so that products are cosines: [R, D] → float32 [R, D]."""
        return normalize((values.float() - self.mean) / (self.deviation + EPSILON), dim=1)


def standard_of(chunks: Iterable[NDArray[np.floating[Any]]]) -> Standard:
    """Mean and deviation over all rows of some chunks [r, D], in one pass (Chan et al. 1979)."""
    count = 0
    mean = squares = torch.zeros(1, dtype=torch.float64)
    for chunk in chunks:
        values = float_tensor(chunk).double()
        new = len(values)
        difference = values.mean(0) - mean
        squares = squares + (values - values.mean(0)).square().sum(0)
        squares = squares + difference.square() * count * new / (count + new)
        mean = mean + difference * new / (count + new)
        count += new
    return Standard(mean.float(), (squares / count).sqrt().float())


def nearest(
    query: Tensor,
    chunks: Iterable[NDArray[np.floating[Any]]],
    standard: Standard,
    count: int,
    *,
    without: Collection[int] = (),
) -> tuple[Tensor, Tensor]:
    """The rows with the largest cosine.

    Args:
        query: float [D], not standardised.
        chunks: the rows [r, D], in their order.
        standard: of them.
        count: rows wanted.
        without: rows that are left out.

    Returns:
        Cosines, float32 [K], descending, and rows, int64 [K]; K may be less than `count`. Of equal
        ones the earlier row comes first.
    """
    wanted = standard(query[None])[0]
    best, rows = torch.empty(0), torch.empty(0, dtype=torch.int64)
    first = 0
    for chunk in chunks:
        cosine = standard(float_tensor(chunk)) @ wanted
        numbers = torch.arange(first, first + len(cosine))
        out = [row - first for row in without if first <= row < first + len(cosine)]
        cosine[out] = -torch.inf
        best, rows = torch.cat((best, cosine)), torch.cat((rows, numbers))
        order = best.argsort(descending=True, stable=True)[:count]
        best, rows = best[order], rows[order]
        first += len(chunk)
    kept = best > -torch.inf
    return best[kept], rows[kept]


def search(config: SearchConfig) -> dict[str, Any]:
    """Find what is most like a video or a clip; see `SearchConfig`.

    Returns:
        query, rows (how many were searched), features, and found: a list of path, start and end in
        seconds, label, cosine and row, nearest first.

    Raises:
        ConfigError: no features file, a query that is nothing, or another model.
        VideoError: the query cannot be read.
    """
    file = open_features(config.features)
    file.require_vectors()
    query = find_query(file, config)
    standard = standard_of(file.chunks())
    without = query.video if config.others else query.rows
    cosines, found = nearest(query.values, file.chunks(), standard, config.count, without=without)
    return {
        "query": config.query,
        "features": str(config.features),
        "rows": len(file),
        "found": [
            {
                "path": file.paths[row],
                "start": float(file.start[row]),
                "end": float(file.end[row]),
                "label": file.labels[row],
                "cosine": round(cosine, 6),
                "row": row,
            }
            for row, cosine in zip(found.tolist(), cosines.tolist(), strict=True)
        ],
    }


def format_found(found: dict[str, Any]) -> str:
    """What `search` found, for people: a line a row."""
    lines = [f"{len(found['found'])} nearest of {found['rows']} rows to {shown(found['query'])}"]
    for row in found["found"]:
        label = "" if row["label"] is None else f"  {shown(row['label'])}"
        seconds = f"{row['start']:8.2f} – {row['end']:.2f} s"
        lines.append(f"{row['cosine']:7.3f}  {seconds:22}{label:14}  {shown(row['path'])}")
    return "\n".join(lines)
