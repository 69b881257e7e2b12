"""The verb `detect`: what people in boxes do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import tyro

from m3video.cli.launch import launch, main_process
from m3video.cli.parse import overview, parse
from m3video.cli.resume import given_config
from m3video.config import DetectEvaluateConfig, DetectTrainConfig
from m3video.errors import ConfigError


def detect(arguments: list[str]) -> int:
    """Train or evaluate a detector of actions on AVA: what the people in boxes do."""
    if not arguments or arguments[0] not in PARTS:
        if arguments[:1] in (["-h"], ["--help"]):
            print(overview("m3video detect", "|".join(PARTS), PARTS))
            raise SystemExit(0)  # as the help of every other verb ends
        given = repr(arguments[0]) if arguments else "nothing"
        raise ConfigError(f"{given}: use one of {', '.join(PARTS)}")
    part, *rest = arguments
    return PARTS[part](rest)


def _defaults(arguments: list[str]) -> DetectTrainConfig:
    """The config that is given; what has no default is left for tyro to ask for."""
    given = given_config(DetectTrainConfig, arguments)
    if given is not None:
        return given
    empty = DetectTrainConfig(init=Path(), data=Path(), out=Path())
    return empty.model_copy(update=dict.fromkeys(("init", "data", "out"), tyro.MISSING))


def _train(arguments: list[str]) -> int:
    """Train a detector of actions on key frames with boxes."""
    defaults = _defaults(arguments)

    def read(
        settings: Annotated[DetectTrainConfig, tyro.conf.arg(name="")] = defaults,
        config: Path | None = None,
    ) -> DetectTrainConfig:
        """Train a detector of actions on key frames with boxes.

        Args:
            settings: all settings.
            config: a config.yaml, as in a run directory, that gives the defaults instead.
        """
        return settings

    settings = parse(read, arguments, verb="detect train")
    code = launch(
        settings.devices, ["detect", "train", *arguments], settings.train.device, settings.out
    )
    if code is not None:
        return code
    from m3video.report.page import write_report
    from m3video.train.detect import train_detector

    run = train_detector(settings)
    if not main_process():
        return 0
    print(f"detector: {run / 'model'}\nreport:   {write_report(run)}")
    return 0


def _evaluate(arguments: list[str]) -> int:
    """Test a detector: frame mAP at IoU 0.5, as AVA's is."""
    config = parse(DetectEvaluateConfig, arguments, verb="detect evaluate")
    from m3video.train.detect_evaluate import evaluate_detector, format_detection

    print(format_detection(evaluate_detector(config)))
    return 0


PARTS: dict[str, Callable[[list[str]], int]] = {"train": _train, "evaluate": _evaluate}
