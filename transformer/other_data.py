"""A run on other data than it was trained on, or without its data."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformer import checks, command, flags, storage
from transformer.command import Command
from transformer.flags import ExperimentFn


def _source_flag(make: ExperimentFn) -> str | None:
    """The flag that names the data: the first one of the role DATA."""
    return next(iter(flags.flags_with_role(make, checks.DATA)), None)


def sources(parsed: Command, make: ExperimentFn) -> list[str]:
    """The sources on the command line: `--text=a.txt,b.txt`, and for any other flag,
    where a comma may belong to the name, `--source=a;b`. Empty if there is none."""
    flag = _source_flag(make)
    if flag is None or flag not in parsed.explicit:
        return []
    return _divide(flag, str(parsed.experiment_flags[flag]))


def _divide(flag: str, text: str) -> list[str]:
    divides = "," in text and flag == "text" and not _is_one_text(text)
    parts = text.split(";" if ";" in text else "," if divides else "\0")
    return [part.strip() for part in parts if part.strip()]


def _is_one_text(text: str) -> bool:
    from transformer.data import sources as data_sources
    from transformer.data.sources import text as text_source

    is_path = data_sources.exists(text)
    return is_path or bool(text_source.mixture_parts(text))


def make_without_data(
    make: ExperimentFn, arguments: Mapping[str, Any], workdir: Path
) -> Any:
    """The experiment of make(**arguments). Where a file or folder of its data is gone,
    it is made with the default data instead, and without evaluations; a printed line
    says so."""
    from transformer.data import sources as data_sources

    try:
        return command.make_experiment(make, arguments, workdir)
    except ValueError as error:
        flag, defaults = _source_flag(make), flags.defaults(make)
        if flag is None or arguments[flag] == defaults[flag]:
            raise
        if data_sources.exists(arguments[flag]):
            raise
        roles = flags.flags_with_role(make, checks.DATA)
        others = {name: defaults[name] for name in roles}
        experiment = command.make_experiment(make, {**arguments, **others}, workdir)
        print(f"note: the data of the run is not needed ({error})", file=sys.stderr)
        return experiment._replace(evaluations={}, data=None)


def _make_on(
    source: str,
    make: ExperimentFn,
    arguments: Mapping[str, Any],
    *,
    folder: Path,
    labels: Sequence[str],
) -> Any:
    """The experiment that evaluates on all of `source`, with the tokenizer in `folder`.
    ValueError for other classes than `labels`, where there are any."""
    from transformer.data.sources import EvaluationOnly

    arguments = {**arguments, str(_source_flag(make)): EvaluationOnly(source)}
    if "workdir" in arguments:
        arguments["workdir"] = folder
    with checks.refuse_unreadable():
        experiment = make(**arguments)
    experiment.require_verb("evaluate")
    got = list(getattr(experiment.data, "labels", ()))
    if labels and got != list(labels):
        raise ValueError(
            f"{source}: expected the classes of the run, {', '.join(labels)}; got "
            f"{', '.join(got)}"
        )
    return experiment


def experiment_on_source(
    source: str, make: ExperimentFn, arguments: Mapping[str, Any], workdir: Path
) -> Any:
    """The experiment of the run in `workdir` on all of a file or folder, or on the
    validation split of a name. ValueError for other classes."""
    from transformer.training.workdir import read_record

    labels = (read_record(workdir) or {}).get("labels", [])
    return _make_on(source, make, arguments, folder=workdir, labels=labels)


def add_evaluations(
    text: str, experiment: Any, make: ExperimentFn, arguments: Mapping[str, Any]
) -> Any:
    """`experiment` that also evaluates on all of each source in `text`, divided as in
    `sources`; an evaluation is called after its source, and after its own name where
    there are several. The tokenizer is that of `experiment`."""
    flag = _source_flag(make)
    if flag is None:
        raise ValueError(
            f"--evaluate_on: expected an experiment with a flag for its data, got "
            f"{experiment.name}"
        )
    found, added = _divide(flag, text), {}
    if len(set(found)) < max(1, len(found)):
        raise ValueError(
            f"--evaluate_on: expected different sources, at least one, got {text!r}"
        )
    labels = getattr(experiment.data, "labels", ())
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        storage.commit_files(folder, experiment.extra_files)
        for source in found:
            other = _make_on(source, make, arguments, folder=folder, labels=labels)
            one = len(other.evaluations) == 1
            for name, evaluation in other.evaluations.items():
                added[source if one else f"{source}/{name}"] = evaluation
    return experiment._replace(evaluations={**experiment.evaluations, **added})


def evaluate(parsed: Command, make: ExperimentFn, mesh: Any) -> None:
    """Print the metrics of each evaluation on each of `sources`, a column each. The
    training data of the run is not needed."""
    import jax

    from transformer.training import evaluation, loop, metrics

    found, params, columns = sources(parsed, make), None, []
    arguments, workdir = parsed.experiment_flags, parsed.workdir
    # All before any is evaluated: a bad one is refused within seconds.
    experiments = [experiment_on_source(s, make, arguments, workdir) for s in found]
    for experiment in experiments:
        if params is None:
            which = parsed.common["checkpoint"]
            params = loop.restore_run_params(experiment, workdir, mesh, which=which)
        results = evaluation.evaluate(experiment, params, mesh)
        columns.append(
            {
                f"{name}/{number}": f"{amount:.4f}"
                for name, numbers in results.items()
                for number, amount in numbers.items()
            }
        )
    names = dict.fromkeys(name for column in columns for name in column)
    rows = [[name, *(column.get(name, "") for column in columns)] for name in names]
    if jax.process_index() == 0:
        print(metrics.align([["", *found], *rows]))
