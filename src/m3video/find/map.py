"""Features -> places on a map, and groups. UMAP runs in a process of its own: it takes a while, and
a page that is asked for meanwhile must not wait."""

from __future__ import annotations

import multiprocessing
import threading
from importlib.util import find_spec
from multiprocessing.connection import Connection
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from m3video.errors import ConfigError

FEW = 50
"""Rows below which the neighbourhoods that UMAP keeps are nearly everything: PCA shows as much."""
SEED = 0

MapKind = Literal["umap", "pca"]


def choose_map(wanted: Literal["auto", "umap", "pca"], rows: int) -> MapKind:
    """The map that is drawn in the end.

    Raises:
        ConfigError: umap is wanted and not installed, or there are too few rows for it.
    """
    installed = find_spec("umap") is not None
    if wanted == "umap" and not installed:
        raise ConfigError("--map umap needs umap-learn: pip install 'm3video[browse]', or use pca")
    if wanted == "umap" and rows < 4:
        raise ConfigError(f"--map umap: {rows} rows are too few; use pca")
    if wanted == "auto":
        return "umap" if installed and rows >= FEW else "pca"
    return wanted


def pca_places(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The two directions of largest variance: [R, D] → [R, 2], each within 0 … 1."""
    centred = torch.from_numpy(values - values.mean(0))
    if len(values) < 2 or values.shape[1] < 2:
        return np.full((len(values), 2), 0.5, np.float32)
    _, directions = torch.linalg.eigh((centred.T @ centred).double())
    places = centred @ directions[:, -2:].flip(1).float()
    return within(places.numpy())


def umap_places(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """UMAP (arXiv 1802.03426) by cosine: [R, D] → [R, 2], each within 0 … 1."""
    import umap

    neighbours = min(15, len(values) - 1)
    start = "spectral" if len(values) > 20 else "random"
    reducer = umap.UMAP(
        n_neighbors=neighbours, metric="cosine", random_state=SEED, n_jobs=1, init=start
    )
    return within(np.asarray(reducer.fit_transform(values), np.float32))


def within(places: NDArray[np.float32]) -> NDArray[np.float32]:
    """Places moved and scaled, alike in both directions, so that they fill 0 … 1."""
    low, high = places.min(0), places.max(0)
    size = max(float((high - low).max()), 1e-9)
    return np.asarray(0.5 + (places - (low + high) / 2) / size, np.float32)


def clusters(values: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """k-means: [R, D] → the group of each row [R], the largest group first."""
    from sklearn.cluster import KMeans, MiniBatchKMeans

    different: set[bytes] = set()
    for row in values:  # rarely more than `count` rows are looked at
        different.add(row.tobytes())
        if len(different) == count:
            break
    count = len(different)
    kind = MiniBatchKMeans if len(values) > 20000 else KMeans
    found = kind(count, n_init=3, random_state=SEED).fit_predict(values)
    rank = np.argsort(np.argsort(-np.bincount(found, minlength=count), kind="stable"))
    return np.asarray(rank[found], np.int64)


class Map:
    """Places of all rows: PCA's at once, UMAP's when they are found.

    Attributes:
        places: float32 [R, 2], within 0 … 1.
        kind: how they were found.
        waiting: whether better ones are being looked for.
    """

    def __init__(self, values: NDArray[np.float32], kind: MapKind) -> None:
        self.places = pca_places(values)
        self.kind: MapKind = "pca"
        self.waiting = kind == "umap"
        if self.waiting:
            threading.Thread(target=self._wait, args=(values,), daemon=True).start()

    def _wait(self, values: NDArray[np.float32]) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe(duplex=False)
        # A daemon ends with this process.
        process = context.Process(target=_send_places, args=(theirs, values), daemon=True)
        try:
            process.start()
            theirs.close()
            self.places, self.kind = ours.recv(), "umap"
        except (EOFError, OSError):  # it was killed, such as for its memory: PCA stays
            pass
        finally:
            self.waiting = False


def _send_places(connection: Connection[Any, Any], values: NDArray[np.float32]) -> None:
    connection.send(umap_places(values))
