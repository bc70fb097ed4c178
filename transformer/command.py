"""A command line of an experiment: verb, flags, and the run folder's own flags."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags as absl_flags

from transformer import checks, flags
from transformer.flags import ExperimentFn

# Of every experiment; others are its own.
VERBS = ("train", "evaluate", "report", "benchmark", "sweep", "plan")
# Flags of `common_flags` that other verbs would ignore.
OF_TRAINING = (
    "log_every",
    "evaluate_every",
    "evaluate_on",
    "checkpoint_every",
    "accept_changed_data",
    "profile",
)

# Models of other libraries that no experiment trains, by what config.json calls them.
LATENTS = "it denoises the latents of a VAE, and there is no VAE here"
UNTRAINED = {
    "decision_transformer": "its observations and actions are vectors of numbers, and "
    "the actions of experiments.decision_transformer are discrete",
    "DiTTransformer2DModel": LATENTS,
    "Transformer2DModel": LATENTS,
}


def common_flags(
    *,
    workdir: checks.Folder | None = None,
    mesh: str = "",
    log_every: checks.Count = 10,
    evaluate_every: checks.Count = 500,
    evaluate_on: str = "",
    checkpoint_every: checks.Count = 200,
    accept_changed_data: bool = False,
    checkpoint: str = "newest",
    profile: str = "",
    platform_tuning: bool = True,
    coordinator: str | None = None,
    processes: checks.Count | None = None,
    process: checks.CountOrZero | None = None,
) -> None:
    """The flags of every experiment.

    Args:
        workdir: run folder, also gs://bucket/folder; default runs/NAME.
        mesh: axes of devices, as data:2,tensor:4; the axis data takes the rest.
        log_every: steps between two logs.
        evaluate_every: steps between two evaluations.
        evaluate_on: other data that is evaluated too, as a.txt,b.txt, by its name.
        checkpoint_every: steps between two checkpoints.
        accept_changed_data: go on with a run whose data of the same name changed.
        checkpoint: of verbs that read parameters: newest, best or a step's number.
        profile: steps of which a trace is left in the run folder, as 10:15.
        platform_tuning: set the CPU's flags and allocator (transformer/cpu_tuning.py).
        coordinator: address:port of process 0, where no cluster is detected.
        processes: number of processes, with --coordinator.
        process: number of this process, from 0, with --coordinator.
    """


class Command(NamedTuple):
    """A parsed command line.

    experiment_flags, verb_flags, common: the values of the experiment's flags, of those
    of a verb of its own, and of the flags of every experiment.
    explicit: the names of the experiment's flags that stand on the command line.
    """

    verb: str
    experiment_flags: dict[str, Any]
    verb_flags: dict[str, Any]
    common: dict[str, Any]
    workdir: Path
    explicit: tuple[str, ...]


def asks_help(argv: list[str]) -> bool:
    """Whether the flags are to be listed."""
    return any(a in ("--help", "-h", "-help", "--helpfull") for a in argv)


def parse(
    argv: list[str],
    make: ExperimentFn,
    verbs: Mapping[str, Callable[..., Any]],
) -> Command:
    """The command in `argv`; flags recorded in the run folder are its defaults.

    verbs: beside `VERBS`, the functions whose keywords are the flags of a verb, by its
    name. A flag of the experiment's and of the verb's is the verb's.

    Raises ValueError for an unknown verb or flag, a value out of range, and another
    value of a FIXED flag than the recorded one.
    """
    name = flags.name_of(make)
    if asks_help(argv):
        print(_help(make, verbs))
        sys.exit(0)
    values = absl_flags.FlagValues()
    flags.define(values, common_flags)
    verb, rest = _verb(argv, (*VERBS, *verbs))
    of_verb = verbs.get(verb, _no_flags)
    flags.define(values, of_verb)
    flags.define(values, make)
    extra = flags.parse(values, [name, *rest])[1:]
    if extra:
        raise ValueError(f"expected flags --name=value, got {' '.join(extra)!r}")
    unused = () if verb in ("train", "plan") else OF_TRAINING
    if verb in ("train", "benchmark"):
        unused = (*unused, "checkpoint")
    for flag in unused:
        if values[flag].present:
            user = "one that reads parameters" if flag == "checkpoint" else "train"
            raise ValueError(f"--{flag}: expected the verb {user}, got {verb}")
    common = flags.arguments(values, common_flags, {})
    workdir = common["workdir"] or Path("runs") / name
    recorded = recorded_flags(workdir, make)
    init_from = values["init_from"].value if "init_from" in values else None
    defaults = recorded or inherited_flags(init_from, make)
    verb_flags = flags.arguments(values, of_verb, {})
    own = flags.defaults(make)
    shared = flags.from_json(make, {n: own[n] for n in verb_flags if n in own})
    recorded_shared = {n: defaults[n] for n in shared if n in defaults}
    chosen = flags.arguments(values, make, defaults)
    chosen |= flags.from_json(make, {**shared, **recorded_shared})
    check_recorded(make, chosen, recorded, workdir)
    chosen = flags.derive(make, chosen)
    names = [n for n in flags.parameters(make) if n not in shared]
    explicit = tuple(n for n in names if values[n].present)
    return Command(verb, chosen, verb_flags, common, workdir, explicit)


def _no_flags() -> None:
    """The flags of a verb that has none."""


def _verb(argv: list[str], names: tuple[str, ...]) -> tuple[str, list[str]]:
    if argv and not argv[0].startswith("-"):
        if argv[0] not in names:
            verbs = ", ".join(names)
            raise ValueError(f"verb: expected one of {verbs}; got {argv[0]}")
        return argv[0], argv[1:]
    return "train", argv


def recorded_flags(workdir: Path, make: ExperimentFn) -> dict[str, Any]:
    """The flags in the run's record, with the values that newer ones had then.
    ValueError for the record of another experiment, for a flag that this one does not
    have, and for a value that it does not accept."""
    checks.run_folder("--workdir", workdir)
    if checks.is_remote(workdir):
        from transformer import object_store

        object_store.check_access("--workdir", workdir)
    try:
        begun = (workdir / "run.json").exists()
    except OSError as error:
        raise ValueError(
            f"--workdir: expected a path of a folder, got one with the error "
            f"{error.strerror or error}"
        ) from None
    if not begun:
        return {}
    from transformer.training.workdir import read_record

    record, name = read_record(workdir) or {}, flags.name_of(make)
    if record["experiment"] != name:
        raise ValueError(
            f"{workdir}: expected a folder of experiment {name}, got one of "
            f"{record['experiment']}; choose another --workdir"
        )
    unknown = sorted(set(record["flags"]) - set(flags.parameters(make)))
    if unknown:
        raise ValueError(
            f"{workdir}: expected a run of {name} with its flags, got the recorded "
            f"flags {', '.join(unknown)}: the folder is of a run with another "
            "optimizer, or of another version; choose another --workdir"
        )
    try:
        flags.check_values(make, record["flags"])
        flags.check_derived(make, record["flags"])
    except ValueError as error:
        raise ValueError(f"{workdir}/run.json: {error}") from None
    return flags.complete(make, record["flags"])


def is_pretrained(path: Path) -> bool:
    """Whether there is a model of another library: a folder of Hugging Face, or of an
    adapter, which is refused by name; a GGUF file, or a folder with one; a cache of the
    Hub; a pipeline of diffusers, which is refused."""
    from transformer import hub_cache

    names = "config.json", "adapter_config.json", "model_index.json"
    if hub_cache.is_model(path) or hub_cache.models(path):
        return True
    # A link to nothing in a snapshot whose download did not end.
    if not checks.is_remote(path) and (path / names[0]).is_symlink():
        return True
    if path.suffix == ".gguf" or any((path / name).exists() for name in names):
        return True
    return path.is_dir() and any(path.glob("*.gguf"))


def _refuse_untrained(init_from: Path | str, folder: Path) -> None:
    """ValueError for one of `UNTRAINED`, which says why and what there is for it."""
    file = folder / "config.json"
    if not file.is_file():  # A GGUF file, or a folder with one.
        return
    try:
        config = dict(json.loads(file.read_bytes()))
    except (OSError, ValueError, TypeError):
        return
    kind = str(config.get("model_type", config.get("_class_name")))
    if kind in UNTRAINED:
        raise ValueError(
            f"--init_from: expected a run folder, got {init_from}, a {kind} of another "
            f"library, which no experiment trains: {UNTRAINED[kind]}; "
            "transformer.load gives its net and parameters, and experiments.pretrained "
            "export writes them"
        )


def inherited_flags(init_from: Path | str | None, make: ExperimentFn) -> dict[str, Any]:
    """The FIXED flags of the run that a new run starts from, where it is one of the
    same experiment."""
    if init_from is None:
        return {}
    from transformer.training.workdir import read_record

    folder = checks.parse_path(init_from)
    record = read_record(folder)
    if record is None and is_pretrained(folder):
        from transformer import hub_cache

        folder = hub_cache.resolve(folder)
        if not vars(make).get("imports"):
            _refuse_untrained(init_from, folder)
            raise ValueError(
                f"--init_from: expected a run folder, got {init_from} of another "
                "library: experiments.pretrained takes language models, "
                "experiments.pretrained_classifier encoders of text and images, "
                "experiments.pretrained_text_to_text T5 and Marian, "
                "experiments.pretrained_mlm masked language models, "
                "experiments.pretrained_clip CLIP and SigLIP, "
                "experiments.pretrained_speech Whisper"
            )
        return {}
    if record is None:
        raise ValueError(f"--init_from: expected a run folder, got {init_from}")
    if record["experiment"] != flags.name_of(make):
        return {}
    fixed = flags.flags_with_role(make, checks.FIXED)
    known = flags.complete(make, record["flags"])
    return {name: known[name] for name in fixed if name in known}


def check_recorded(
    make: ExperimentFn,
    arguments: Mapping[str, Any],
    recorded: Mapping[str, Any],
    workdir: Path,
) -> None:
    """Raise ValueError for another value of a FIXED flag than the recorded one, and of
    `init_from`: a run that has begun takes no other parameters."""
    fixed = [*flags.flags_with_role(make, checks.FIXED), "init_from"]
    for flag, value in flags.to_json(arguments).items():
        if flag in fixed and flag in recorded and value != recorded[flag]:
            raise ValueError(
                f"--{flag}: expected {recorded[flag]}, which the parameters of the run "
                f"in {workdir} depend on, got {value}; choose another --workdir"
            )


def check_runs(make: ExperimentFn, arguments: Mapping[str, Any]) -> None:
    """Raise ValueError for a flag that names another folder than that of a run that the
    report reads: it would be found out after training."""
    from transformer.training import workdir

    for name, parameter in flags.parameters(make).items():
        role, value = flags.kind_of(parameter).role, arguments.get(name)
        if role is not None and role.experiment and value is not None:
            try:
                workdir.require_run_of(role.experiment, checks.parse_path(value))
            except ValueError as error:
                raise ValueError(f"--{name}: {error}") from None


def check_memory(make: ExperimentFn, arguments: Mapping[str, Any], mesh: Any) -> None:
    """Raise ValueError for a depth and width beyond the memory of `mesh`, before data
    are read. A model that is not of this library is checked once it is made."""
    from transformer.training import declaration, memory

    slot = declaration.slots(make).get("model")
    model = getattr(slot and slot.default, "func", slot and slot.default)
    if getattr(model, "__module__", "").startswith("transformer."):
        memory.check_weights(memory.least_weights(arguments), mesh.size)


def make_experiment(
    make: ExperimentFn, arguments: Mapping[str, Any], workdir: Path
) -> Any:
    """The experiment make(**arguments). Its argument `workdir` is the run folder once
    the run has begun. Before, it is `init_from` if that has a tokenizer, else None: a
    new tokenizer is not written, so that a refused run leaves nothing behind."""
    arguments = dict(arguments)
    start = arguments.get("init_from")
    if start is not None and is_pretrained(start):
        from transformer import remote_data

        # Of one in an object store the copy, of a cache of the Hub the snapshot.
        arguments["init_from"] = remote_data.model_copy(start)
    if "workdir" in arguments:
        source = arguments.get("init_from")
        if source is not None and not (source / "tokenizer.json").exists():
            source = None
        begun = (workdir / "run.json").exists()
        arguments["workdir"] = workdir if begun else source
    with checks.refuse_unreadable():
        return make(**arguments)


def _help(make: ExperimentFn, verbs: Mapping[str, Callable[..., Any]]) -> str:
    module = sys.modules[make.__module__].__doc__ or ""
    parts = [
        module.strip(),
        "Flags of the experiment (fixed: not to be changed in a run folder):",
    ]
    parts += [flags.help_text(make)]
    for verb, function in verbs.items():
        parts += [f"Flags of the verb {verb}:", flags.help_text(function)]
    parts += ["Flags of every experiment:", flags.help_text(common_flags)]
    return "\n\n".join(parts)
