"""Commands about folders of any model: python -m transformer VERB FOLDER [--flag=value]

compare [FOLDER ...]: the flags and last metrics of runs, in a table.
lm_eval FOLDER --tasks=NAMES: tasks of lm-evaluation-harness (pip install lm-eval).
minimal_pairs FOLDER --pairs=FILES: how often the acceptable sentence is more likely.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import flags as absl_flags

from transformer import checks, flags, language_scores

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
USAGE = (
    "expected: python -m transformer compare [RUN_FOLDER ...], or "
    f"{' or '.join(SCORES)} FOLDER [--flag=value ...]"
)


def compare(folders: list[str]) -> None:
    """Print a table of the flags that differ and of the last metrics, and means over
    seeds; write compare.png. Without folders, all runs below runs/."""
    from transformer.training import comparison, metrics

    found = [checks.parse_path(f) for f in folders] or comparison.find_runs(
        Path("runs")
    )
    if not found:
        raise ValueError("expected run folders, got none below runs/")
    print(metrics.table(found))
    means = comparison.seeds_table(found)
    if means:
        print(f"\nmean ± standard deviation over seeds\n{means}")
    comparison.plot(found, Path("compare.png"))
    print("\ncurves: compare.png")


def score(verb: str, argv: list[str]) -> None:
    """Carry out a verb of `SCORES`. ValueError without one folder, and for an unknown
    flag."""
    from transformer import launch

    function = SCORES[verb]
    if "--help" in argv:
        print(f"{USAGE}\n\n{flags.help_text(function)}")
        return
    values = absl_flags.FlagValues()
    flags.define(values, function)
    folders = flags.parse(values, [verb, *argv])[1:]
    if len(folders) != 1:
        raise ValueError(f"{USAGE}, got {len(folders)} folders")
    chosen = flags.arguments(values, function, {})
    launch.setup(SETUP)
    function(checks.parse_path(folders[0]), **chosen)


def main() -> None:
    """Carry out the command line."""
    verb, *rest = sys.argv[1:] or [""]
    try:
        if verb in SCORES:
            score(verb, rest)
        elif verb == "compare" and not any(a.startswith("-") for a in rest):
            compare(rest)
        else:
            raise ValueError(f"{USAGE}, got {' '.join(sys.argv[1:])!r}")
    except (ValueError, OSError, absl_flags.Error) as error:
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
