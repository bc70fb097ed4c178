"""The default run is followed through few files."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAX_IMPORTED_MODULES = 51
MAX_ENTERED_FILES = 24
MAX_ENTERED_WITH_CONSTRUCTION = 39
MAX_OPENED_FILES = 15


@pytest.fixture(scope="module")
def walk() -> dict[str, list[str]]:
    """The output of walk.py, in a fresh process on one device, as by default."""
    result = subprocess.run(
        [sys.executable, str(ROOT / "tests/house/walk.py")],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def numbered(lines: list[str]) -> str:
    """The lines, numbered from 1."""
    return "\n".join(f"{i:3} {line}" for i, line in enumerate(lines, 1))


def test_default_experiment_imports_at_most_51_modules(walk):
    assert "experiments.language_model" in walk["imported"]
    assert len(walk["imported"]) <= MAX_IMPORTED_MODULES, numbered(walk["imported"])


def test_one_batch_and_update_enter_at_most_24_files(walk):
    files = walk["entered_by_update"]
    assert "transformer/training/update.py" in files
    assert len(files) <= MAX_ENTERED_FILES, numbered(files)


def test_construction_batch_and_update_enter_at_most_39_files(walk):
    """The same with the experiment's construction and the batch placed on the mesh."""
    files = walk["entered"]
    assert set(files) >= set(walk["entered_by_update"])
    assert len(files) <= MAX_ENTERED_WITH_CONSTRUCTION, numbered(files)


def test_walk_of_the_architecture_page_is_entered(walk):
    """At most 15 files to open; the loop itself is not run here."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    section = page.split("## The walk")[1].split("\n## ")[0]
    files = re.findall(r"^\| `([\w/]+\.py)` \|", section, re.M)
    paths = {f if f.startswith("experiments/") else f"transformer/{f}" for f in files}
    assert 5 < len(paths) <= MAX_OPENED_FILES
    assert not paths - set(walk["entered"]) - {"transformer/training/loop.py"}
