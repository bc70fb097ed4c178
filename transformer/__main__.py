"""Commands about runs of any experiment: python -m transformer compare [FOLDER ...]"""

from __future__ import annotations

import sys
from pathlib import Path

USAGE = "expected: python -m transformer compare [RUN_FOLDER ...]"


def compare(folders: list[str]) -> None:
    """Print a table of the flags that differ and of the last metrics, and means over
    seeds; write compare.png. Without folders, all runs below runs/."""
    from transformer.training import comparison, metrics

    found = [Path(f).expanduser() for f in folders] or comparison.find_runs(
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


def main() -> None:
    """Carry out the command line."""
    verb, *rest = sys.argv[1:] or [""]
    try:
        if verb != "compare" or any(a.startswith("-") for a in rest):
            raise ValueError(f"{USAGE}, got {' '.join(sys.argv[1:])!r}")
        compare(rest)
    except (ValueError, OSError) as error:
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
