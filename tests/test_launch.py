"""Start of a process: meshes from text, single processes and clusters."""

import os
import socket
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pyarrow
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
        launch.check_cluster(None, None, 1)


BAD_CLUSTERS = {
    ("localhost", 1, 0): "--coordinator: expected address:port .* got 'localhost'",
    ("localhost:", 2, 0): "--coordinator: expected address:port",
    ("localhost:99999", 2, 0): "--coordinator: expected address:port",
    ("localhost:http", 2, 0): "--coordinator: expected address:port",
    (":1234", 2, 0): "--coordinator: expected address:port",
    ("localhost:1234", 2, 2): "--process: expected 0 to 1 of 2 processes, got 2",
    ("localhost:1234", 2, -1): "--process: expected 0 to 1 of 2 processes, got -1",
}


@pytest.mark.parametrize("cluster", BAD_CLUSTERS)
def test_a_cluster_that_cannot_be_is_refused(cluster):
    with pytest.raises(ValueError, match=BAD_CLUSTERS[cluster]):
        launch.check_cluster(*cluster)


def test_a_coordinator_that_does_not_come_is_said_so(monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setattr(launch, "COORDINATOR_SECONDS", 0.6)
    message = f"expected process 0 at {address} within 1 s"
    with pytest.raises(launch.JoinError, match=message):
        launch.initialize_distributed(address, 2, 1)


def test_compiled_programs_that_a_full_disk_cut_are_removed(tmp_path, capsys):
    """Of zlib and zstandard; a whole one stays, and is not read again."""
    noise = np.random.default_rng(0).bytes(9999)
    zstd = pyarrow.compress(noise, codec="zstd", asbytes=True)
    programs = {
        "a": zlib.compress(noise),
        "b": zlib.compress(noise)[:-9],
        "c": zstd,
        "d": zstd[:-9],
        "e": b"",
    }
    for name, content in programs.items():
        (tmp_path / f"{name}-cache").write_bytes(content)
    launch._remove_torn_programs(tmp_path)
    assert capsys.readouterr().out.startswith("removed 3 incomplete programs from ")
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"a-cache", "c-cache", "checked"}
    old = tmp_path / "a-cache"
    old.write_bytes(b"x")
    os.utime(old, (0, 0))
    launch._remove_torn_programs(tmp_path)
    assert old.exists() and capsys.readouterr().out == ""


def test_this_is_a_single_process():
    assert not launch.is_multiprocess()


LIGHT = """
import sys, time
start = time.perf_counter()
from transformer import command
command.parse(["--depth=3"], __import__("light").experiment, {})
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
