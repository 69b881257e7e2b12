"""What all configs share: their base, and how they are written and complained about."""

from __future__ import annotations

import reprlib
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from m3video.errors import ConfigError


class Config(BaseModel):
    """Base of all configs: immutable, unknown keys and infinite numbers refused."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _names_are_known(cls, data: Any) -> Any:
        """Say which names there are, which pydantic's own refusal of extra ones does not."""
        for name in data if isinstance(data, dict) else ():
            if name not in cls.model_fields:
                there = ", ".join(cls.model_fields)
                raise PydanticCustomError(
                    "unknown_setting",
                    "no such setting; there are {there}",
                    {"there": there, "name": name},
                )
        return data

    @field_validator("*", mode="wrap")
    @classmethod
    def _range_is_told(
        cls, value: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo
    ) -> Any:
        """Of a number that is too large say also how small it may be, which pydantic does not."""
        try:
            return handler(value)
        except ValidationError as error:
            bounds = _bounds(cls.model_fields[info.field_name or ""])
            if len(bounds) < 2 or not error.errors()[0]["type"].startswith(("greater", "less")):
                raise
            raise PydanticCustomError(
                "out_of_range", "Input should be {bounds}", {"bounds": " and ".join(bounds)}
            ) from None


def _bounds(field: FieldInfo) -> list[str]:
    """What limits a number, from below and from above."""
    words = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
    return [
        f"{word} {getattr(limit, name)}"
        for name, word in words.items()
        for limit in field.metadata
        if hasattr(limit, name)
    ]


def save_config(config: Config, path: Path) -> None:
    """Write a config as YAML."""
    path.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))


ConfigKind = TypeVar("ConfigKind", bound=Config)


def load_config(kind: type[ConfigKind], path: Path) -> ConfigKind:
    """Read a config that `save_config` wrote, or that a person did.

    Raises:
        ConfigError: not YAML, unknown keys, or values that are not allowed.
    """
    data, _ = read_yaml(path, "config")
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: not a mapping of names to values, as a run's config.yaml is")
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{path}: {one_line(error)}") from error


def read_yaml(path: Path, kind: str) -> tuple[Any, str]:
    """Read YAML: what it holds, and its text.

    Args:
        path: the file.
        kind: what the error calls it.

    Raises:
        ConfigError: no such file, or not YAML.
    """
    try:
        text = path.read_text("utf-8")
        return yaml.safe_load(text), text
    except OSError as error:
        remedy = (
            "give the config.yaml of a run" if kind == "config" else f"give the YAML of a {kind}"
        )
        missing = isinstance(error, FileNotFoundError)
        why = "no such file" if missing else error.strerror or type(error).__name__
        raise ConfigError(f"{path}: {why}; {remedy}") from error
    # Numbers and dates that are none are ValueErrors, lists in lists in lists a RecursionError.
    except (ValueError, OverflowError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(f"{path}: cannot be read as a YAML {kind}: {reason}") from error


# YAML's aliases make values of a few bytes that are gigabytes when they are written out.
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 3, 300, 300


def one_line(error: ValidationError) -> str:
    """The first problem of a validation error, and how many more there are, in one line."""
    first, *rest = error.errors()
    unknown = first["type"] == "unknown_setting"
    loc = [*first["loc"], first["ctx"]["name"]] if unknown else first["loc"]
    where = ".".join(str(part) for part in loc)
    message = first["msg"].removeprefix("Value error, ")
    told = unknown or first["type"] in {"value_error", "missing"}
    value = "" if told else f" (got {_SHORT.repr(first['input'])})"
    more = f"; and {len(rest)} more problems" if rest else ""
    return f"{where}: {message}{value}{more}" if where else f"{message}{value}{more}"
