"""A source module imports the reader of the data it is given, and no other."""

import subprocess
import sys

import pytest

MODULES = ["text", "images", "pairs", "captions", "fields", "episodes", "labeled_text"]
HEAVY = {
    "grain",
    "h5netcdf",
    "scipy",
    "tensorflow",
    "tensorflow_datasets",
    "tokenizers",
    "xarray",
}
LOAD = """
import sys
from transformer.data.sources import {0} as source
try:
    source.load("no file")
except ValueError:
    pass
print(sorted(sys.modules))
"""


def modules(name: str) -> set[str]:
    """The modules in memory once a source module is imported."""
    done = subprocess.run(
        [sys.executable, "-c", LOAD.format(name)],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(eval(done.stdout))


@pytest.mark.parametrize("name", MODULES)
def test_importing_a_source_imports_no_reader_and_nothing_heavy(name):
    loaded = modules(name)
    assert f"transformer.data.sources.{name}" in loaded
    assert not HEAVY & loaded
    assert not any(".readers." in module or ".tfds." in module for module in loaded)
