"""`browse`: a local web page of a features file. It is reachable from this machine only."""

from __future__ import annotations

import socket
from importlib.util import find_spec

from m3video.config import BrowseConfig
from m3video.errors import ConfigError
from m3video.find.features import open_features

HOST = "127.0.0.1"


def browse(config: BrowseConfig) -> None:
    """Serve the page until Ctrl-C, and print its address.

    Raises:
        ConfigError: no features file, no web server installed, or the port is taken.
    """
    missing = [name for name in ("starlette", "uvicorn", "sklearn") if find_spec(name) is None]
    if missing:
        raise ConfigError(f"browse needs {missing[0]}: pip install 'm3video[browse]'")
    file = open_features(config.features)
    file.require_vectors()
    listener = listen(config.port)
    import uvicorn

    from m3video.find.server import Browser

    app = Browser(file, config).app()
    server = uvicorn.Server(
        uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1, server_header=False)
    )
    print(f"http://{HOST}:{listener.getsockname()[1]}/  (Ctrl-C ends)", flush=True)
    server.run(sockets=[listener])


def listen(port: int) -> socket.socket:
    """A socket that waits for this machine's browsers; port 0 is any that is free.

    Raises:
        ConfigError: the port is taken, or not for everyone.
    """
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"port {port}: {error.strerror}; use another --port, or 0 for any that is free"
        ) from error
    listener.listen()
    return listener
