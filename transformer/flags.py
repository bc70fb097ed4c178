"""A function's signature as absl flags: typed, with defaults, documented."""

from __future__ import annotations

import difflib
import inspect
import re
import sys
import typing
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path, PurePath
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple

from absl import flags

from transformer import checks
from transformer.checks import FIXED, TEXT, Range, Role, is_utf8

# Makes a `training.experiment.Experiment`; its keyword-only parameters are flags.
ExperimentFn = Callable[..., Any]
# From the flags of a run's record to values of those that it does not name.
Earlier = Callable[[Mapping[str, Any]], Mapping[str, Any]]

# Flags that absl would take beside those of a function: it reads a file, without an end
# if that is a device, and accepts names that no flag has.
OF_ABSL = ("flagfile", "undefok")

_NUMBER = {
    int: re.compile(r"[+-]?[0-9]+"),
    float: re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"),
}


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


def derived_values(function: ExperimentFn, values: Mapping[str, Any]) -> dict[str, Any]:
    """What the experiment derives from the values of its flags, by
    `declaration.declare(scale=...)`: those of its flags that are given too, and facts
    that no flag holds. Empty where it derives nothing."""
    scale = vars(function).get("scale")
    if scale is None:
        return {}
    known = inspect.signature(scale).parameters
    found = scale(**{n: values[n] for n in known if n in values})._asdict()
    return {n: v for n, v in found.items() if n in values or n not in known}


