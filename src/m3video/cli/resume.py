"""The defaults of a verb that trains, where a config.yaml gives them: `--config` and `--resume`."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from m3video.cli.parse import option
from m3video.config import DetectTrainConfig, FinetuneConfig, PretrainConfig, load_config
from m3video.errors import ConfigError

C = TypeVar("C", PretrainConfig, FinetuneConfig, DetectTrainConfig)


def given_config(kind: type[C], arguments: list[str]) -> C | None:
    """The config of `--config`, or of the run in `--out` with `--resume`; else None.

    A run that is resumed is where its config.yaml lies, also where it was moved.

    Raises:
        ConfigError: the file cannot be read as this kind of config, or there is no run.
    """
    path, out = option(arguments, "config"), option(arguments, "out")
    resume = "--resume" in arguments
    if resume and path is None and out is not None:
        if not Path(out, "config.yaml").is_file():
            raise ConfigError(
                f"--resume: {out} holds no run (no config.yaml): give --out RUN, or leave out "
                "--resume to begin one"
            )
        path = str(Path(out, "config.yaml"))
    if path is None:
        return None
    config = load_config(kind, Path(path))
    if resume and Path(path).with_name("environment.json").is_file():
        return config.model_copy(update={"out": Path(path).parent})
    return config
