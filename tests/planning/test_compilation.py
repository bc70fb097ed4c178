"""Reference plans, compiled by libtpu, stay within what is recorded in `budgets.json`.

Skipped where libtpu is not installed (`pip install -e '.[plan]'`). One is small; the
others take minutes: `pytest -m slow tests/planning`. They fail when a change
replicates a table, leaves a chip with more than 1.05 of an even share of the state,
gathers a matrix whole or needs more memory. `record_budgets.py` writes the numbers
anew.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import random_words

from transformer.planning.plan import IDEAL_SHARE

HERE = Path(__file__).parent
BUDGETS = json.loads((HERE / "budgets.json").read_text())
TOLERANCE = 0.05

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"
)


def numbers(plan: dict[str, Any]) -> dict[str, Any]:
    """What a budget records of a plan."""
    kinds: dict[str, float] = {}
    for one in plan["costs"]["collectives"]:
        name = one["kind"]
        kinds[name] = kinds.get(name, 0) + one["bytes"] * one["executions"]
    return {
        "fits": plan["fits"],
        "share": plan["share"],
        "memory": plan["memory"]["peak"],
        "flops": plan["costs"]["flops"],
        "seconds": plan["roofline"]["serial"],
        "collectives": kinds,
    }


def run(*command: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, "-m", *command],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_topology_that_libtpu_does_not_have_is_refused_in_one_line() -> None:
    flags = ("--depth=1", "--batch_size=15", "--topology=v5e:3x5", "--method=compile")
    done = run("experiments.language_model", "plan", *flags)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "error: --topology: expected one for which libtpu compiles" in done.stderr


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of more tokens than the largest batch."""
    path = tmp_path_factory.mktemp("text") / "words.txt"
    random_words.write(path)
    return path


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if budget["slow"] else [])
        for name, budget in BUDGETS.items()
    ],
)
def test_a_reference_plan_keeps_its_budget(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    budget, file = BUDGETS[name], tmp_path / "plan.json"
    module, *flags = budget["command"].split()
    command = [module, "plan", *flags, "--method=compile", f"--json_file={file}"]
    if "--text=FILE" in command:
        words = request.getfixturevalue("text")
        command[command.index("--text=FILE")] = f"--text={words}"
    done = run(*command)
    assert done.returncode == 0, done.stderr
    (plan,) = json.loads(file.read_text())
    got, expected = numbers(plan), budget["numbers"]
    assert got["fits"] == expected["fits"]
    assert got["share"] <= IDEAL_SHARE
    assert set(got["collectives"]) <= set(expected["collectives"])
    for key in ("memory", "flops", "seconds"):
        assert got[key] <= (1 + TOLERANCE) * expected[key], (key, got, expected)
    for kind, size in got["collectives"].items():
        assert size <= (1 + TOLERANCE) * expected["collectives"][kind], (kind, got)
