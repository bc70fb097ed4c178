"""The command line of any experiment: the flags of its signature, and its verbs.

python -m experiments.NAME [VERB] [--flag=value ...]

VERB: train (the default), evaluate, report, benchmark, sweep, plan, or one of its own,
such as generate.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from absl import flags as absl_flags

from transformer import checks, command, flags, launch
from transformer.command import Command
from transformer.flags import ExperimentFn


def main(make: ExperimentFn, **verbs: Callable[..., Any]) -> None:
    """Carry out the command line for the experiment that `make` makes, and exit.

    verbs: of the experiment's own, functions whose keywords are the flags of the verb
    of that name; `Experiment.offered_verbs` carries them out.
    Exit status: 0 done; 1 failed; 2 bad input, in one line; 143, 130 or 129 stopped by
    SIGTERM, SIGINT or SIGHUP with everything saved; 141 nobody reads the output.
    """
    from transformer import streams
    from transformer.training import signals

    argv = sys.argv[1:]
    trains = not argv or argv[0].startswith("-") or argv[0] in ("train", "sweep")
    streams.guard(leave=not trains or command.asks_help(argv))
    signals.exit_at_once()
    try:
        if argv[:1] == ["sweep"]:
            from transformer import sweep

            sys.exit(sweep.execute(argv[1:], make))
        if argv[:1] == ["plan"]:
            from transformer.planning import verb

            sys.exit(verb.execute(argv[1:], make))
        parsed = command.parse(argv, make, verbs)
        launch.setup(parsed.common)
        status = _execute(parsed, make)
    except (ValueError, absl_flags.Error) as error:
        _refuse(error)
    sys.exit(status)


def run(
    make: ExperimentFn,
    workdir: Path | str,
    *,
    mesh: Any = None,
    intervals: Any = None,
    accept_changed_data: bool = False,
    evaluate_on: str = "",
    **arguments: Any,
) -> Any:
    """Begin or resume the run of make(**arguments) in `workdir`, train it to its last
    step, write its report; return the final State. The verb `train` does this.

    mesh: default all devices on the axis data. intervals: a `loop.Intervals`.
    evaluate_on: as the flag. arguments: flags and slots of the experiment; flags
    recorded in `workdir` are the defaults. Raises ValueError for what the verb `train`
    refuses, TypeError for unknown arguments, and signals.Termination; a finished run is
    not changed.
    """
    import jax

    from transformer import axes, other_data
    from transformer.training import declaration, loop, signals

    workdir, mesh = checks.parse_path(workdir), mesh or axes.make_mesh()
    slots = {k: arguments.pop(k) for k in declaration.slots(make) if k in arguments}
    make = declaration.fill(make, **slots)
    flags.check_values(make, arguments)
    recorded = command.recorded_flags(workdir, make)
    command.check_recorded(make, arguments, recorded, workdir)
    defaults = flags.defaults(make)
    source = recorded or command.inherited_flags(arguments.get("init_from"), make)
    defaults |= {name: source[name] for name in defaults if name in source}
    chosen = flags.derive(make, flags.from_json(make, {**defaults, **arguments}))
    command.check_runs(make, chosen)
    command.check_memory(make, chosen, mesh)
    with jax.set_mesh(mesh), signals.restore_handlers():
        experiment = command.make_experiment(make, chosen, workdir)
        if _is_finished(workdir, experiment.steps):
            print(_finished_line(workdir, experiment.steps))
            return loop.restore_run_state(experiment, workdir, mesh)
        if evaluate_on:
            add = other_data.add_evaluations
            experiment = add(evaluate_on, experiment, make, chosen)
        options = {"mesh": mesh, "intervals": intervals or loop.DEFAULT_INTERVALS}
        return _run(make, experiment, chosen, workdir, options, accept_changed_data)


def _refuse(error: Exception) -> NoReturn:
    """Print one line and exit with status 2: bad input, not a fault of the program. 1
    where another start may succeed."""
    if os.environ.get("TRANSFORMER_TRACEBACK"):
        raise error
    print("error: " + " ".join(str(error).split()), file=sys.stderr, flush=True)
    status = 1 if isinstance(error, launch.JoinError) else 2
    os._exit(status) if launch.is_multiprocess() else sys.exit(status)


def _is_finished(workdir: Path, steps: int) -> bool:
    """Whether the run in `workdir` ended, at `steps`."""
    from transformer.training import workdir as folder

    return folder.last_step(workdir) == steps


def _finished_line(workdir: Path, steps: int) -> str:
    return (
        f"the run in {workdir} is finished: step {steps}; a larger --steps goes on "
        "with it, another --workdir begins a new one"
    )


def _is_done(parsed: Command) -> bool:
    """Whether the run is finished, which is printed. ValueError as
    `workdir.check_finished`, and where no run can be in the folder."""
    from transformer.training import workdir as folder

    steps = parsed.experiment_flags.get("steps", 0)
    if not _is_finished(parsed.workdir, steps):
        checks.writable_folder("--workdir", parsed.workdir)
        return False
    given = {name: parsed.experiment_flags[name] for name in parsed.explicit}
    folder.check_finished(parsed.workdir, flags.to_json(given))
    print(_finished_line(parsed.workdir, steps))
    return True


def _execute(parsed: Command, make: ExperimentFn) -> int:
    import jax

    from transformer import other_data
    from transformer.training import faults, signals
    from transformer.training import workdir as folder

    begun = folder.read_record(parsed.workdir) is not None
    if parsed.verb == "train" and _is_done(parsed):
        return 0
    # A report is written into the folder of a run; verbs but these need parameters.
    starts = parsed.experiment_flags.get("init_from") is not None
    reads = parsed.verb not in ("train", "benchmark")
    if not begun and reads and (parsed.verb == "report" or not starts):
        raise ValueError(
            f"{parsed.workdir}: expected the folder of a run, got none; train first, "
            "or choose another --workdir"
        )
    if parsed.verb in ("train", "report"):
        command.check_runs(make, parsed.experiment_flags)
    mesh = launch.parse_mesh(parsed.common["mesh"])
    if parsed.verb in ("train", "benchmark"):
        command.check_memory(make, parsed.experiment_flags, mesh)
    # What a verb of its own prints may be the content of a file.
    if (parsed.verb in _VERBS or sys.stdout.isatty()) and jax.process_index() == 0:
        name = flags.name_of(make)
        found = launch.describe(parsed.common["coordinator"])
        print(
            f"{name}: run folder {parsed.workdir}; {found}; reading data, compiling",
            flush=True,
        )
    try:
        with jax.set_mesh(mesh):
            if parsed.verb == "evaluate" and other_data.sources(parsed, make):
                other_data.evaluate(parsed, make, mesh)
            else:
                # Verbs of its own do without the data of the run.
                build = other_data.make_without_data
                if parsed.verb in _VERBS:
                    build = command.make_experiment
                experiment = build(make, parsed.experiment_flags, parsed.workdir)
                experiment.require_verb(parsed.verb)
                execute = _VERBS.get(parsed.verb, _execute_own)
                execute(parsed, make, experiment, mesh)
    except signals.Termination as termination:
        print(f"{termination}; the last step is saved", flush=True)
        # At once: XLA may still compile in another thread.
        os._exit(termination.status)
    except Exception as error:
        line = faults.one_line(error)
        if line is None or os.environ.get("TRANSFORMER_TRACEBACK"):
            raise
        sys.stdout.flush()
        print(f"error: {line}", file=sys.stderr, flush=True)
        # The exit barrier would wait for the process that ended.
        return os._exit(1) if faults.is_peer_lost(error) else 1
    if launch.is_multiprocess():
        jax.distributed.shutdown()
    return 0


def _run(
    make: ExperimentFn,
    experiment: Any,
    arguments: Mapping[str, Any],
    workdir: Path,
    options: Mapping[str, Any],
    accept_changed_data: bool,
) -> Any:
    import jax

    from transformer.training import loop, remat, signals
    from transformer.training import workdir as folder

    recorded = {k: v for k, v in arguments.items() if k != "workdir"}
    loop.check(experiment, workdir, **options)
    experiment = remat.fit(experiment, options["mesh"])
    if experiment.derived and jax.process_index() == 0:
        print(experiment.derived_line(), flush=True)
    signals.request_stop()
    with folder.lock(workdir):
        folder.write_record(
            workdir,
            experiment,
            flags.to_json(recorded),
            folder.source_code_of(make),
            module=flags.module_of(make),
            data_flags=flags.flags_with_role(make, checks.DATA),
            accept_changed_data=accept_changed_data,
        )
        state = loop.train(experiment, workdir, **options)
        signals.raise_at_once()
        folder.finish(workdir, experiment, loop.params_of(state), experiment.steps)
        signals.request_stop()  # The run is finished: a signal changes nothing.
    if jax.process_index() == 0:
        print(f"finished; see {workdir}")
    return state


def _train(parsed: Command, make: ExperimentFn, experiment: Any, mesh: Any) -> None:
    from transformer import other_data
    from transformer.training import loop, profiling

    common = parsed.common
    if common["evaluate_on"]:
        experiment = other_data.add_evaluations(
            common["evaluate_on"], experiment, make, parsed.experiment_flags
        )
    intervals = loop.Intervals(
        log=common["log_every"],
        evaluate=common["evaluate_every"],
        checkpoint=common["checkpoint_every"],
        profile=profiling.parse_steps(common["profile"]),
    )
    options = {"mesh": mesh, "intervals": intervals}
    accept = common["accept_changed_data"]
    _run(make, experiment, parsed.experiment_flags, parsed.workdir, options, accept)


def _params(parsed: Command, experiment: Any, mesh: Any) -> Any:
    from transformer.training import loop

    which = parsed.common["checkpoint"]
    return loop.restore_run_params(experiment, parsed.workdir, mesh, which=which)


def _evaluate(parsed: Command, make: ExperimentFn, experiment: Any, mesh: Any) -> None:
    import jax

    from transformer.training import evaluation

    params = _params(parsed, experiment, mesh)
    results = evaluation.evaluate(experiment, params, mesh)
    for name, metrics in results.items() if jax.process_index() == 0 else ():
        print(f"{name}: " + ", ".join(f"{k} {v:.4f}" for k, v in metrics.items()))


def _execute_own(
    parsed: Command, make: ExperimentFn, experiment: Any, mesh: Any
) -> None:
    import jax

    from transformer.training import process_params

    params = _params(parsed, experiment, mesh)
    verb = experiment.offered_verbs[parsed.verb]
    with process_params.on_own_devices(params) as params, checks.refuse_unreadable():
        if jax.process_index() == 0:  # It reads and writes, the others await its end.
            verb(params, parsed.workdir, **parsed.verb_flags)


def _report(parsed: Command, make: ExperimentFn, experiment: Any, mesh: Any) -> None:
    from transformer.training import workdir as folder

    params = _params(parsed, experiment, mesh)
    folder.write_report(parsed.workdir, experiment, params)


def _benchmark(parsed: Command, make: ExperimentFn, experiment: Any, mesh: Any) -> None:
    from transformer.training import benchmark

    benchmark.show(experiment, mesh)


_VERBS = {
    "train": _train,
    "evaluate": _evaluate,
    "report": _report,
    "benchmark": _benchmark,
}
