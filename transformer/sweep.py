"""The verb `sweep`: one run for each combination of comma lists of flags."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from pathlib import Path

from transformer import checks, command, flags, storage
from transformer.flags import ExperimentFn


def expand(argv: list[str], make: ExperimentFn) -> dict[str, list[str]]:
    """Run folder name -> its flags, for each combination.

    Every flag of the experiment but those of DATA, whose values may have commas, takes
    a comma list. ValueError where no flag has several values.
    """
    known = flags.parameters(make)
    lists: dict[str, list[str]] = {}
    common = []
    given = [a.partition("=")[0] for a in argv if "=" in a]
    for argument in argv:
        name, separator, value = argument.removeprefix("--").partition("=")
        splits = name in known and separator and "," in value
        if splits and flags.kind_of(known[name]).role != checks.DATA:
            lists[name] = value.split(",")
            if given.count(f"--{name}") > 1 or len(set(lists[name])) < len(lists[name]):
                raise ValueError(
                    f"sweep: expected --{name} once, with different values, got "
                    f"{' '.join(argv)}"
                )
        else:
            common.append(argument)
    if not lists:
        raise ValueError(
            "sweep: expected a flag with several values, such as --seed=0,1,2, got "
            f"{' '.join(argv) or 'no flags'}"
        )
    found = {}
    for values in itertools.product(*lists.values()):
        pairs = [f"{n}={v}" for n, v in zip(lists, values, strict=True)]
        folder = re.sub(r"[^\w.=,+-]", "_", ",".join(pairs))
        if folder in found:
            raise ValueError(
                f"sweep: expected folders of their own, got {folder} twice"
            )
        found[folder] = [*common, *(f"--{pair}" for pair in pairs)]
    return found


def execute(argv: list[str], make: ExperimentFn) -> int:
    """Train every combination in a process of its own, one after another, each in its
    folder below --workdir (default runs/NAME-sweep); then compare them. A finished run
    is not run again. Returns the exit status: 1 where a run failed.

    All flags are checked before the first run.
    """
    if command.asks_help(argv):
        command.parse(["--help"], make, {})
    given = [a for a in argv if a.startswith("--workdir=")]
    name = flags.name_of(make)
    root = checks.parse_path(
        given[-1].partition("=")[2] if given else f"runs/{name}-sweep"
    )
    checks.writable_folder("--workdir", root)
    runs = expand([a for a in argv if a not in given], make)
    _check(runs, root, make)
    module = flags.module_of(make)
    if not module:
        raise ValueError(
            f"sweep: expected an experiment in a module, as python -m experiments.NAME "
            f"runs it, got {name} in a script"
        )
    failed = []
    for number, (folder, arguments) in enumerate(runs.items(), 1):
        print(f"run {number} of {len(runs)}: {folder}", flush=True)
        line = [sys.executable, "-m", module, *arguments]
        if subprocess.run([*line, f"--workdir={root / folder}"]).returncode:
            failed.append(folder)
    _compare(root, [root / folder for folder in runs if folder not in failed])
    if failed:
        print(f"error: failed: {' '.join(failed)}", file=sys.stderr, flush=True)
    return 1 if failed else 0


def _check(runs: dict[str, list[str]], root: Path, make: ExperimentFn) -> None:
    """Check all flags. ValueError where two runs have the same values, as with
    --seed=0,00: one would count twice."""
    known: dict[str, str] = {}
    for folder, arguments in runs.items():
        line = [*arguments, f"--workdir={root / folder}"]
        chosen = command.parse(line, make, {}).experiment_flags
        command.check_runs(make, chosen)
        values = repr(sorted({**chosen, "workdir": root}.items()))
        if values in known:
            raise ValueError(
                f"sweep: expected different runs, got {known[values]} and {folder}"
            )
        known[values] = folder


def _compare(root: Path, folders: list[Path]) -> None:
    from transformer.training import comparison, metrics

    if not folders:
        return
    table = metrics.table(folders)
    means = comparison.seeds_table(folders)
    text = f"{table}\n\nmean ± standard deviation over seeds\n{means}\n"
    text = text if means else f"{table}\n"
    storage.commit(root / "sweep.txt", text.encode())
    comparison.plot(folders, root / "sweep.png")
    print(f"{text}\ncurves: {root / 'sweep.png'}", flush=True)
