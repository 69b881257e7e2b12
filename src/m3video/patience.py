"""Limits on how long a file may give nothing, for processes that may die of it, and a server.

A decoder that loops is code of FFmpeg: no exception reaches it, the end of its process does. What
is limited is the time from packet to packet, since a film may take hours and be well.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_limit = 0.0  # seconds; 0 is none
OUTAGE_SECONDS = 300.0
"""How long a server may be away, where nothing else is said."""
_outage: ContextVar[float] = ContextVar("_outage", default=OUTAGE_SECONDS)


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """In here this process ends by SIGALRM when no packet was read for so long."""
    global _limit
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    _limit = seconds
    try:
        progress()
        yield
    finally:
        _limit = 0.0
        signal.setitimer(signal.ITIMER_REAL, 0)


@contextmanager
def unlimited() -> Iterator[None]:
    """In here the limit does not count: for what waits for a network or a disk, not a decoder."""
    global _limit
    limit, _limit = _limit, 0.0
    if limit:
        signal.setitimer(signal.ITIMER_REAL, 0)
    try:
        yield
    finally:
        _limit = limit
        progress()


@contextmanager
def outage(seconds: float) -> Iterator[None]:
    """In here a server may be away for so long."""
    before = _outage.set(seconds)
    try:
        yield
    finally:
        _outage.reset(before)


def outage_seconds() -> float:
    """How long a server may be away."""
    return _outage.get()


def progress() -> None:
    """A packet was read: count anew, where there is a limit."""
    if _limit:
        signal.setitimer(signal.ITIMER_REAL, _limit)
