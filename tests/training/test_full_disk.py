"""A disk that fills up: a small file system, mounted for one test."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import commands
import pytest
import tiny_experiment
from test_faults import Reference, steps_in

from transformer.training import metrics

SIZE = 2 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """The root of a file system of 2 MiB, which ends with the test.

    It is mounted in a namespace of its own: that needs no rights, and only the process
    that holds it shows it to others.
    """
    folder = tmp_path / "disk"
    folder.mkdir()
    mounts = f"mount -t tmpfs -o size={SIZE},mode=700 own '{folder}' && echo ready; cat"
    try:
        holder = subprocess.Popen(
            ["unshare", "--map-root-user", "--mount", "sh", "-c", mounts],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    except FileNotFoundError:
        pytest.skip("no unshare, which mounts the small disk")
    with holder:
        assert holder.stdout is not None
        output = holder.stdout.readline()
        if output == "ready\n":
            yield Path(f"/proc/{holder.pid}/root{folder}")
    if output != "ready\n":
        pytest.skip(f"no small disk can be mounted: {output.strip()}")


def fill(disk: Path, *, leave: int = 0) -> None:
    """Fill the disk but for `leave` bytes."""
    with (disk / "others").open("ab", buffering=0) as file:
        try:
            file.write(bytes(max(0, _free_bytes(disk) - leave)))
        except OSError as error:
            assert error.errno == errno.ENOSPC


def _free_bytes(disk: Path) -> int:
    status = os.statvfs(disk)
    return status.f_bavail * status.f_frsize


@pytest.mark.timeout(20)
def test_tensorboard_on_a_full_disk_does_not_block_the_run(disk):
    """Its file is the first that cannot grow, because its records are the longest."""
    log = metrics.Log(disk / "run", first=0, steps=9)
    numbers = {f"{i:02}": 0.5 for i in range(50)}
    log.write(1, "train", numbers)
    lines = disk / "run" / metrics.FILE
    size = lines.stat().st_size
    fill(disk)
    with pytest.raises(OSError, match=f"No space left on device: '{disk}/run'"):
        for step in range(2, 9):
            log.write(step, "train", numbers)
    assert step > 2 and lines.stat().st_size > size
    with pytest.raises(OSError, match="No space left"):
        log.close()


STEPS = 120
# Output of a run without faults.
ORDINARY = re.compile("tiny_experiment:|between|step|tracing$|evaluating$|reporting$")
# Flags; bytes left free; saved steps at which the rest is filled too; "" where it is no
# save that fails.
FILLS = {
    "saving": (["--checkpoint_every=10"], 400_000, None, None),
    "logging": (["--checkpoint_every=60"], SIZE, [60], ""),
    "finishing": (["--checkpoint_every=500", "--report_pause=1"], SIZE, [STEPS], ""),
}


@pytest.mark.parametrize("when", FILLS)
def test_disk_that_fills_up_stops_the_run_in_one_line(when, disk, tmp_path):
    """Saved steps stay; with free space again, the same command finishes."""
    flags, leave, saved, message = FILLS[when]
    folder = disk / "run"
    argv = [f"--workdir={folder}", f"--steps={STEPS}", "--pause=0.01", *flags]
    fill(disk, leave=leave)
    child = commands.Child(tmp_path / "output.txt", *argv)
    if saved is not None:
        child.await_true(lambda: steps_in(folder) == saved)
    while saved is not None and child.alive:
        fill(disk)
        time.sleep(0.01)
    assert child.status() == 1
    lines = [line for line in child.text.splitlines() if not ORDINARY.match(line)]
    assert len(lines) == 1 and lines[0].startswith("error: "), child.text
    assert "No space left on device" in lines[0] and str(folder) in lines[0]
    # Which of its files fills the disk depends on when the last save ended.
    assert message is None or "could not be saved" not in lines[0]
    names = {path.name for path in folder.iterdir()}
    assert not {"finished.json", "samples.txt"} & names
    assert not any(name.endswith(".partial") for name in names)
    reference = Reference(tiny_experiment.experiment(steps=STEPS))
    newest = reference.check(folder)
    # A checkpoint takes 132 to 152 KiB.
    assert newest in (saved or [20, 30])
    (disk / "others").unlink()
    again = commands.Child(tmp_path / "again.txt", *argv)
    assert again.status() == 0, again.text
    assert f"resuming from step {newest}\n" in again.text
    assert f"finished; see {folder}\n" in again.text
    assert [step for step, _ in commands.losses(folder)] == list(range(1, STEPS + 1))
    assert reference.check(folder) == STEPS
