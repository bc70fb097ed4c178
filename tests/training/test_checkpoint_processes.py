"""Saves that fail, and saves of several processes, in child processes."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from test_checkpoint import (
    IDENTITY,
    abstract,
    assert_same,
    files,
    flip,
    restore,
)
from test_checksum import large_state

from transformer import axes
from transformer.training import checkpoint, faults
from transformer.training.checksum import checksums
from transformer.training.update import State

DEVICES = "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"


def child(*argv: str) -> subprocess.Popen[str]:
    """This file as a program."""
    here = Path(__file__).parent
    paths = os.pathsep.join(map(str, (here, here.parent, here.parents[1])))
    return subprocess.Popen(
        [sys.executable, __file__, *argv],
        env={**os.environ, "PYTHONPATH": paths, "XLA_FLAGS": DEVICES},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def sharded_state(step: int) -> State:
    """A state over the devices of all processes; no process holds it whole."""
    mesh = axes.make_mesh(data=1, fsdp=2, tensor=jax.device_count() // 2)
    numbers = np.random.default_rng(step).random((64, 64), np.float32)
    state = State(
        step=np.int32(step),
        params={"w_DF": numbers},
        optimizer_state={"mu": {"w_DF": numbers**2}},
        key=np.arange(2, dtype=np.uint32),
    )
    return jax.tree.map(
        lambda a, place: jax.make_array_from_callback(
            np.shape(a), place, lambda index: np.asarray(a)[index]
        ),
        state,
        axes.shardings(mesh, jax.tree.map(np.asarray, state)),
    )


def save_as_one_of_two(folder: Path, port: str, process: int) -> None:
    """Save steps 1 and 2, and restore the last, as one process of two."""
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, process)
    saved = checkpoint.open_(folder, IDENTITY)
    for step in (1, 2):
        saved.save(sharded_state(step))
    assert saved.steps() == [1, 2]
    found = saved.restore(abstract(sharded_state(0)))
    saved.close()
    assert found is not None and found[1] == []
    print("checksums", checksums(found[0]))
    jax.distributed.shutdown()


def restore_as_one_of_two(folder: Path, port: str, process: int) -> None:
    """Restore the newest intact step, as one process of two."""
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, process)
    saved = checkpoint.open_(folder, IDENTITY)
    found = saved.restore(abstract(sharded_state(0)))
    saved.close()
    assert found is not None
    state, messages = found
    print("step", int(state.step), checksums(state), messages)
    jax.distributed.shutdown()


def save_to_a_full_disk(folder: Path) -> None:
    """Two saves, one that fails, and one more after space was freed."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    faults.silence_async_tracebacks()  # As `launch.setup` does.
    saved = checkpoint.open_(folder, IDENTITY)
    for step in (1, 2):
        saved.save(large_state(step))
    saved.wait()
    unlimited = resource.RLIM_INFINITY
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, unlimited))
    try:
        saved.save(large_state(3))
        saved.wait()
    except OSError as error:
        print("error:", error.errno, error)
    print("steps:", saved.steps())
    resource.setrlimit(resource.RLIMIT_FSIZE, (unlimited, unlimited))
    saved.save(large_state(4))
    saved.close()
    print("at last:", saved.steps())


def test_save_to_a_full_disk_raises_and_keeps_older_steps(tmp_path: Path) -> None:
    output = child("full", str(tmp_path / "new")).communicate(timeout=60)[0]
    error = f"error: 27 {tmp_path / 'new'}: step 3 could not be saved: File too large"
    assert f"{error}; steps on disk: [1, 2]\nsteps: [1, 2]" in output, output
    assert output.rstrip().endswith("at last: [1, 2, 4]"), output
    assert "Traceback" not in output, output
    assert_same(restore(tmp_path / "new", large_state(0))[0], large_state(4))
    assert all(path.name.isdigit() for path in (tmp_path / "new").iterdir())


def test_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="expected a folder of checkpoints, got a fi"):
        checkpoint.open_(tmp_path / "file", IDENTITY)
    saved = checkpoint.open_(tmp_path / "file" / "below", IDENTITY)
    with pytest.raises(OSError, match="step 1 could not be saved: Not a directory"):
        saved.save(large_state(1))
    assert saved.steps() == []
    assert [path.read_text() for path in files(tmp_path)] == ["mine"]


def two_processes(what: str, folder: Path) -> list[str]:
    """The outputs of two processes that end without error."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    two = [child(what, str(folder), port, str(number)) for number in range(2)]
    outputs = [process.communicate(timeout=90)[0] for process in two]
    assert [process.returncode for process in two] == [0, 0], outputs
    return outputs


def test_two_processes_agree_to_skip_a_corrupt_step(tmp_path: Path) -> None:
    """One of them finds a flipped bit in the arrays of the newest step."""
    saved = checkpoint.open_(tmp_path / "new", IDENTITY)
    for step in (1, 2):
        saved.save(sharded_state(step))
    saved.close()
    arrays = [path for path in files(tmp_path / "new" / "2") if "params" in path.parts]
    largest = max(arrays, key=lambda path: path.stat().st_size)
    largest.write_bytes(flip(0.5, 3)(largest.read_bytes()))
    expected = f"step 1 {checksums(sharded_state(1))} ['"
    outputs = two_processes("restore", tmp_path / "new")
    assert all(expected in output for output in outputs), outputs
    assert any(largest.name in output for output in outputs), outputs


def test_one_process_restores_the_save_of_two(tmp_path: Path) -> None:
    outputs = two_processes("save", tmp_path / "new")
    state, messages = restore(tmp_path / "new", sharded_state(0))
    assert messages == []
    assert_same(state, sharded_state(2))
    expected = f"checksums {checksums(sharded_state(2))}"
    assert all(expected in output for output in outputs), outputs


if __name__ == "__main__":
    if sys.argv[1] == "full":
        save_to_a_full_disk(Path(sys.argv[2]))
    else:
        acts = {"save": save_as_one_of_two, "restore": restore_as_one_of_two}
        acts[sys.argv[1]](Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
