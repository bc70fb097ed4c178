"""A function's signature as absl flags: typed, with defaults, told by its docstring."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal

from absl import flags


def parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The keyword-only parameters, which are the ones that become flags."""
    return {
        name: parameter
        for name, parameter in inspect.signature(
            function, eval_str=True
        ).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }


def told(function: Callable[..., Any]) -> dict[str, str]:
    """What the docstring's section `Args:` says of each parameter."""
    text = inspect.getdoc(function) or ""
    section = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)+)", text, re.M)
    lines = section.group(1) if section else ""
    found = re.findall(r"^ {4}(\w+): (.*(?:\n {5,}.*)*)", lines, re.M)
    return {name: re.sub(r"\s+", " ", said) for name, said in found}


def define(values: flags.FlagValues, function: Callable[..., Any]) -> None:
    """One flag in `values` for each keyword-only parameter of `function` that has none
    there yet.

    Raises TypeError for a parameter whose type no flag can hold: int, float, bool, str,
    Path, a Literal of strings, or one of these or None.
    """
    help_of = told(function)
    for name, parameter in parameters(function).items():
        if name not in values:
            _define(values, name, parameter, help_of.get(name, ""))


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
        written = None if default is None else str(default)
        flags.DEFINE_string(name, written, help_, flag_values=values)
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


def read(values: flags.FlagValues, argv: list[str]) -> list[str]:
    """Set `values` from `argv`; what is left of it.

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
        expected = _expected(values[name].parser)
        raise ValueError(f"--{name}: expected {expected}, got {got!r}") from None


def _expected(parser: flags.ArgumentParser) -> str:
    if isinstance(parser, flags.EnumParser):
        return f"one of {', '.join(parser.enum_values)}"
    return parser.syntactic_help or "true or false"


def arguments(
    values: flags.FlagValues, function: Callable[..., Any], defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """`function`'s keywords from the flags; a flag that was not given has the value
    in `defaults`, where it is there."""
    chosen = {}
    for name, parameter in parameters(function).items():
        given = values[name].present
        value = values[name].value if given else defaults.get(name, values[name].value)
        is_path = _without_none(parameter.annotation) is Path
        chosen[name] = Path(value) if is_path and value is not None else value
    return chosen


def page(function: Callable[..., Any]) -> str:
    """The help of a function's flags, one or two lines each."""
    help_of = told(function)
    lines = []
    for name, parameter in parameters(function).items():
        kind = _without_none(parameter.annotation)
        options = typing.get_args(kind) if typing.get_origin(kind) is Literal else ()
        word = "|".join(options) if options else getattr(kind, "__name__", str(kind))
        lines.append(f"  --{name}={word.lower()}  (default {parameter.default})")
        lines.append(f"      {help_of.get(name, '')}".rstrip())
    return "\n".join(lines)
