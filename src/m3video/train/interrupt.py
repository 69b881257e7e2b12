"""Ctrl-C: the first is a wish that the loop grants between two steps, the second ends at once."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Self


class Interrupt:
    """While in the `with` block, the first SIGINT only sets `requested`.

    Data workers that are forked inside it inherit the handler; the terminal sends them the signal
    too, and they ignore it, so that the step that runs still gets its data. Outside the main thread
    Python lets nobody handle signals, and this does nothing.
    """

    def __init__(self) -> None:
        self.requested = False
        self._process = os.getpid()
        self._installed = threading.current_thread() is threading.main_thread()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return
        self.requested = True
        # Not print: a handler may interrupt another print.
        os.write(2, b"\nstopping after this step; Ctrl-C again stops at once, without saving\n")
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def __enter__(self) -> Self:
        if self._installed:
            self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._installed:
            signal.signal(signal.SIGINT, self._before)
