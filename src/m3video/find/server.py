"""The web page of `browse`: its files, what it asks for, and what it may.

- Videos are named by row number: no path of a request ever reaches the file system. What a row
  names is given only where it opens as a video. Nothing at a URL is asked for: a features file of
  unknown origin may name any address of this network.
- Only requests to 127.0.0.1 or localhost are answered, so a foreign page whose name resolves to
  this machine (DNS rebinding) reads nothing. The page may load nothing but this server's answers.
"""

from __future__ import annotations

import re
import secrets
from importlib.resources import files
from mimetypes import guess_type
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from m3video.config import BrowseConfig
from m3video.errors import VideoError
from m3video.find.features import FeatureFile
from m3video.find.map import Map, choose_map, clusters
from m3video.find.preview import strip
from m3video.find.query import float_tensor
from m3video.find.search import standard_of
from m3video.video.opening import open_video
from m3video.video.shards import read_video
from m3video.video.walk import is_remote

PAGES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/grid.js": ("grid.js", "text/javascript"),
    "/map.js": ("map.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; media-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
KEPT = {"cache-control": "private, max-age=3600"}
"""The page asks with a token of this server, as another one may show other rows at the address."""
NEIGHBOURS = 60
"""Rows that are given at most."""


class _Guarded:
    """Adds the headers above to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                headers.setdefault("cache-control", "no-store")
            await send(message)

        await self._app(scope, receive, guarded)


class Browser:
    """What the page asks for.

    Args:
        file: vectors, not tokens.
        config: the map and the number of clusters.
    """

    def __init__(self, file: FeatureFile, config: BrowseConfig) -> None:
        self._file = file
        self._values = _standardised(file)
        self._map = Map(self._values, choose_map(config.map, len(file)))
        self._clusters = clusters(self._values, config.clusters)
        known = {path: number for number, path in enumerate(dict.fromkeys(file.paths))}
        self._video = np.array([known[path] for path in file.paths])
        self._videos = list(known)
        self._token = secrets.token_hex(4)

    def app(self) -> Starlette:
        """The server."""
        routes = [Route(path, _page(*page)) for path, page in PAGES.items()]
        routes += [
            Route("/rows", self._rows),
            Route("/map", self._places),
            Route("/near/{row:int}", self._near),
            Route("/preview/{row:int}", self._preview),
            Route("/film/{row:int}", self._film),
        ]
        hosts = Middleware(
            TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"], www_redirect=False
        )
        return Starlette(routes=routes, middleware=[Middleware(_Guarded), hosts])

    async def _rows(self, request: Request) -> Response:
        """All rows, column by column; names of videos without the folder they share."""
        metadata = self._file.metadata
        labels = sorted({label for label in self._file.labels if label is not None})
        number = {label: place for place, label in enumerate(labels)}
        folder = _shared_folder(self._videos)
        return JSONResponse(
            {
                "name": self._file.path.name,
                "token": self._token,
                "folder": folder,
                "videos": [_text(path[len(folder) :]) for path in self._videos],
                "video": self._video.tolist(),
                "start": np.round(self._file.start, 3).tolist(),
                "end": np.round(self._file.end, 3).tolist(),
                "label": [-1 if x is None else number[x] for x in self._file.labels],
                "labels": labels,
                "cluster": self._clusters.tolist(),
                "per": metadata["per"],
                "width": metadata["shape"][0],
                "model": _text(metadata["model"]),
                "unreadable": len(metadata["unreadable"]),
            }
        )

    async def _places(self, request: Request) -> Response:
        """The map as it is now."""
        places = self._map.places
        x, y = np.round(places, 5).T.tolist()
        return JSONResponse({"kind": self._map.kind, "waiting": self._map.waiting, "x": x, "y": y})

    async def _near(self, request: Request) -> Response:
        """The nearest rows by cosine; with `others=1` of other videos only."""
        row = self._row(request)
        others = request.query_params.get("others") == "1"
        cosine = await run_in_threadpool(self._cosines, row)
        cosine[self._video == self._video[row] if others else row] = -np.inf
        order = np.argsort(-cosine, kind="stable")[:NEIGHBOURS]
        order = order[cosine[order] > -np.inf]
        found = {"rows": order.tolist(), "cosine": np.round(cosine[order], 4).tolist()}
        return JSONResponse(found)

    def _cosines(self, row: int) -> NDArray[np.float32]:
        return np.asarray(self._values @ self._values[row], np.float32)

    async def _preview(self, request: Request) -> Response:
        """The clip's strip of frames."""
        row = self._row(request)
        path = self._local(row)
        start, end = float(self._file.start[row]), float(self._file.end[row])
        try:
            data = await run_in_threadpool(strip, path, start, end)
        except (VideoError, OSError) as error:
            raise HTTPException(404, "the video cannot be read any more") from error
        return Response(data, media_type="image/webp", headers=KEPT)

    async def _film(self, request: Request) -> Response:
        """The video file itself, or the part of it that is asked for.

        A features file of unknown origin may name any file of this machine: no other is given.
        """
        path = Path(self._local(self._row(request)))
        try:
            data = await run_in_threadpool(read_video, path)  # of a video in a shard
            container, _ = await run_in_threadpool(open_video, path, 1, data)
        except VideoError as error:
            raise HTTPException(404, "the video cannot be read any more") from error
        container.close()
        # Never a page or a script, whatever a video is called.
        guess, _ = guess_type(path.name)
        kind = guess if guess and guess.startswith("video/") else "application/octet-stream"
        if data is not None:
            return _part(data, request.headers.get("range", ""), kind)
        return FileResponse(path, headers=KEPT, media_type=kind)

    def _local(self, row: int) -> str:
        path = self._file.paths[row]
        if is_remote(path):
            raise HTTPException(404, "videos at a URL are not shown; copy the shards to a disk")
        return path

    def _row(self, request: Request) -> int:
        row = int(request.path_params["row"])
        if row >= len(self._file):
            raise HTTPException(404, f"there are {len(self._file)} rows")
        return row


def _part(data: bytes, asked: str, kind: str) -> Response:
    """One range of bytes, as `bytes=FIRST-LAST`, `bytes=FIRST-` or `bytes=-COUNT`; else all."""
    headers = {**KEPT, "accept-ranges": "bytes"}
    match = re.fullmatch(r"bytes=(\d{0,15})-(\d{0,15})", asked, re.ASCII)
    if match is None or not (match[1] or match[2]):
        return Response(data, headers=headers, media_type=kind)
    end = len(data)
    if not match[1]:
        first = max(end - int(match[2]), 0)
    else:
        first = int(match[1])
        end = min(int(match[2]) + 1, end) if match[2] else end
    if first >= end:
        raise HTTPException(416, headers={"content-range": f"bytes */{len(data)}"})
    headers["content-range"] = f"bytes {first}-{end - 1}/{len(data)}"
    return Response(data[first:end], 206, headers, kind)


def _page(name: str, kind: str) -> Any:
    data = files("m3video.find").joinpath("page", name).read_bytes()

    async def page(request: Request) -> Response:
        return Response(data, media_type=kind)

    return page


def _standardised(file: FeatureFile) -> NDArray[np.float32]:
    """All rows as `search` compares them: float32 [R, D] of length 1."""
    standard = standard_of(file.chunks())
    values = np.empty((len(file), file.metadata["shape"][0]), np.float32)
    first = 0
    for chunk in file.chunks():  # into place: parts that are joined at the end would need it twice
        values[first : first + len(chunk)] = standard(float_tensor(chunk)).numpy()
        first += len(chunk)
    return values


def _shared_folder(paths: list[str]) -> str:
    """The longest folder, with its last slash, that all paths begin with."""
    folders = [path.rsplit("/", 1)[0].split("/") for path in paths]
    shared = []
    for names in zip(*folders, strict=False):
        if len(set(names)) > 1:
            break
        shared.append(names[0])
    return "/".join(shared) + "/" if shared else ""


def _text(path: str) -> str:
    """A name that is UTF-8."""
    return path.encode("utf-8", "replace").decode()
