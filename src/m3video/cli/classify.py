"""The verbs `finetune` and `evaluate`: a classifier is trained, and tested."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import tyro

from m3video.cli.launch import launch, main_process
from m3video.cli.parse import option, parse
from m3video.cli.resume import given_config
from m3video.config import EvaluateConfig, FinetuneConfig
from m3video.errors import ConfigError
from m3video.finetune_recipes import FINETUNE_RECIPES, TINY_WIDTH, finetune_config

_NAMED = "\n".join(f"{name}: {recipe.summary}" for name, recipe in FINETUNE_RECIPES.items())
RECIPE_HELP = (
    f"the named settings that give the defaults below.\n{_NAMED}\n"
    f"Without it: tiny for an encoder narrower than {TINY_WIDTH}, else kinetics."
)


def finetune(arguments: list[str]) -> int:
    """Train an encoder and a classifier on labelled videos, and test what is held out."""

    defaults = _defaults(arguments)

    def read(
        settings: Annotated[FinetuneConfig, tyro.conf.arg(name="")] = defaults,
        recipe: Annotated[
            str, tyro.conf.arg(metavar="|".join(FINETUNE_RECIPES), help=RECIPE_HELP)
        ] = "",
        config: Path | None = None,
    ) -> FinetuneConfig:
        """Train an encoder and a classifier on labelled videos, and test what is held out.

        Args:
            settings: all settings.
            recipe: see above.
            config: a config.yaml, as in a run directory, that gives the defaults instead.
        """
        return settings

    settings = parse(read, arguments, verb="finetune")
    code = launch(settings.devices, ["finetune", *arguments], settings.train.device, settings.out)
    if code is not None:
        return code
    from m3video.report.confusion import write_confusion
    from m3video.report.page import write_report
    from m3video.train.classify import finetune

    run = finetune(settings)
    if not main_process():
        return 0
    print(f"classifier: {run / 'model'}")
    if (run / "evaluation").is_dir():
        print(f"evaluation: {write_confusion(run / 'evaluation').parent}")
    print(f"report:     {write_report(run)}")
    return 0


def evaluate(arguments: list[str]) -> int:
    """Test a classifier on labelled videos, on several views of each."""
    config = parse(EvaluateConfig, arguments, verb="evaluate")
    code = launch(config.devices, ["evaluate", *arguments], config.device)
    if code is not None:
        return code
    from m3video.report.confusion import write_confusion
    from m3video.train.multiview import evaluate, format_evaluation

    result = evaluate(config)
    if not main_process():
        return 0
    print(format_evaluation(result))
    print(f"evaluation: {write_confusion(config.out).parent}")
    return 0


def _defaults(arguments: list[str]) -> FinetuneConfig:
    """The config that is given, or that of a recipe; what has no default is for tyro to ask for."""
    recipe = option(arguments, "recipe")
    if recipe is not None and option(arguments, "config") is not None:
        raise ConfigError("--recipe and --config both give the defaults: use one of them")
    given = given_config(FinetuneConfig, arguments) if recipe is None else None
    if given is not None:
        return given
    name = recipe or _recipe_for(option(arguments, "init"))
    config = finetune_config(name, init=Path(), data="", out=Path())
    missing = dict.fromkeys(("init", "data", "out"), tyro.MISSING)
    return config.model_copy(update=missing)


def _recipe_for(init: str | None) -> str:
    """`tiny` for a small encoder; what is wrong with `init` is told when it is loaded."""
    for place in (Path(init or "", "model"), Path(init or "")):
        try:
            width = json.loads((place / "config.json").read_text())["architecture"]["width"]
            return "tiny" if width < TINY_WIDTH else "kinetics"
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return "kinetics"
