"""A run on other data than it was trained on, or without its data."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformer import checks, command, flags, storage
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
    return _divide(flag, str(parsed.experiment[flag]))


def _divide(flag: str, text: str) -> list[str]:
    divides = "," in text and flag == "text" and not _is_one_text(text)
    parts = text.split(";" if ";" in text else "," if divides else "\0")
    return [part.strip() for part in parts if part.strip()]


def _is_one_text(text: str) -> bool:
    from transformer.data import sources as doors
    from transformer.data.sources import text as text_source

    is_path = doors.exists(Path(text).expanduser())
    return is_path or bool(text_source.mixture_parts(text))


def make_without_data(
    make: ExperimentFn, arguments: Mapping[str, Any], workdir: Path
) -> Any:
    """The value of an experiment; where a file or folder of its data is gone, with the
    default data in its place, in one printed line, and then without evaluations."""
    from transformer.data import sources as doors

    try:
        return command.make(make, arguments, workdir)
    except ValueError as error:
        flag, defaults = _source_flag(make), flags.defaults(make)
        if flag is None or arguments[flag] == defaults[flag]:
            raise
        if doors.exists(Path(arguments[flag]).expanduser()):
            raise
        roles = flags.of_role(make, checks.DATA)
        others = {name: defaults[name] for name in roles}
        value = command.make(make, {**arguments, **others}, workdir)
        print(f"note: the data of the run is not needed ({error})", file=sys.stderr)
        return value._replace(evaluations={}, data=None)


def make_on(
    source: str, make: ExperimentFn, arguments: Mapping[str, Any], workdir: Path
) -> Any:
    """The value of the experiment of the run in `workdir` on all of a file or folder,
    or on the validation split of a name. ValueError for other classes."""
    from transformer.data.sources import Whole
    from transformer.training.workdir import read_record

    whole = {**arguments, str(_source_flag(make)): Whole(source)}
    value = command.make(make, whole, workdir)
    _check_labels(source, value, (read_record(workdir) or {}).get("labels", []))
    return value


def _check_labels(source: str, value: Any, expected: list[str]) -> None:
    got = list(getattr(value.data, "labels", ()))
    if expected and got != expected:
        raise ValueError(
            f"{source}: expected the classes of the run, {', '.join(expected)}; got "
            f"{', '.join(got)}"
        )


def with_evaluations_on(
    text: str, experiment: Any, make: ExperimentFn, arguments: Mapping[str, Any]
) -> Any:
    """`experiment` that also evaluates on the whole of each of the data in `text`,
    divided as in `sources`; an evaluation is called after its data, and after its own
    name where there are several. The tokenizer is that of `experiment`."""
    from transformer.data.sources import Whole

    flag = _source_flag(make)
    if flag is None:
        raise ValueError(
            f"--evaluate_on: expected an experiment with a flag for its data, got "
            f"{experiment.name}"
        )
    added = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, content in experiment.extra_files.items():
            storage.commit(Path(folder) / name, content)
        for source in _divide(flag, text):
            other = {**arguments, flag: Whole(source)}
            if "workdir" in arguments:
                other["workdir"] = Path(folder)
            value = make(**other)
            _check_labels(source, value, list(getattr(experiment.data, "labels", ())))
            one = len(value.evaluations) == 1
            for name, evaluation in value.evaluations.items():
                added[source if one else f"{source}/{name}"] = evaluation
    return experiment._replace(evaluations={**experiment.evaluations, **added})


def evaluate(parsed: Command, make: ExperimentFn, mesh: Any) -> None:
    """Print the metrics of each evaluation on each of `sources`, a column each. The
    training data of the run is not needed."""
    from transformer.training import evaluation, loop, metrics

    found, params, columns = sources(parsed, make), None, []
    for source in found:
        value = make_on(source, make, parsed.experiment, parsed.workdir)
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
