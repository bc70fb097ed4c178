"""Commands about folders of models and data: python -m transformer VERB FOLDER ...

compare [FOLDER ...]: the flags and last metrics of runs, in a table.
lm_eval FOLDER --tasks=NAMES: tasks of lm-evaluation-harness (pip install lm-eval).
minimal_pairs FOLDER --pairs=FILES: how often the acceptable sentence is more likely.
prepare CORPUS --folder=FOLDER: a corpus as shuffled shards of tokens, for --text.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import flags as absl_flags

from transformer import checks, flags, language_scores, preparation

# One process, with the flags of a CPU.
SETUP = {
    "platform_tuning": True,
    "coordinator": None,
    "processes": None,
    "process": None,
}
SCORES: dict[str, Callable[..., Any]] = {
    "lm_eval": language_scores.lm_eval,
    "minimal_pairs": language_scores.minimal_pairs,
}
HELP = ("--help", "-h", "-help", "help")
USAGE = (
    "expected: python -m transformer compare [RUN_FOLDER ...], or "
    f"{' or '.join(SCORES)} FOLDER [--flag=value ...], or prepare CORPUS "
    "--folder=FOLDER [--flag=value ...] [-- OPTIONS OF BEAM]"
)


def compare(folders: list[str]) -> None:
    """Print a table of the flags that differ and of the last metrics, and means over
    seeds; write compare.png. A folder that is no run stands for all runs below it;
    without folders, runs/ does."""
    from transformer.training import comparison, metrics

    found = comparison.runs_at([checks.parse_path(f) for f in folders or ["runs"]])
    if found in ([], [Path("runs")]):
        raise ValueError("expected run folders, got none below runs/")
    print(metrics.table(found))
    means = comparison.seeds_table(found)
    if means:
        print(f"\nmean ± standard deviation over seeds\n{means}")
    comparison.plot(found, Path("compare.png"))
    print("\ncurves: compare.png")


def parse(
    verb: str, function: Callable[..., Any], argv: list[str]
) -> tuple[str, dict[str, Any]] | None:
    """The one place on the command line of a verb, and its flags; None where help was
    asked for, and printed. ValueError without one place, and for an unknown flag."""
    if set(argv) & set(HELP[:-1]):
        print(f"{USAGE}\n\n{flags.help_text(function)}")
        return None
    values = absl_flags.FlagValues()
    flags.define(values, function)
    places = flags.parse(values, [verb, *argv])[1:]
    if len(places) != 1:
        raise ValueError(f"{USAGE}, got {len(places)} folders")
    return places[0], flags.arguments(values, function, {})


def score(verb: str, argv: list[str]) -> None:
    """Carry out a verb of `SCORES`. Errors as `parse`."""
    from transformer import launch

    parsed = parse(verb, SCORES[verb], argv)
    if parsed is None:
        return
    folder, chosen = parsed
    launch.setup(SETUP)
    SCORES[verb](checks.parse_path(folder), **chosen)


def prepare(argv: list[str]) -> None:
    """Carry out `prepare`; what stands after `--` are options of Beam. Errors as
    `parse`."""
    end = argv.index("--") if "--" in argv else len(argv)
    parsed = parse("prepare", preparation.prepare, argv[:end])
    if parsed is not None:
        corpus, chosen = parsed
        preparation.prepare(corpus, argv[end + 1 :], **chosen)


def main() -> None:
    """Carry out the command line."""
    from transformer import streams

    streams.guard(leave="prepare" not in sys.argv[1:2])
    verb, *rest = sys.argv[1:] or [""]
    try:
        if verb in HELP or (verb == "compare" and set(rest) & set(HELP)):
            print(f"{__doc__}\n{USAGE}")
        elif verb in SCORES:
            score(verb, rest)
        elif verb == "prepare":
            prepare(rest)
        elif verb == "compare" and not any(a.startswith("-") for a in rest):
            compare(rest)
        else:
            raise ValueError(f"{USAGE}, got {' '.join(sys.argv[1:])!r}")
    except (ValueError, OSError, absl_flags.Error) as error:
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
