"""The command line of any experiment: the flags of its signature, and five verbs.

python -m experiments.NAME [train|evaluate|generate|report|benchmark] [--flag=value ...]
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from absl import flags as absl_flags

from transformer import checks, flags, launch

ExperimentFn = Callable[..., Any]


def common_flags(
    *,
    workdir: Path | None = None,
    mesh: str = "",
    log_every: checks.Count = 10,
    evaluate_every: checks.Count = 500,
    checkpoint_every: checks.Count = 200,
    platform_tuning: bool = True,
    coordinator: str | None = None,
    processes: checks.Count | None = None,
    process: checks.CountOrZero | None = None,
) -> None:
    """The flags of every experiment.

    Args:
        workdir: run folder; default runs/NAME.
        mesh: axes of devices, as data:2,tensor:4; the axis data takes the rest.
        log_every: steps between two logs.
        evaluate_every: steps between two evaluations.
        checkpoint_every: steps between two checkpoints.
        platform_tuning: set the CPU's flags and allocator (transformer/cpu_tuning.py).
        coordinator: address:port of process 0, where no cluster is detected.
        processes: number of processes, with --coordinator.
        process: number of this process, from 0, with --coordinator.
    """


class Command(NamedTuple):
    """A parsed command line: verb, arguments of its functions, common flags."""

    verb: str
    experiment: dict[str, Any]
    generate: dict[str, Any]
    common: dict[str, Any]
    workdir: Path


def main(
    experiment: ExperimentFn, *, generate: Callable[..., Any] | None = None
) -> None:
    """Carry out the command line for `experiment`, and exit.

    generate: the function whose keywords are the flags of the verb `generate`.
    Exit status: 0 done; 1 failed; 2 bad input, in one line; 143 stopped by SIGTERM with
    everything saved.
    """
    try:
        command = parse_command(sys.argv[1:], experiment, generate)
        launch.setup(command.common)
        status = _execute(command, experiment)
    except (ValueError, absl_flags.Error) as error:
        _refuse(error)
    sys.exit(status)


def run(
    experiment: ExperimentFn,
    workdir: Path | str,
    *,
    mesh: Any = None,
    intervals: Any = None,
    **arguments: Any,
) -> Any:
    """Begin or resume the run of `experiment(**arguments)` in `workdir`, train it to
    its last step, write its report; return the final State. The verb `train` does this.

    mesh: default all devices on the axis data. intervals: a `loop.Intervals`.
    arguments: flags and slots of the experiment; flags recorded in `workdir` are the
    defaults. Raises ValueError for what the verb `train` refuses, and TypeError for
    unknown arguments; a finished run is not changed.
    """
    import jax

    from transformer import axes
    from transformer.training import declaration, faults, loop
    from transformer.training import workdir as folder

    workdir, mesh = Path(workdir), mesh or axes.make_mesh()
    slots = {
        k: arguments.pop(k) for k in declaration.slots(experiment) if k in arguments
    }
    experiment = declaration.fill(experiment, **slots)
    flags.check_values(experiment, arguments)
    recorded = _recorded_flags(workdir, experiment)
    _check_recorded(arguments, recorded, workdir)
    defaults = flags.defaults(experiment)
    defaults |= {name: recorded[name] for name in defaults if name in recorded}
    chosen = flags.from_json(experiment, {**defaults, **arguments})
    with jax.set_mesh(mesh), faults.restore_sigterm_handler():
        value = _make(experiment, chosen, workdir)
        if folder.last_step(workdir) is not None:
            return loop.finished_state(value, workdir, mesh)
        return _run(experiment, value, chosen, workdir, mesh, intervals)


def parse_command(
    argv: list[str],
    experiment: ExperimentFn,
    generate: Callable[..., Any] | None,
) -> Command:
    """The command in `argv`; flags recorded in the run folder are its defaults.

    Raises ValueError for an unknown verb, and for a flag that differs from the one
    recorded; absl's errors, with suggestions, for unknown flags and wrong types.
    """
    name = flags.name_of(experiment)
    if any(a in ("--help", "-h", "-help", "--helpfull") for a in argv):
        print(_help(experiment, generate))
        sys.exit(0)
    values = absl_flags.FlagValues()
    flags.define(values, common_flags)
    flags.define(values, experiment)
    verb, rest = _verb(argv)
    if generate is not None and verb == "generate":
        flags.define(values, generate)
    extra = flags.parse(values, [name, *rest])[1:]
    if extra:
        raise ValueError(f"expected flags --name=value, got {' '.join(extra)!r}")
    common = flags.arguments(values, common_flags, {})
    workdir = common["workdir"] or Path("runs") / name
    recorded = _recorded_flags(workdir, experiment)
    chosen = flags.arguments(values, experiment, recorded)
    _check_recorded(chosen, recorded, workdir)
    to_generate = {}
    if generate is not None and verb == "generate":
        to_generate = flags.arguments(values, generate, {})
    return Command(verb, chosen, to_generate, common, workdir)


def _refuse(error: Exception) -> NoReturn:
    """Print one line and exit with status 2: bad input, not a fault of the program."""
    if os.environ.get("TRANSFORMER_TRACEBACK"):
        raise error
    print("error: " + " ".join(str(error).split()), file=sys.stderr, flush=True)
    os._exit(2) if launch.is_multiprocess() else sys.exit(2)


def _verb(argv: list[str]) -> tuple[str, list[str]]:
    if argv and not argv[0].startswith("-"):
        if argv[0] not in _VERBS:
            verbs = ", ".join(_VERBS)
            raise ValueError(f"verb: expected one of {verbs}; got {argv[0]}")
        return argv[0], argv[1:]
    return "train", argv


def _recorded_flags(workdir: Path, experiment: ExperimentFn) -> dict[str, Any]:
    """The flags in the run's record. ValueError for the record of another experiment,
    and for a flag that this one does not have."""
    if not (workdir / "run.json").exists():
        return {}
    from transformer.training.workdir import read_record

    record, name = read_record(workdir) or {}, flags.name_of(experiment)
    if record["experiment"] != name:
        raise ValueError(
            f"{workdir}: expected a folder of experiment {name}, got one of "
            f"{record['experiment']}; choose another --workdir"
        )
    unknown = sorted(set(record["flags"]) - set(flags.parameters(experiment)))
    if unknown:
        raise ValueError(
            f"{workdir}: expected a run of {name} with its flags, got the recorded "
            f"flags {', '.join(unknown)}: the folder is of a run with another "
            "optimizer, or of another version; choose another --workdir"
        )
    try:
        flags.check_values(experiment, record["flags"])
    except ValueError as error:
        raise ValueError(f"{workdir}/run.json: {error}") from None
    return record["flags"]


def _check_recorded(
    arguments: Mapping[str, Any], recorded: Mapping[str, Any], workdir: Path
) -> None:
    for flag, value in flags.to_json(arguments).items():
        if flag in recorded and value != recorded[flag]:
            raise ValueError(
                f"--{flag}: expected {recorded[flag]}, with which the run in {workdir} "
                f"was started, got {value}; choose another --workdir"
            )


def _help(experiment: ExperimentFn, generate: Callable[..., Any] | None) -> str:
    module = sys.modules[experiment.__module__].__doc__ or ""
    parts = [module.strip(), "Flags of the experiment:"]
    parts += [flags.help_text(experiment)]
    if generate is not None:
        parts += ["Flags of the verb generate:", flags.help_text(generate)]
    parts += ["Flags of every experiment:", flags.help_text(common_flags)]
    return "\n\n".join(parts)


def _make(make: ExperimentFn, arguments: Mapping[str, Any], workdir: Path) -> Any:
    """The experiment; its `workdir` is set once the run has begun, so that a refused
    run leaves nothing there."""
    arguments = dict(arguments)
    if "workdir" in arguments:
        arguments["workdir"] = workdir if (workdir / "run.json").exists() else None
    return make(**arguments)


def _execute(command: Command, make: ExperimentFn) -> int:
    import jax

    from transformer.training import faults
    from transformer.training import workdir as folder

    begun = folder.read_record(command.workdir) is not None
    done = folder.last_step(command.workdir)
    if command.verb == "train" and done is not None:
        print(f"the run in {command.workdir} is finished: step {done}")
        return 0
    if command.verb in ("evaluate", "generate") and not begun:
        raise ValueError(
            f"{command.workdir}: expected the folder of a run, got none; train first, "
            "or choose another --workdir"
        )
    mesh = launch.parse_mesh(command.common["mesh"])
    try:
        with jax.set_mesh(mesh):
            value = _make(make, command.experiment, command.workdir)
            _VERBS[command.verb](command, make, value, mesh)
    except faults.Termination:
        print("stopped by SIGTERM; the last step is saved", flush=True)
        return faults.TERMINATED
    except (faults.NonFinite, OSError) as error:
        if not faults.is_user_facing(error):
            raise
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 1
    if launch.is_multiprocess():
        jax.distributed.shutdown()
    return 0


def _run(
    make: ExperimentFn,
    experiment: Any,
    arguments: Mapping[str, Any],
    workdir: Path,
    mesh: Any,
    intervals: Any,
) -> Any:
    from transformer.training import faults, loop
    from transformer.training import workdir as folder

    intervals = intervals or loop.DEFAULT_INTERVALS
    recorded = {k: v for k, v in arguments.items() if k != "workdir"}
    loop.check(experiment, workdir, mesh=mesh, intervals=intervals)
    source = folder.source_of(make)
    folder.write_record(workdir, experiment, flags.to_json(recorded), source)
    faults.install_sigterm_handler()
    state = loop.train(experiment, workdir, mesh=mesh, intervals=intervals)
    faults.terminate_at_once()
    folder.finish(workdir, experiment, state.params, experiment.steps)
    faults.install_sigterm_handler()  # The run is finished: SIGTERM changes nothing.
    print(f"finished; see {workdir}")
    return state


def _train(command: Command, make: ExperimentFn, experiment: Any, mesh: Any) -> None:
    from transformer.training import loop

    names = ("log_every", "evaluate_every", "checkpoint_every")
    intervals = loop.Intervals(*(command.common[name] for name in names))
    _run(make, experiment, command.experiment, command.workdir, mesh, intervals)


def _evaluate(command: Command, make: ExperimentFn, experiment: Any, mesh: Any) -> None:
    from transformer.training import evaluation, faults, loop

    faults.install_sigterm_handler()
    params = loop.finished_params(experiment, command.workdir, mesh)
    for name, metrics in evaluation.evaluate(experiment, params, mesh).items():
        print(f"{name}: " + ", ".join(f"{k} {v:.4f}" for k, v in metrics.items()))


def _generate(command: Command, make: ExperimentFn, experiment: Any, mesh: Any) -> None:
    import jax

    from transformer.training import loop

    if experiment.generate is None:
        raise ValueError(f"experiment {experiment.name} has nothing to generate")
    params = loop.finished_params(experiment, command.workdir, mesh)
    experiment.generate(params, jax.random.key(experiment.seed), **command.generate)


def _report(command: Command, make: ExperimentFn, experiment: Any, mesh: Any) -> None:
    from transformer.training import loop
    from transformer.training import workdir as folder

    params = loop.finished_params(experiment, command.workdir, mesh)
    folder.write_report(command.workdir, experiment, params)


def _benchmark(
    command: Command, make: ExperimentFn, experiment: Any, mesh: Any
) -> None:
    from transformer.training import benchmark

    benchmark.show(experiment, mesh)


_VERBS = {
    "train": _train,
    "evaluate": _evaluate,
    "generate": _generate,
    "report": _report,
    "benchmark": _benchmark,
}
