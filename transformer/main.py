"""The command line of any experiment: its signature's flags, and four verbs.

python -m experiments.NAME [train|evaluate|generate|benchmark] [--flag=value ...]
"""

from __future__ import annotations

import inspect
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from absl import flags

from transformer import platform, signature_flags

VERBS = ("train", "evaluate", "generate", "benchmark")


def universal(
    *,
    workdir: Path | None = None,
    mesh: str = "",
    log_every: int = 10,
    evaluate_every: int = 200,
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
        platform_tuning: the CPU's flags and allocator (transformer/platform.py).
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
        started(command.universal)
        status = _do(command, experiment)
    except (ValueError, flags.Error) as error:
        _refuse(error)
    sys.exit(status)


def _refuse(error: Exception) -> NoReturn:
    """One line, and exit status 2: the input was at fault, not the program."""
    if os.environ.get("TRANSFORMER_TRACEBACK"):
        raise error
    print("error: " + " ".join(str(error).split()), file=sys.stderr, flush=True)
    os._exit(2) if _several() else sys.exit(2)


def _several() -> bool:
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized()


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
    values = flags.FlagValues()
    signature_flags.define(values, universal)
    signature_flags.define(values, experiment)
    verb, rest = _verb(argv)
    if generate is not None and verb == "generate":
        signature_flags.define(values, generate)
    extra = values([name, *rest], known_only=False)[1:]
    if extra:
        raise ValueError(f"expected flags --name=value, got {' '.join(extra)!r}")
    common = signature_flags.arguments(values, universal, {})
    workdir = common["workdir"] or Path("runs") / name
    earlier = _recorded_flags(workdir, name)
    chosen = signature_flags.arguments(values, experiment, earlier)
    _same_as_recorded(chosen, earlier, workdir)
    asked = {}
    if generate is not None and verb == "generate":
        asked = signature_flags.arguments(values, generate, {})
    return Command(verb, name, chosen, asked, common, workdir)


def _verb(argv: list[str]) -> tuple[str, list[str]]:
    if argv and not argv[0].startswith("-"):
        if argv[0] not in VERBS:
            raise ValueError(f"verb: expected one of {', '.join(VERBS)}; got {argv[0]}")
        return argv[0], argv[1:]
    return "train", argv


def _recorded_flags(workdir: Path, name: str) -> dict[str, Any]:
    file = workdir / "run.json"
    try:
        record = json.loads(file.read_text()) if file.exists() else {}
    except (OSError, ValueError) as error:
        raise ValueError(f"{file}: expected a run's record, got {error}") from None
    if record.get("experiment", name) != name:
        raise ValueError(
            f"{workdir}: expected a folder of experiment {name}, got one of "
            f"{record['experiment']}; choose another --workdir"
        )
    return record.get("flags", {})


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
    parts += [signature_flags.page(experiment)]
    if generate is not None:
        parts += ["Flags of the verb generate:", signature_flags.page(generate)]
    parts += ["Flags of every experiment:", signature_flags.page(universal)]
    return "\n\n".join(parts)


def started(common: Mapping[str, Any]) -> None:
    """The platform tuned, the processes joined, the compilation cache open."""
    if common["platform_tuning"]:
        platform.tune()
    import jax

    from transformer.training import faults

    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    jax.config.update("jax_compilation_cache_dir", str(home / "transformer" / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    given = [common[name] for name in ("coordinator", "processes", "process")]
    if any(value is not None for value in given):
        if any(value is None for value in given):
            raise ValueError(
                "expected --coordinator, --processes and --process together, got "
                f"{given}"
            )
        jax.distributed.initialize(*given)
    else:
        try:
            jax.distributed.initialize()
        except (ValueError, RuntimeError):
            return
    faults.die_loudly()


def _do(command: Command, make: Callable[..., Any]) -> int:
    import jax

    from transformer.training import faults, folder

    arguments = command.experiment
    if "workdir" in arguments:
        arguments = {**arguments, "workdir": command.workdir}
    faults.listen()
    mesh = _mesh(command.universal["mesh"])
    experiment = make(**arguments)
    recorded = {k: _plain(v) for k, v in command.experiment.items() if k != "workdir"}
    try:
        if command.verb == "train":
            source = folder.source_of(make)
            _train(command, experiment, mesh, recorded, source)
        else:
            _with_params(command, experiment, mesh)
    except faults.Terminated:
        print("stopped by SIGTERM; all that was reached is saved", flush=True)
        return faults.TERMINATED
    except faults.NonFinite as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 1
    if jax.process_count() > 1:
        jax.distributed.shutdown()
    return 0


def _train(
    command: Command, experiment: Any, mesh: Any, recorded: dict, source: str
) -> None:
    from transformer.training import folder, loop

    if folder.finished(command.workdir):
        print(f"the run in {command.workdir} is finished: step {experiment.steps}")
        return
    common = command.universal
    cadence = loop.Cadence(
        common["log_every"], common["evaluate_every"], common["checkpoint_every"]
    )
    loop.check(experiment, command.workdir)
    folder.begin(command.workdir, experiment, recorded, source)
    state = loop.train(experiment, command.workdir, mesh=mesh, cadence=cadence)
    folder.finish(command.workdir, experiment, state.params, experiment.steps)
    print(f"finished; see {command.workdir}")


def _with_params(command: Command, experiment: Any, mesh: Any) -> None:
    """The verbs that need trained parameters (benchmark: any)."""
    import jax

    from transformer.training import benchmark, evaluation, loop

    with jax.set_mesh(mesh):
        if command.verb == "benchmark":
            benchmark.show(experiment, mesh)
            return
        params = loop.trained(experiment, command.workdir, mesh)
        if command.verb == "evaluate":
            for name, numbers in evaluation.measured(experiment, params, mesh).items():
                told = ", ".join(f"{k} {v:.4f}" for k, v in numbers.items())
                print(f"{name}: {told}")
        elif experiment.generate is None:
            raise ValueError(f"experiment {experiment.name} has nothing to generate")
        else:
            key = jax.random.key(experiment.seed)
            experiment.generate(params, key, **command.generate)


def _mesh(text: str) -> Any:
    from transformer import axes

    sizes = {}
    for part in filter(None, text.split(",")):
        axis, _, size = part.partition(":")
        if axis not in axes.AXES or not size.isdigit():
            raise ValueError(
                f"--mesh: expected axis:size with axis among {', '.join(axes.AXES)}, "
                f"got {part!r}"
            )
        sizes[axis] = int(size)
    return axes.mesh(**sizes)
