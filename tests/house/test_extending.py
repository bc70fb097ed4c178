"""The recipes of docs/extending.md run, and are short."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "extending.md").read_text()
MAX_LINES = 15
DEVICES = "xla_force_host_platform_device_count"


def recipes(page: str) -> dict[str, tuple[int, list[str]]]:
    """Section title -> (devices, its python blocks), of the sections that have code."""
    found = {}
    for section in re.split(r"^## ", page, flags=re.M)[1:]:
        title = section.splitlines()[0]
        devices = re.search(r"<!-- devices: (\d+) -->", section)
        blocks = re.findall(r"^```python\n(.*?)^```$", section, re.M | re.S)
        if blocks:
            found[title] = (int(devices.group(1)) if devices else 1, blocks)
    return found


RECIPES = recipes(PAGE)


def run(code: str, devices: int, folder: Path) -> subprocess.CompletedProcess:
    """The code in a fresh process with so many CPU devices, in `folder`."""
    inherited = os.environ.get("XLA_FLAGS", "").split()
    flags = [flag for flag in inherited if DEVICES not in flag]
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": " ".join([*flags, f"--{DEVICES}={devices}"]),
        "PYTHONPATH": str(ROOT),
    }
    notes = (f"{i} is less than {i + 1}.\n\n" for i in range(2000))
    (folder / "notes.txt").write_text("".join(notes))
    script = folder / "recipe.py"
    script.write_text(code)
    return subprocess.run(
        [sys.executable, str(script)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )


def test_sections_and_devices_are_parsed():
    page = "# T\n## One\n```python\na\n```\ntext\n```python\nb\n```\n## Prose\nonly\n"
    page += "## Many\n<!-- devices: 8 -->\n```python\nc\n```\n"
    assert recipes(page) == {"One": (1, ["a\n", "b\n"]), "Many": (8, ["c\n"])}


@pytest.mark.parametrize("title", RECIPES)
def test_recipe_runs(title, tmp_path):
    devices, blocks = RECIPES[title]
    result = run("\n".join(blocks), devices, tmp_path)
    assert result.returncode == 0, result.stderr


def test_failing_recipe_is_reported(tmp_path):
    result = run("import jax\nassert jax.device_count() == 3", 2, tmp_path)
    assert result.returncode != 0 and "AssertionError" in result.stderr


def test_recipes_are_short():
    lengths = {
        title: sum(
            1
            for block in blocks
            for line in block.splitlines()
            if line.strip() and not line.lstrip().startswith("#")
        )
        for title, (_, blocks) in RECIPES.items()
    }
    assert lengths
    too_long = {title: n for title, n in lengths.items() if n > MAX_LINES}
    assert not too_long
