"""`m3video probe`."""

from __future__ import annotations

from m3video.cli.launch import launch, main_process
from m3video.cli.parse import parse
from m3video.config import ProbeConfig


def probe(arguments: list[str]) -> int:
    """Measure frozen features on labelled videos: linear, attentive, nearest neighbours."""
    config = parse(ProbeConfig, arguments, verb="probe")
    code = launch(config.devices, ["probe", *arguments], config.device)
    if code is not None:
        return code
    from m3video.train.probe import format_result
    from m3video.train.probe import probe as measure

    result = measure(config)
    if main_process():
        print(format_result(result))
    return 0
