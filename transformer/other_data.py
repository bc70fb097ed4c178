"""A run on other data than it was trained on, or without its data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformer import checks, command, flags
from transformer.command import Command

ExperimentFn = Callable[..., Any]


def _source_flag(make: ExperimentFn) -> str | None:
    """The flag that names the data: the first one of the role DATA."""
    return next(iter(flags.of_role(make, checks.DATA)), None)


def sources(parsed: Command, make: ExperimentFn) -> list[str]:
    """The data that stand on the command line: `--text=a.txt,b.txt`, and of any other
    flag, where a comma may belong to the name, `--source=a;b`. None if none stands
    there."""
    flag = _source_flag(make)
    if flag is None or flag not in parsed.explicit:
        return []
    text = str(parsed.experiment[flag])
    divides = "," in text and flag == "text" and not _is_one_text(text)
    parts = text.split(";" if ";" in text else "," if divides else "\0")
    return [part.strip() for part in parts if part.strip()]


def _is_one_text(text: str) -> bool:
    from transformer.data import sources as doors
    from transformer.data.sources import text as text_source

    is_path = doors.exists(Path(text).expanduser())
    return is_path or bool(text_source.mixture_parts(text))


def without_data(
    arguments: Mapping[str, Any], make: ExperimentFn
) -> dict[str, Any] | None:
    """`arguments` with the default data in place of a file or folder that is gone;
    None where it is not gone."""
    from transformer.data import sources as doors

    flag = _source_flag(make)
    default = flags.defaults(make)[flag] if flag else None
    if flag is None or arguments[flag] == default:
        return None
    if doors.exists(Path(arguments[flag]).expanduser()):
        return None
    roles = flags.of_role(make, checks.DATA)
    return {**arguments, **{name: flags.defaults(make)[name] for name in roles}}


def evaluate(parsed: Command, make: ExperimentFn, mesh: Any) -> None:
    """Print the metrics of each evaluation on each of `sources`, a column each: all of
    a file or folder, the validation split of a name.

    The training data of the run is not needed. Raises ValueError for other classes.
    """
    from transformer.data.sources import Whole
    from transformer.training import evaluation, loop, metrics, workdir

    flag, found = str(_source_flag(make)), sources(parsed, make)
    record = workdir.read_record(parsed.workdir) or {}
    params, columns = None, []
    for source in found:
        arguments = {**parsed.experiment, flag: Whole(source)}
        value = command.make(make, arguments, parsed.workdir)
        _check_labels(source, record.get("labels", []), value)
        if params is None:
            which = parsed.common["checkpoint"]
            params = loop.finished_params(value, parsed.workdir, mesh, which=which)
        results = evaluation.evaluate(value, params, mesh)
        columns.append(
            {
                f"{name}/{number}": f"{amount:.4f}"
                for name, numbers in results.items()
                for number, amount in numbers.items()
            }
        )
    names = dict.fromkeys(name for column in columns for name in column)
    rows = [[name, *(column.get(name, "") for column in columns)] for name in names]
    print(metrics.align([["", *found], *rows]))


def _check_labels(source: str, expected: list[str], experiment: Any) -> None:
    got = list(getattr(experiment.data, "labels", ()))
    if expected and got != expected:
        raise ValueError(
            f"{source}: expected the classes of the run, {', '.join(expected)}; got "
            f"{', '.join(got)}"
        )
