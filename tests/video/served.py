"""A folder served over HTTP on this machine, with requests for parts of files or without."""

from __future__ import annotations

import functools
import http.server
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Asked = list[tuple[str, str | None]]
"""Paths and parts."""


class Parts(http.server.SimpleHTTPRequestHandler):
    """Answers `Range: bytes=A-B`, as the servers do that shards lie on."""

    asked: Asked
    away: list[int]

    def do_GET(self) -> None:
        if self.away:
            self.away[0] -= 1
            if self.away[0] <= 0:
                self.away.clear()
            self.send_error(503)
            return
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        self.asked.append((self.path, part and part[0]))
        path = Path(self.translate_path(self.path))
        if part is None or not path.is_file():
            super().do_GET()
            return
        data = path.read_bytes()
        first, last = int(part[1]), min(int(part[2] or len(data)), len(data) - 1)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.send_header("Content-Length", str(last + 1 - first))
        self.end_headers()
        self.wfile.write(data[first : last + 1])

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Whole(http.server.SimpleHTTPRequestHandler):
    """Sends whole files, whatever is asked for."""

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def serve(
    folder: Path, *, parts: bool = True, away: list[int] | None = None
) -> Iterator[tuple[str, Asked]]:
    """The URL of a folder, and what was asked for: (path, part).

    Args:
        folder: what is served.
        parts: answer requests for parts.
        away: while it holds a number, so many requests are refused as by a server that is down.
    """
    asked: Asked = []
    facts = {"asked": asked, "away": [] if away is None else away}
    kind = type("Handler", (Parts,), facts) if parts else Whole
    handler = functools.partial(kind, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()
