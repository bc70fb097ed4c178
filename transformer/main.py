"""The command line of any experiment: its signature's flags, and five verbs.

python -m experiments.NAME [train|evaluate|generate|show|benchmark] [--flag=value ...]
"""

from __future__ import annotations

import inspect
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from absl import flags as absl_flags

from transformer import flags, launch


def universal(
    *,
    workdir: Path | None = None,
    mesh: str = "",
    log_every: int = 10,
    evaluate_every: int = 500,
    checkpoint_every: int = 200,
    platform_tuning: bool = True,
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
) -> None:
    """The flags that every experiment has.

    Args:
        workdir: the run folder; default runs/NAME.
        mesh: axes of devices, as data:2,tensor:4; the axis data takes what is left.
        log_every: steps between two lines.
        evaluate_every: steps between two evaluations.
        checkpoint_every: steps between two checkpoints.
        platform_tuning: the CPU's flags and allocator (transformer/cpu_tuning.py).
        coordinator: address:port of process 0, where nothing detects the cluster.
        processes: how many processes there are, with --coordinator.
        process: which of them this is, from 0, with --coordinator.
    """


class Command(NamedTuple):
    """What was asked for: a verb, its function's arguments, the universal flags."""

    verb: str
    name: str
    experiment: dict[str, Any]
    generate: dict[str, Any]
    universal: dict[str, Any]
    workdir: Path


def run(
    experiment: Callable[..., Any], *, generate: Callable[..., Any] | None = None
) -> None:
    """Do what the command line asks of `experiment`, and exit.

    generate: the function whose keywords are the flags of the verb `generate`.
    Exit status: 0 done; 1 broken; 2 bad input, told in one line; 143 stopped by SIGTERM
    with everything saved.
    """
    try:
        command = parsed(sys.argv[1:], experiment, generate)
        launch.start(command.universal)
        status = _do(command, experiment)
    except (ValueError, absl_flags.Error) as error:
        _refuse(error)
    sys.exit(status)


def _refuse(error: Exception) -> NoReturn:
    """One line, and exit status 2: the input was at fault, not the program."""
    if os.environ.get("TRANSFORMER_TRACEBACK"):
        raise error
    print("error: " + " ".join(str(error).split()), file=sys.stderr, flush=True)
    os._exit(2) if launch.several() else sys.exit(2)


def parsed(
    argv: list[str],
    experiment: Callable[..., Any],
    generate: Callable[..., Any] | None,
) -> Command:
    """The command in `argv`; flags recorded in the run folder are its defaults.

    Raises ValueError for an unknown verb, and for a flag that differs from the one
    recorded; absl's errors, with suggestions, for unknown flags and wrong types.
    """
    name = experiment.__module__.split(".")[-1]
    if name == "__main__":
        name = Path(inspect.getfile(experiment)).stem
    asks = [a for a in argv if a in ("--help", "-h", "-help", "--helpfull")]
    if asks:
        print(_help(experiment, generate))
        sys.exit(0)
    values = absl_flags.FlagValues()
    flags.define(values, universal)
    flags.define(values, experiment)
    verb, rest = _verb(argv)
    if generate is not None and verb == "generate":
        flags.define(values, generate)
    extra = flags.read(values, [name, *rest])[1:]
    if extra:
        raise ValueError(f"expected flags --name=value, got {' '.join(extra)!r}")
    common = flags.arguments(values, universal, {})
    workdir = common["workdir"] or Path("runs") / name
    earlier = _recorded_flags(workdir, name)
    chosen = flags.arguments(values, experiment, earlier)
    _same_as_recorded(chosen, earlier, workdir)
    asked = {}
    if generate is not None and verb == "generate":
        asked = flags.arguments(values, generate, {})
    return Command(verb, name, chosen, asked, common, workdir)


def _verb(argv: list[str]) -> tuple[str, list[str]]:
    if argv and not argv[0].startswith("-"):
        if argv[0] not in _VERBS:
            verbs = ", ".join(_VERBS)
            raise ValueError(f"verb: expected one of {verbs}; got {argv[0]}")
        return argv[0], argv[1:]
    return "train", argv


def _recorded_flags(workdir: Path, name: str) -> dict[str, Any]:
    file = workdir / "run.json"
    try:
        record = json.loads(file.read_text()) if file.exists() else {}
        record = {"experiment": name, **record}
        record["flags"] = dict(record.get("flags", {}))
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{file}: expected a run's record, got {error}") from None
    if record["experiment"] != name:
        raise ValueError(
            f"{workdir}: expected a folder of experiment {name}, got one of "
            f"{record['experiment']}; choose another --workdir"
        )
    return record["flags"]


