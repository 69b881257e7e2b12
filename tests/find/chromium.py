"""A real browser, driven over a pipe with its own protocol: real pointer, real keys, pictures.

Chromium reads commands from file descriptor 3 and answers on 4, JSON that ends in a zero byte.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any, Self

CHROMIUM = next(
    (
        found
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (found := shutil.which(name))
    ),
    None,
)


class Page:
    """One page in a fresh profile; a context manager."""

    def __init__(self, folder: Path, *, width: int = 1360, height: int = 860, dark: bool = False):
        read, to_browser = os.pipe()
        self._answers, write = os.pipe()
        self._commands = to_browser
        self._buffer = b""
        self._count = 0
        self.problems: list[str] = []
        options = "--headless --no-sandbox --disable-gpu --remote-debugging-pipe"
        self._process = subprocess.Popen(
            [
                "bash",  # other shells know descriptors of one digit only
                "-c",
                f'exec "$0" "$@" 3<&{read} 4>&{write}',
                str(CHROMIUM),
                *options.split(),
                f"--user-data-dir={folder / 'profile'}",
            ],
            pass_fds=(read, write),
            stderr=subprocess.DEVNULL,
        )
        os.close(read)
        os.close(write)
        target = self._send("Target.createTarget", url="about:blank")["targetId"]
        attached = self._send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.send(f"{domain}.enable")
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])

    _session: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._commands)
        os.close(self._answers)

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command to the page, and its answer."""
        return self._send(method, **parameters)

    def _send(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._count:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
            self._note(answer)

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            data = os.read(self._answers, 1 << 20)
            assert data, "the browser is gone"
            self._buffer += data
        first, _, self._buffer = self._buffer.partition(b"\0")
        answer: dict[str, Any] = json.loads(first)
        return answer

    def _note(self, event: dict[str, Any]) -> None:
        """Remember errors of scripts, and what the page was not allowed to load."""
        if event.get("method") == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(event["params"]["exceptionDetails"])[:500])
        if event.get("method") == "Log.entryAdded" and event["params"]["entry"]["level"] == "error":
            self.problems.append(str(event["params"]["entry"].get("text")))

    def ask(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        result = self.send(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def open(self, address: str) -> None:
        """Go to an address."""
        self.send("Page.navigate", url=address)

    def wait(self, expression: str, seconds: float = 30) -> None:
        """Until a JavaScript expression holds."""
        end = time.monotonic() + seconds
        while not self.ask(expression):
            assert time.monotonic() < end, f"in vain: {expression}; {self.problems}"
            time.sleep(0.05)

    def move(self, x: float, y: float) -> None:
        """Point somewhere."""
        self.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, x: float, y: float) -> None:
        """Press and release the left button."""
        self.move(x, y)
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def middle(self, selector: str) -> tuple[float, float]:
        """Where an element is, once it is in sight."""
        found = f"document.querySelector({json.dumps(selector)})"
        self.ask(f"{found}.scrollIntoView({{block: 'nearest'}})")
        box = f"{found}.getBoundingClientRect()"
        x, y = self.ask(f"(r => [r.x + r.width / 2, r.y + r.height / 2])({box})")
        return x, y

    def key(self, name: str) -> None:
        """Press and release a key: a letter, or a name such as Enter."""
        code = {"Enter": 13, "Escape": 27, "ArrowRight": 39, "ArrowDown": 40, "Tab": 9}
        text = {"text": name} if len(name) == 1 else {"text": "\r"} if name == "Enter" else {}
        number = code.get(name, ord(name[0].upper()))
        known = {"key": name, "windowsVirtualKeyCode": number}
        self.send("Input.dispatchKeyEvent", type="keyDown", **known, **text)
        self.send("Input.dispatchKeyEvent", type="keyUp", **known)

    def picture(self, path: Path) -> None:
        """A PNG of what is to be seen."""
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot")["data"]))
