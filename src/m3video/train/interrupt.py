"""Ctrl-C and what schedulers send: a wish that the loop grants between two steps.

A second Ctrl-C ends at once. SIGTERM (a cluster's time limit, `kill`) and SIGUSR1 (which Slurm can
send some time before it) may come several times, to all processes, and mean the same each time.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

from m3video.errors import StoppedError

SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)
]


@contextmanager
def stoppable() -> Iterator[None]:
    """In here SIGTERM ends this process as Ctrl-C does: what is half written is removed.

    Raises:
        StoppedError: it came.
    """
    mine = threading.current_thread() is threading.main_thread()
    if not mine or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    process = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() == process:
            signal.signal(number, signal.SIG_IGN)  # schedulers repeat it while things are removed
            raise StoppedError(number)
        signal.signal(number, signal.SIG_DFL)  # processes that were forked end as ever
        os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


class Interrupt:
    """While in the `with` block, the signals only set `requested`.

    Data workers that are forked inside it inherit the handler; a terminal and a scheduler send them
    the signal, too, and they ignore it, so that the step that runs still gets its data. Outside the
    main thread Python lets nobody handle signals, and this does nothing.
    """

    def __init__(self) -> None:
        self.requested = False
        self._number: int = signal.SIGINT
        self._process = os.getpid()
        self._installed = threading.current_thread() is threading.main_thread()
        self._before: dict[int, Any] = {}

    @property
    def error(self) -> KeyboardInterrupt:
        """What to raise when all is saved."""
        return KeyboardInterrupt() if self._number == signal.SIGINT else StoppedError(self._number)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return
        if not self.requested:
            self._number = number
        self.requested = True
        # Not print: a handler may interrupt another print.
        if number == signal.SIGINT:
            os.write(2, b"\nstopping after this step; Ctrl-C again stops at once, without saving\n")
            signal.signal(signal.SIGINT, signal.default_int_handler)
        else:
            os.write(2, b"\nstopping after this step\n")

    def __enter__(self) -> Self:
        if self._installed:
            self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
