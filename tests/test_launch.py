"""Start of a process: meshes from text, single processes and clusters."""

import subprocess
import sys
from pathlib import Path

import pytest

from transformer import launch

MESHES = {
    "": {"data": 8},
    "data:2,tensor:4": {"data": 2, "tensor": 4},
    "fsdp:2": {"data": 4, "fsdp": 2},
}


@pytest.mark.parametrize("text", MESHES)
def test_mesh_of_text(text):
    shape = launch.parse_mesh(text).shape
    assert {axis: size for axis, size in shape.items() if size > 1} == MESHES[text]


BAD_MESHES = {
    "rows:2": "got 'rows:2'",
    "data:2,data:4": "got 'data:4'",
    "data": "got 'data'",
    "data:-1": "got 'data:-1'",
    "tensor:3": "number of devices, 8; got tensor=3",
    "fsdp:0": "expected at least 1, got 0",
}


@pytest.mark.parametrize("text", BAD_MESHES)
def test_bad_mesh_is_refused(text):
    with pytest.raises(ValueError, match=BAD_MESHES[text]):
        launch.parse_mesh(text)


def test_half_a_cluster_is_refused():
    with pytest.raises(ValueError, match="together, got .None, None, 1"):
        launch.initialize_distributed(None, None, 1)


def test_this_is_a_single_process():
    assert not launch.is_multiprocess()


LIGHT = """
import sys, time
start = time.perf_counter()
from transformer import main
main.parse_command(["--depth=3"], __import__("light").experiment, None)
print(time.perf_counter() - start, {"jax", "orbax", "flax"} & set(sys.modules))
"""


def test_flags_are_parsed_before_anything_heavy_loads(tmp_path):
    (tmp_path / "light.py").write_text("def experiment(*, depth: int = 1): pass\n")
    process = subprocess.run(
        [sys.executable, "-c", LIGHT],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": f"{tmp_path}:{Path(launch.__file__).parents[1]}"},
        cwd=tmp_path,
    )
    seconds, heavy = process.stdout.split(maxsplit=1)
    assert heavy.strip() == "set()"
    assert float(seconds) < 3
