"""Write the numbers of plans into `budgets.json`.

    python tests/planning/record_budgets.py NAME FILE [NAME FILE ...]

FILE is what the command of the budget NAME, which exists there without numbers or with
old ones, wrote by --json_file.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import test_compilation

FILE = Path(__file__).parent / "budgets.json"


def record(name: str, plan: Path) -> None:
    budgets = json.loads(FILE.read_text())
    (one,) = json.loads(plan.read_text())
    budgets[name]["numbers"] = test_compilation.numbers(one)
    FILE.write_text(json.dumps(budgets, indent=2) + "\n")


if __name__ == "__main__":
    for name, plan in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
        record(name, Path(plan))
