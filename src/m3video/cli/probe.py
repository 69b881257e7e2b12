"""`m3video probe`."""

from __future__ import annotations

from m3video.cli.parse import parse
from m3video.config import ProbeConfig


def probe(arguments: list[str]) -> int:
    """Measure frozen features on labelled videos: linear, attentive, nearest neighbours."""
    config = parse(ProbeConfig, arguments, verb="probe")
    from m3video.train.probe import format_result
    from m3video.train.probe import probe as measure

    print(format_result(measure(config)))
    return 0