def derive(function: ExperimentFn, values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with those that are None as `derived_values`, where they are."""
    if None not in values.values():
        return dict(values)
    found = derived_values(function, values)
    return {n: found.get(n) if v is None else v for n, v in values.items()}


def complete(function: ExperimentFn, recorded: Mapping[str, Any]) -> dict[str, Any]:
    """The flags of a run's record, with those that it does not name, as it is older
    than they are: `declaration.declare(earlier=...)`."""
    earlier = vars(function).get("earlier")
    if not recorded or earlier is None:
        return dict(recorded)
    known = parameters(function)
    found = {n: v for n, v in earlier(recorded).items() if n in known}
    return {**found, **recorded}


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


class Kind(NamedTuple):
    """The values that a parameter accepts.

    type: int, float, bool, str or Path. choices: all values, of a Literal. range: of a
    number. optional: None is a value too. role: FIXED, DATA or None.
    """

    type: type
    choices: tuple[str, ...] = ()
    range: Range | None = None
    optional: bool = False
    role: Role | None = None

    def __str__(self) -> str:
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        words = {int: "a whole number", float: "a number", bool: "true or false"}
        word = words.get(self.type, "text" if self.role != TEXT else TEXT.word)
        return f"{word} in {self.range}" if self.range else word

    def __contains__(self, value: Any) -> bool:
        if value is None:
            return self.optional
        expected = {float: (int, float), Path: (str, PurePath)}.get(
            self.type, self.type
        )
        if not isinstance(value, expected) or (
            isinstance(value, bool) and self.type is not bool
        ):
            return False
        if self.choices:
            return value in self.choices
        if self.role == TEXT:
            return is_utf8(str(value))
        return self.range is None or value in self.range


def kind_of(parameter: inspect.Parameter) -> Kind:
    """The Kind of a parameter's annotation.

    Raises TypeError for a type that no flag can hold: expected int, float, bool, str,
    Path, a Literal of strings, or one of these or None; a number with a Range.
    """
    annotation, optional = parameter.annotation, False
    if typing.get_origin(annotation) in (UnionType, typing.Union):
        kinds = [k for k in typing.get_args(annotation) if k is not NoneType]
        optional = len(kinds) < len(typing.get_args(annotation))
        annotation = kinds[0] if len(kinds) == 1 else annotation
    details: list[Any] = []
    if typing.get_origin(annotation) is Annotated:
        annotation, *details = typing.get_args(annotation)
    range_ = next((d for d in details if isinstance(d, Range)), None)
    role = next((d for d in details if isinstance(d, Role)), None)
    if typing.get_origin(annotation) is Literal:
        return Kind(str, typing.get_args(annotation), None, optional, role)
    if annotation not in (int, float, bool, str, Path):
        raise TypeError(
            f"parameter {parameter.name}: expected int, float, bool, str, Path, a "
            "Literal of strings, or one of these or None; got "
            f"{parameter.annotation}"
        )
    return Kind(annotation, (), range_, optional, role)


def flags_with_role(function: Callable[..., Any], role: Role) -> list[str]:
    """The names of the flags of `function` with that role, such as checks.FIXED."""
    known = parameters(function)
    return [name for name, p in known.items() if kind_of(p).role == role]


def check_values(function: Callable[..., Any], values: Mapping[str, Any]) -> None:
    """Raise ValueError, in one line, for values that the flags of `function` do not
    accept. Names that it does not have are not checked."""
    known = parameters(function)
    wrong = [
        f"--{name}: expected {kind}, got {values[name]!r}"
        for name, kind in ((n, kind_of(p)) for n, p in known.items() if n in values)
        if values[name] not in kind
    ]
    if wrong:
        raise ValueError("; ".join(wrong))


def check_derived(function: ExperimentFn, recorded: Mapping[str, Any]) -> None:
    """Raise ValueError for a flag of a run's record that is null though `function`
    derives it: a record has what was derived."""
    known = parameters(function)
    for name, value in derive(function, recorded).items():
        if recorded[name] is None and value is not None:
            kind = kind_of(known[name])
            raise ValueError(f"--{name}: expected {kind}, got {recorded[name]!r}")


class _Parser(flags.ArgumentParser):
    """absl's parser of the text of a number, in ASCII digits, or of a choice."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.syntactic_help = str(kind)

    def parse(self, argument: Any) -> Any:
        value = argument
        if isinstance(argument, str) and self.kind.type in _NUMBER:
            if not _NUMBER[self.kind.type].fullmatch(argument):
                raise ValueError(str(self.kind))
            value = self.kind.type(argument)
        if value not in self.kind:
            raise ValueError(str(self.kind))
        return value

    def flag_type(self) -> str:
        return self.kind.type.__name__


def module_of(function: Callable[..., Any]) -> str:
    """The name by which the module of `function` is imported; empty where it has none
    (a notebook, a script)."""
    name = inspect.unwrap(function).__module__
    if name != "__main__":
        return name
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name if spec else ""


def define(values: flags.FlagValues, function: Callable[..., Any]) -> None:
    """One flag in `values` for each keyword-only parameter of `function` that has none
    there yet. Raises TypeError as `kind_of`."""
    docs = arg_docs(function)
    for name, parameter in parameters(function).items():
        if name in values:
            continue
        kind, default = kind_of(parameter), parameter.default
        help_ = docs.get(name, "")
        if kind.type is bool:
            flags.DEFINE_bool(name, default, help_, flag_values=values)
            continue
        text = str(default) if isinstance(default, PurePath) else default
        serializer = flags.ArgumentSerializer()
        flags.DEFINE(_Parser(kind), name, text, help_, values, serializer)


def parse(values: flags.FlagValues, argv: list[str]) -> list[str]:
    """Set `values` from `argv`; return the arguments that are not flags.

    Raises ValueError for an unknown flag, with the one that is spelled most like it,
    and for a value that its flag does not accept.
    """
    for argument in argv[1:]:
        name = argument.lstrip("-").partition("=")[0]
        if argument.startswith("-") and name in OF_ABSL and name not in values:
            raise ValueError(f"--{name}: there is no such flag; --help lists them")
    try:
        return values(argv)
    except flags.UnrecognizedFlagError as error:
        name = error.flagname
        near = difflib.get_close_matches(name, list(values), n=1, cutoff=0.7)
        hint = f"did you mean --{near[0]}?" if near else "--help lists them"
        raise ValueError(f"--{name}: there is no such flag; {hint}") from None
    except flags.IllegalFlagValueError as error:
        found = re.match(r"flag --(\w+)=(.*?): ", str(error), re.S)
        if found is None:
            raise
        name, got = found.groups()
        expected = values[name].parser.syntactic_help or "true or false"
        raise ValueError(f"--{name}: expected {expected}, got {got!r}") from None


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
    return {k: str(v) if isinstance(v, PurePath) else v for k, v in arguments.items()}


def from_json(
    function: Callable[..., Any], recorded: Mapping[str, Any]
) -> dict[str, Any]:
    """The inverse of `to_json` for `function`'s flags. ValueError for a path that is
    none."""
    kinds = {name: kind_of(p) for name, p in parameters(function).items()}
    of_paths = {name: kind for name, kind in kinds.items() if kind.type is Path}
    return {
        name: value
        if name not in of_paths or value is None
        else _path(name, of_paths[name], value)
        for name, value in recorded.items()
    }


def _path(name: str, kind: Kind, value: Any) -> Path:
    try:
        path = checks.parse_path(value)
    except ValueError as error:
        raise ValueError(f"--{name}: {error}") from None
    is_folder = kind.role is not None and kind.role.word == checks.FOLDER.word
    if checks.is_remote(path) and not is_folder:
        raise ValueError(f"--{name}: expected a path of a file system, got {path}")
    return path


def help_text(function: Callable[..., Any]) -> str:
    """The help of a function's flags, two lines each; `fixed` are those that stay as
    they are in the folder of a run."""
    docs, scale = arg_docs(function), vars(function).get("scale")
    derives = inspect.signature(scale).parameters if scale else {}
    lines = []
    for name, parameter in parameters(function).items():
        kind, default = kind_of(parameter), parameter.default
        word = "|".join(kind.choices) or kind.type.__name__.lower()
        if kind.range is not None:
            word += f" in {kind.range}"
        role = f", {FIXED.word}" if kind.role == FIXED else ""
        if default is None and name in derives:
            default = "derived"
        lines.append(f"  --{name}={word}  (default {default}{role})")
        lines.append(f"      {docs.get(name, '')}".rstrip())
    return "\n".join(lines)
