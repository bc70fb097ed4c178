"""Every test that docs/correctness.md names exists."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "correctness.md").read_text()


def test_every_kind_of_wrong_number_names_a_test_that_exists():
    rows = [line for line in PAGE.splitlines() if line.startswith("| ")][1:]
    kinds = [row for row in rows if not row.startswith("| **")]
    named = [re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", row) for row in kinds]
    assert len(kinds) >= 40 and all(len(tests) == 1 for tests in named)
    faults = [
        f"{path}::{name}"
        for ((path, name),) in named
        if not (ROOT / path).exists()
        or not re.search(rf"^def {name}\(", (ROOT / path).read_text(), re.M)
    ]
    assert not faults, "\n".join(faults)
