"""Arguments are read by tyro; its boxes of error text become one line."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable, Mapping
from difflib import SequenceMatcher
from typing import TypeVar

import tyro
from pydantic import ValidationError

from m3video.config import one_line
from m3video.errors import ConfigError

T = TypeVar("T")

NEAR = 0.6
"""How alike two names are, 0 to 1, of which one may be meant by the other."""
_SEQUENCE = re.compile(
    r"Error parsing (?P<option>\S+): Could not (?:find valid parse for|parse) arguments:? "
    r"\[(?P<given>.*?)\].* Argument helptext: (?P=option) (?P<kinds>[^a-z]+) (?=[A-Z][a-z])"
)
"""tyro on an option of several values: which, what was given, and what kinds of values it has."""


def parse(function: Callable[..., T] | type[T], arguments: list[str], *, verb: str) -> T:
    """Let tyro read the arguments; its boxes of error text become one line."""
    written = io.StringIO()
    try:
        with contextlib.redirect_stderr(written):
            read: T = tyro.cli(function, args=arguments, prog=f"m3video {verb}")
            return read
    except ValidationError as error:  # of settings that contradict each other
        reason = _as_given(one_line(error), arguments)
        raise ConfigError(f"{reason}; see m3video {verb} --help") from None
    except SystemExit as error:
        if error.code in {0, None}:
            raise
        reason = _as_given(_plain(written.getvalue()), arguments)
        raise ConfigError(f"{reason}; see m3video {verb} --help") from None


def _as_given(reason: str, arguments: list[str]) -> str:
    """A reason that begins with the name of a setting, `val_share`, begins with the option that
    gave it, `--val-share`.
    """
    name = re.match(r"[\w.]+(?=:? )", reason)
    if name is None:
        return reason
    for argument in arguments:
        given = argument.partition("=")[0]
        if given.startswith("--") and given[2:].replace("-", "_") == name[0]:
            return given + reason[name.end() :]
    return reason


def _plain(box: str) -> str:
    """The sentence in an error box of tyro, without frames and hints."""
    text = re.sub(r"[╭╰│╮╯─]+|-{3,}", " ", box)  # a terminal without UTF-8 gets dashes
    text = " ".join(text.split())
    sequence = _SEQUENCE.search(text)
    if sequence is not None:
        given = sequence["given"].replace("'", "").replace(",", "")
        return f"{sequence['option']} {given}: use {sequence['kinds']}"
    text = re.split(r"For full helptext|Argument helptext", text)[0]
    if "Unrecognized options: " in text:
        return _unknown_option(text)
    missing = _missing(text)
    if missing:
        *others, last = missing
        names = f"{', '.join(others)} and {last}" if others else last
        return f"{names} {'are' if others else 'is'} required"
    choice = re.search(r"invalid choice (.+) for argument '(\S+)'\. Expected one of \((.+)\)", text)
    if choice is not None:
        allowed = ", ".join(sorted(re.findall(r"'([^']+)'", choice[3])))
        return f"{choice[2]} {choice[1]}: use one of {allowed}"
    text = re.sub(r"\d+ validation errors? for \w+", "", text)
    text = re.sub(r" \[type=.*?, input_value=(.*?), input_type=\w+\]", _got, text)
    text = re.sub(r"For further information visit \S+", "", text)
    text = re.sub(r"Error parsing ([\w.-]+): +(Value error, )?", r"\1: ", text)
    text = re.sub(
        r"(\S+): no type matching (.+?) could be instantiated from \[(.+?)\]\. Got errors:.*",
        _kind,
        text,
    )
    for title in ("Value error ", "Parsing error ", "Required options "):
        text = text.removeprefix(title).removeprefix(" " + title)
    text = re.sub(r"^settings\.(\S+): (\w+) (?=Input)", r"\1.\2: ", " ".join(text.split()))
    text = re.sub(r"^[A-Z]\w+Config: (?:([\w.]+) (?=Input|Tuple|String))?", _named, text)
    return text.removeprefix("settings.").replace(" : ", ": ")


def _missing(text: str) -> list[str]:
    """What is required and not given: options, or the kind of an argument without a name."""
    return re.findall(r"(?:Missing from [^:]+:|\(required\)) (--[\w.-]+|PATH|STR)", text)


def _unknown_option(text: str) -> str:
    """The first option that there is not, and what may be meant: the nearest first."""
    before, _, rest = text.rpartition("Unrecognized options: ")
    given, _, alike = rest.partition("Perhaps you meant:")
    name = re.split(r"[ ,=]", given.strip(), maxsplit=1)[0]
    missing = _missing(before)
    known = {*missing, *re.findall(r"(?<!\S)--[\w.-]+", alike)}
    nearness = {option: SequenceMatcher(None, name, option).ratio() for option in known}
    near = sorted((o for o in known if nearness[o] > NEAR), key=lambda o: -nearness[o])
    others = [option for option in missing if option not in near]
    return (
        f"{name}: not understood"
        + (f"; perhaps {', '.join(near)}" if near else "")
        + (f"; missing: {', '.join(others)}" if others else "")
    )


def _kind(match: re.Match[str]) -> str:
    kinds = re.sub(r"[{}]", "", match.group(2)).replace("|", " or ")
    return f"{match.group(1)} {match.group(3)}: use {kinds}"


def _named(match: re.Match[str]) -> str:
    return f"{match.group(1)}: " if match.group(1) else ""


def _got(match: re.Match[str]) -> str:
    value = match.group(1)
    return "" if value.startswith("{") else f" (got {value})"


def overview(program: str, part: str, parts: Mapping[str, Callable[..., object]]) -> str:
    """The help of a program of several parts: a line each, the first of its docstring."""
    lines = [f"usage: {program} {part} [options]", ""]
    for name, function in parts.items():
        lines.append(f"  {name:10} {(function.__doc__ or '').strip().splitlines()[0]}")
    return "\n".join([*lines, "", f"{program} {part} --help tells its options."])


def option(arguments: list[str], name: str) -> str | None:
    """The value of one option, before all others are read: it decides their defaults."""
    for position, argument in enumerate(arguments):
        if argument == f"--{name}" and position + 1 < len(arguments):
            return arguments[position + 1]
        if argument.startswith(f"--{name}="):
            return argument.split("=", 1)[1]
    return None
