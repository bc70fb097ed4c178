"""Differences from another library's numbers, and the README's table of them.

    python tests/interchange/parity.py

runs the tests that compare and prints what they measured.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

HERE = Path(__file__).parent
# Less is the order of sums on another CPU.
ROUNDING = 2e-6
# (fixture, output) -> ratio, of this process.
MEASURED: dict[tuple[str, str], float] = {}


def check(name: str, output: str, ours: Any, theirs: Any, recorded: float) -> None:
    """The largest difference over the spread of theirs, the ratio, is at most three
    times that of the machine that recorded it: an epsilon of 1e-6 for 1e-5 makes it
    3e-3."""
    difference = np.abs(np.asarray(ours, np.float64) - theirs).max()
    MEASURED[name, output] = ratio = float(difference / np.std(theirs))
    assert ratio < 3 * max(recorded, ROUNDING), f"{name}, {output}: ratio {ratio:.1e}"


def main() -> int:
    # This module under the name by which the tests import it.
    parity = importlib.import_module("parity")
    chosen = ["-k", "are_those_of and not installed", "-m", ""]
    status = pytest.main([str(HERE), "-q", "-n0", *chosen])
    print("| fixture | output | difference over spread |\n|---|---|---|")
    for (name, output), ratio in sorted(parity.MEASURED.items()):
        print(f"| {name} | {output} | {ratio:.1e} |")
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
