"""Saving that fails, and saving by several processes, in processes of their own."""

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
    flipped,
    restored,
)
from test_fingerprint import large

from transformer import axes
from transformer.training import checkpoint
from transformer.training.checksum import checksums
from transformer.training.update import State

DEVICES = "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"


def child(*argv: str) -> subprocess.Popen[str]:
    """This file as a program."""
    tests = str(Path(__file__).parent)
    paths = os.pathsep.join([tests, str(Path(tests).parent)])
    return subprocess.Popen(
        [sys.executable, __file__, *argv],
        env={**os.environ, "PYTHONPATH": paths, "XLA_FLAGS": DEVICES},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def shared(step: int) -> State:
    """A state over the devices of every process, made without any of them whole."""
    mesh = axes.mesh(data=1, fsdp=2, tensor=jax.device_count() // 2)
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
        axes.placement(mesh, jax.tree.map(np.asarray, state)),
    )


def saves_with_others(folder: Path, port: str, process: int) -> None:
    """Save steps 1 and 2, and restore the last, as one process of two."""
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, process)
    saved = checkpoint.open_(folder, IDENTITY)
    for step in (1, 2):
        saved.save(shared(step))
    assert saved.steps() == [1, 2]
    found = saved.restore(abstract(shared(0)))
    saved.close()
    assert found is not None and found[1] == []
    print("fingerprint", checksums(found[0]))
    jax.distributed.shutdown()


def restores_with_others(folder: Path, port: str, process: int) -> None:
    """Restore the newest sound step, as one process of two."""
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, process)
    saved = checkpoint.open_(folder, IDENTITY)
    found = saved.restore(abstract(shared(0)))
    saved.close()
    assert found is not None
    state, messages = found
    print("step", int(state.step), "fingerprint", checksums(state), "told", messages)
    jax.distributed.shutdown()


def saves_to_a_full_disk(folder: Path) -> None:
    """Two good saves, one that fails, and one more when there is room again."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    saved = checkpoint.open_(folder, IDENTITY)
    for step in (1, 2):
        saved.save(large(step))
    saved.wait()
    unlimited = resource.RLIM_INFINITY
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, unlimited))
    try:
        saved.save(large(3))
        saved.wait()
    except OSError as error:
        print("told:", error.errno, error)
    print("steps:", saved.steps())
    resource.setrlimit(resource.RLIMIT_FSIZE, (unlimited, unlimited))
    saved.save(large(4))
    saved.close()
    print("then:", saved.steps())


def test_a_full_disk_is_told_and_older_steps_stay(tmp_path: Path) -> None:
    said = child("full", str(tmp_path / "new")).communicate(timeout=60)[0]
    expected = f"told: 27 {tmp_path / 'new'}: step 3 could not be saved: File too large"
    assert f"{expected}; steps on disk: [1, 2]\nsteps: [1, 2]" in said, said
    assert said.rstrip().endswith("then: [1, 2, 4]"), said
    assert_same(restored(tmp_path / "new", large(0))[0], large(4))
    assert all(path.name.isdigit() for path in (tmp_path / "new").iterdir())


def test_a_file_in_place_of_the_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="expected a folder of checkpoints, got a fi"):
        checkpoint.open_(tmp_path / "file", IDENTITY)
    saved = checkpoint.open_(tmp_path / "file" / "below", IDENTITY)
    with pytest.raises(OSError, match="step 1 could not be saved: Not a directory"):
        saved.save(large(1))
    assert saved.steps() == []
    assert [path.read_text() for path in files(tmp_path)] == ["mine"]


def two_processes(what: str, folder: Path) -> list[str]:
    """What both said, when both have ended well."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    two = [child(what, str(folder), port, str(number)) for number in range(2)]
    said = [process.communicate(timeout=90)[0] for process in two]
    assert [process.returncode for process in two] == [0, 0], said
    return said


def test_two_processes_agree_to_pass_over_a_damaged_step(tmp_path: Path) -> None:
    """A flipped bit in the newest step's arrays, which one of them finds."""
    saved = checkpoint.open_(tmp_path / "new", IDENTITY)
    for step in (1, 2):
        saved.save(shared(step))
    saved.close()
    arrays = [path for path in files(tmp_path / "new" / "2") if "params" in path.parts]
    largest = max(arrays, key=lambda path: path.stat().st_size)
    largest.write_bytes(flipped(0.5, 3)(largest.read_bytes()))
    told = f"step 1 fingerprint {checksums(shared(1))} told ['"
    said = two_processes("damaged", tmp_path / "new")
    assert all(told in text for text in said), said
    assert any(largest.name in text for text in said), said


def test_saved_by_two_processes_restored_by_one(tmp_path: Path) -> None:
    said = two_processes("several", tmp_path / "new")
    state, messages = restored(tmp_path / "new", shared(0))
    assert messages == []
    assert_same(state, shared(2))
    told = f"fingerprint {checksums(shared(2))}"
    assert [told in text for text in said] == [True, True], said


if __name__ == "__main__":
    if sys.argv[1] == "full":
        saves_to_a_full_disk(Path(sys.argv[2]))
    else:
        act = {"several": saves_with_others, "damaged": restores_with_others}
        act[sys.argv[1]](Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