def _same_as_recorded(
    chosen: Mapping[str, Any], earlier: Mapping[str, Any], workdir: Path
) -> None:
    for flag, value in chosen.items():
        if flag in earlier and _plain(value) != earlier[flag]:
            raise ValueError(
                f"--{flag}: expected {earlier[flag]}, with which the run in {workdir} "
                f"was started, got {value}; choose another --workdir"
            )


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _help(experiment: Callable[..., Any], generate: Callable[..., Any] | None) -> str:
    module = sys.modules[experiment.__module__].__doc__ or ""
    parts = [module.strip(), "Flags of the experiment:"]
    parts += [flags.page(experiment)]
    if generate is not None:
        parts += ["Flags of the verb generate:", flags.page(generate)]
    parts += ["Flags of every experiment:", flags.page(universal)]
    return "\n\n".join(parts)


def _do(command: Command, make: Callable[..., Any]) -> int:
    import jax

    from transformer.training import faults
    from transformer.training import workdir as folder

    recorded = folder.recorded(command.workdir)
    done = folder.finished(command.workdir)
    if command.verb == "train" and done is not None:
        print(f"the run in {command.workdir} is finished: step {done}")
        return 0
    if command.verb in ("evaluate", "generate") and recorded is None:
        raise ValueError(
            f"{command.workdir}: expected the folder of a run, got none; train first, "
            "or choose another --workdir"
        )
    arguments = command.experiment
    if "workdir" in arguments:
        # Until the run has begun nothing may be left in its folder.
        workdir = command.workdir if recorded is not None else None
        arguments = {**arguments, "workdir": workdir}
    mesh = launch.mesh(command.universal["mesh"])
    try:
        with jax.set_mesh(mesh):
            _VERBS[command.verb](command, make, make(**arguments), mesh)
    except faults.Terminated:
        print("stopped by SIGTERM; all that was reached is saved", flush=True)
        return faults.TERMINATED
    except (faults.NonFinite, OSError) as error:
        if not faults.explained(error):
            raise
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 1
    if launch.several():
        jax.distributed.shutdown()
    return 0


def _train(
    command: Command, make: Callable[..., Any], experiment: Any, mesh: Any
) -> None:
    from transformer.training import faults, loop
    from transformer.training import workdir as folder

    common = command.universal
    cadence = loop.Cadence(
        common["log_every"], common["evaluate_every"], common["checkpoint_every"]
    )
    chosen = {k: _plain(v) for k, v in command.experiment.items() if k != "workdir"}
    loop.check(experiment, command.workdir, mesh=mesh, cadence=cadence)
    folder.begin(command.workdir, experiment, chosen, folder.source_of(make))
    faults.listen()
    state = loop.train(experiment, command.workdir, mesh=mesh, cadence=cadence)
    faults.stop_at_once()
    folder.finish(command.workdir, experiment, state.params, experiment.steps)
    faults.listen()  # Too late to stop.
    print(f"finished; see {command.workdir}")


def _evaluate(
    command: Command, make: Callable[..., Any], experiment: Any, mesh: Any
) -> None:
    from transformer.training import evaluation, faults, loop

    faults.listen()
    params = loop.trained(experiment, command.workdir, mesh)
    for name, numbers in evaluation.measured(experiment, params, mesh).items():
        print(f"{name}: " + ", ".join(f"{k} {v:.4f}" for k, v in numbers.items()))


def _generate(
    command: Command, make: Callable[..., Any], experiment: Any, mesh: Any
) -> None:
    import jax

    from transformer.training import loop

    if experiment.generate is None:
        raise ValueError(f"experiment {experiment.name} has nothing to generate")
    params = loop.trained(experiment, command.workdir, mesh)
    key = jax.random.key(experiment.seed)
    experiment.generate(params, key, **command.generate)


def _show(
    command: Command, make: Callable[..., Any], experiment: Any, mesh: Any
) -> None:
    from transformer.training import loop
    from transformer.training import workdir as folder

    params = loop.trained(experiment, command.workdir, mesh)
    folder.show(command.workdir, experiment, params)


def _benchmark(
    command: Command, make: Callable[..., Any], experiment: Any, mesh: Any
) -> None:
    from transformer.training import benchmark

    benchmark.show(experiment, mesh)


_VERBS = {
    "train": _train,
    "evaluate": _evaluate,
    "generate": _generate,
    "show": _show,
    "benchmark": _benchmark,
}
