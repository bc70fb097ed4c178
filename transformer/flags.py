"""A function's signature as absl flags: typed, with defaults, documented."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal

from absl import flags


def parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The keyword-only parameters of `function`: those that become flags."""
    signature = inspect.signature(function, eval_str=True)
    return {
        name: parameter
        for name, parameter in signature.parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }


def defaults(function: Callable[..., Any]) -> dict[str, Any]:
    """The default value of each flag of `function`."""
    return {name: p.default for name, p in parameters(function).items()}


def arg_docs(function: Callable[..., Any]) -> dict[str, str]:
    """The text of each parameter in the docstring's section `Args:`."""
    while isinstance(function, partial):
        function = function.func
    text = inspect.getdoc(function) or ""
    section = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)+)", text, re.M)
    lines = section.group(1) if section else ""
    found = re.findall(r"^ {4}(\w+): (.*(?:\n {5,}.*)*)", lines, re.M)
    return {name: re.sub(r"\s+", " ", text) for name, text in found}


def name_of(function: Callable[..., Any]) -> str:
    """The name of an experiment: of the file that defines `function`, or of `function`
    itself where that is no file (a notebook)."""
    file = Path(inspect.getfile(inspect.unwrap(function)))
    return file.stem if file.is_file() else function.__name__


def define(values: flags.FlagValues, function: Callable[..., Any]) -> None:
    """One flag in `values` for each keyword-only parameter of `function` that has none
    there yet.

    Raises TypeError for a parameter whose type no flag can hold: expected int, float,
    bool, str, Path, a Literal of strings, or one of these or None.
    """
    docs = arg_docs(function)
    for name, parameter in parameters(function).items():
        if name not in values:
            _define(values, name, parameter, docs.get(name, ""))


def _define(
    values: flags.FlagValues, name: str, parameter: inspect.Parameter, help_: str
) -> None:
    kind = _without_none(parameter.annotation)
    default = parameter.default
    if typing.get_origin(kind) is Literal:
        choices = list(typing.get_args(kind))
        flags.DEFINE_enum(name, default, choices, help_, flag_values=values)
    elif kind is bool:
        flags.DEFINE_bool(name, default, help_, flag_values=values)
    elif kind is int:
        flags.DEFINE_integer(name, default, help_, flag_values=values)
    elif kind is float:
        flags.DEFINE_float(name, default, help_, flag_values=values)
    elif kind in (str, Path):
        text = None if default is None else str(default)
        flags.DEFINE_string(name, text, help_, flag_values=values)
    else:
        raise TypeError(
            f"parameter {name}: expected int, float, bool, str, Path, a Literal of "
            f"strings, or one of these or None; got {parameter.annotation}"
        )


def _without_none(annotation: Any) -> Any:
    if typing.get_origin(annotation) in (UnionType, typing.Union):
        kinds = [k for k in typing.get_args(annotation) if k is not NoneType]
        return kinds[0] if len(kinds) == 1 else annotation
    return annotation


def parse(values: flags.FlagValues, argv: list[str]) -> list[str]:
    """Set `values` from `argv`; return the arguments that are not flags.

    Raises absl's error for an unknown flag, which suggests a known one, and ValueError
    for a value of the wrong type.
    """
    try:
        return values(argv)
    except flags.IllegalFlagValueError as error:
        found = re.match(r"flag --(\w+)=(.*?): ", str(error), re.S)
        if found is None:
            raise
        name, got = found.groups()
        expected = _expected_kind(values[name].parser)
        raise ValueError(f"--{name}: expected {expected}, got {got!r}") from None


def _expected_kind(parser: flags.ArgumentParser) -> str:
    if isinstance(parser, flags.EnumParser):
        return f"one of {', '.join(parser.enum_values)}"
    return parser.syntactic_help or "true or false"


def arguments(
    values: flags.FlagValues, function: Callable[..., Any], recorded: Mapping[str, Any]
) -> dict[str, Any]:
    """`function`'s keywords from the flags; a flag that was not given has its value in
    `recorded`, where it is there."""
    plain_values = {
        name: values[name].value
        if values[name].present
        else recorded.get(name, values[name].value)
        for name in parameters(function)
    }
    return from_json(function, plain_values)


def to_json(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments as JSON holds them: paths as text."""
    return {k: str(v) if isinstance(v, Path) else v for k, v in arguments.items()}


def from_json(
    function: Callable[..., Any], recorded: Mapping[str, Any]
) -> dict[str, Any]:
    """The inverse of `to_json` for `function`'s flags."""
    kinds = {name: p.annotation for name, p in parameters(function).items()}
    return {
        name: Path(value)
        if value is not None and _without_none(kinds.get(name)) is Path
        else value
        for name, value in recorded.items()
    }


def help_text(function: Callable[..., Any]) -> str:
    """The help of a function's flags, two lines each."""
    docs = arg_docs(function)
    lines = []
    for name, parameter in parameters(function).items():
        kind = _without_none(parameter.annotation)
        options = typing.get_args(kind) if typing.get_origin(kind) is Literal else ()
        word = "|".join(options) if options else getattr(kind, "__name__", str(kind))
        lines.append(f"  --{name}={word.lower()}  (default {parameter.default})")
        lines.append(f"      {docs.get(name, '')}".rstrip())
    return "\n".join(lines)
