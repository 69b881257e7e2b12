"""What all configs share: their base, and how they are written and complained about."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError


class Config(BaseModel):
    """Base of all configs: immutable, unknown keys and infinite numbers refused."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


def save_config(config: Config, path: Path) -> None:
    """Write a config as YAML."""
    path.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))


def one_line(error: ValidationError) -> str:
    """The first problem of a validation error, and how many more there are, in one line."""
    first, *rest = error.errors()
    where = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    value = "" if first["type"] in {"value_error", "missing"} else f" (got {first['input']!r})"
    more = f"; and {len(rest)} more problems" if rest else ""
    return f"{where}: {message}{value}{more}" if where else f"{message}{value}{more}"
