"""A study: a grid of runs, what they have in common, and how they are compared."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, model_validator

from m3video.config.base import Config, one_line, read_yaml
from m3video.config.finetune import ShortFinetuneConfig
from m3video.config.probe import ProbeConfig
from m3video.errors import ConfigError

Seed = Annotated[int, Field(ge=0, lt=2**63)]
CellName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.+-]*$", max_length=100)]

_SET_BY_STUDY = {
    "base": ("data", "out", "resume"),
    "settings": ("data", "out", "resume"),
    "probe": ("init", "out", "untrained"),
}


class StudyFinetune(ShortFinetuneConfig):
    """Fine-tuning of every cell, once for each number of labels."""

    labels: tuple[Annotated[int, Field(ge=1)], ...] = Field((20, 100), min_length=1)
    """Training clips of each class."""

    @model_validator(mode="after")
    def _labels_are_different(self) -> Self:
        if len(set(self.labels)) < len(self.labels):
            raise ValueError(f"labels: {list(self.labels)} names a number twice")
        return self


class CellConfig(Config):
    """One line of the comparison."""

    recipe: str = "mme-tiny"
    """The recipe that the settings are laid over."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Settings of `pretrain` that differ from the recipe and the study's `base`."""
    seeds: tuple[Seed, ...] | None = Field(None, min_length=1)
    """In place of the study's."""
    group: str = ""
    """Title of the table that the cell stands in."""
    pretrain: bool = True
    """false: the encoder keeps the fresh weights of its seed."""
    metadata: bool = False
    """true: no encoder; width, height, frames and rate of each video are its features."""

    @property
    def kind(self) -> str:
        """pretrained, untrained or metadata."""
        if self.metadata:
            return "metadata"
        return "pretrained" if self.pretrain else "untrained"


class StudyConfig(Config):
    """A grid of runs that end in one table."""

    name: str = Field(min_length=1)
    """Title of the table."""
    data: str
    """Pre-training data of all cells, as for `pretrain`."""
    seeds: tuple[Seed, ...] = Field((0,), min_length=1)
    """Every cell is run with each."""
    base: dict[str, Any] = Field(default_factory=dict)
    """Settings of `pretrain` that are laid over every cell's recipe."""
    probe: dict[str, Any] = Field(default_factory=dict)
    """Settings of `probe`; `data` is the study's unless given."""
    finetune: StudyFinetune | None = None
    """How every cell is fine-tuned; without it none is. For moving shapes."""
    cells: dict[CellName, CellConfig] = Field(min_length=1)
    """The lines of the comparison, by name."""

    def probe_config(self, run: Path) -> ProbeConfig:
        """How a run is probed."""
        return ProbeConfig.model_validate({"data": self.data, **self.probe, "init": run})

    @property
    def probe_data(self) -> str:
        """What the cells are probed on."""
        return str(self.probe.get("data", self.data))

    @model_validator(mode="after")
    def _keys_are_the_users(self) -> Self:
        if self.finetune is not None and "seed" in self.finetune.model_fields_set:
            raise ValueError("finetune.seed: is that of each run; leave it out")
        places = [("base", "base", self.base), ("probe", "probe", self.probe)]
        places += [(f"cells.{n}.settings", "settings", c.settings) for n, c in self.cells.items()]
        for where, kind, settings in places:
            for key in _SET_BY_STUDY[kind]:
                if key in settings:
                    raise ValueError(f"{where}.{key}: is set by the study; leave it out")
            train = settings.get("train", {})
            if not isinstance(train, dict):
                raise ValueError(f"{where}.train: settings by name are wanted (got {train!r})")
            if kind != "probe" and "seed" in train:
                raise ValueError(f"{where}.train.seed: seeds are given by `seeds`; leave it out")
        return self

    @model_validator(mode="after")
    def _seeds_are_different(self) -> Self:
        everyone = [("seeds", self.seeds)]
        everyone += [(f"cells.{n}.seeds", c.seeds) for n, c in self.cells.items() if c.seeds]
        for where, seeds in everyone:
            if len(set(seeds)) < len(seeds):
                raise ValueError(f"{where}: {list(seeds)} names a seed twice")
        return self

    @model_validator(mode="after")
    def _cells_lie_in_folders_of_their_own(self) -> Self:
        known: dict[str, str] = {}
        for name in self.cells:
            other = known.setdefault(name.casefold(), name)
            if other != name:
                raise ValueError(
                    f"cells.{name}: differs from cell {other} in upper and lower case only, which "
                    "is the same folder on some systems; rename one"
                )
        return self

    @model_validator(mode="after")
    def _measures_fit_the_data(self) -> Self:
        try:
            probe = self.probe_config(Path())
        except ValidationError as error:
            raise ValueError(f"probe.{one_line(error)}") from None
        shapes = probe.data == "moving-shapes"
        if self.finetune is not None and not shapes:
            raise ValueError(
                f"finetune: is for probe data moving-shapes, and that is {probe.data!r}; leave it "
                "out"
            )
        for name, cell in self.cells.items():
            if cell.metadata and shapes:
                raise ValueError(
                    f"cells.{name}: metadata is for videos, and probe data is moving-shapes"
                )
        return self


def load_study(path: Path) -> StudyConfig:
    """Read a study; as `read_study`, without its text."""
    return read_study(path)[0]


def read_study(path: Path) -> tuple[StudyConfig, str]:
    """Read a study, once, so that what is checked and what is shown are the same.

    Returns:
        The study, and the text of the file.

    Raises:
        ConfigError: not YAML, unknown keys, or values that are not allowed; the line names the
            cell.
    """
    data, text = read_yaml(path, "study")
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: not a mapping with name, data and cells, as a study is")
    try:
        return StudyConfig.model_validate(data), text
    except ValidationError as error:
        raise ConfigError(f"{path}: {one_line(error)}") from error
