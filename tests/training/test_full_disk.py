"""A disk that really fills up: a small file system, mounted for one test alone."""

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

    It is mounted in a namespace of its own, so needs no rights and is seen by nobody
    else but through the process that holds it.
    """
    place = tmp_path / "disk"
    place.mkdir()
    mounts = f"mount -t tmpfs -o size={SIZE},mode=700 own '{place}' && echo ready; cat"
    try:
        holder = subprocess.Popen(
            ["unshare", "--map-root-user", "--mount", "sh", "-c", mounts],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    except FileNotFoundError:
        pytest.skip("no unshare here, with which to mount a small disk")
    with holder:
        assert holder.stdout is not None
        said = holder.stdout.readline()
        if said == "ready\n":
            yield Path(f"/proc/{holder.pid}/root{place}")
    if said != "ready\n":
        pytest.skip(f"no small disk can be mounted here: {said.strip()}")


def fill(disk: Path, *, but: int = 0) -> None:
    """Others take all that is left, `but` so many bytes."""
    with (disk / "others").open("ab", buffering=0) as file:
        try:
            file.write(bytes(max(0, _left(disk) - but)))
        except OSError as error:
            assert error.errno == errno.ENOSPC


def _left(disk: Path) -> int:
    found = os.statvfs(disk)
    return found.f_bavail * found.f_frsize


@pytest.mark.timeout(20)
def test_tensorboard_on_a_full_disk_does_not_stop_the_run_for_ever(disk):
    """Its file is the first that cannot grow: its records are longer by far."""
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
# What a run tells while all is well.
TOLD = re.compile("step|tracing$|evaluating$|reporting$")
# Flags; how much room others leave; with what saved they take the rest as well; what
# must be told beside the folder.
FILLS = {
    "saving": (["--checkpoint_every=10"], 400_000, None, "step 30 could not be saved"),
    "telling": (["--checkpoint_every=60"], SIZE, [60], ""),
    "finishing": (["--checkpoint_every=500", "--report_pause=1"], SIZE, [STEPS], ""),
}


@pytest.mark.parametrize("when", FILLS)
def test_a_disk_that_fills_up_stops_the_run_in_one_line(when, disk, tmp_path):
    """What was saved stays; with room again, the same command finishes."""
    flags, room, saved, what = FILLS[when]
    folder = disk / "run"
    argv = [f"--workdir={folder}", f"--steps={STEPS}", "--pause=0.01", *flags]
    fill(disk, but=room)
    child = commands.Child(tmp_path / "said.txt", *argv)
    if saved is not None:
        child.await_true(lambda: steps_in(folder) == saved)
    while saved is not None and child.alive:
        fill(disk)
        time.sleep(0.01)
    assert child.status() == 1
    told = [line for line in child.text.splitlines() if not TOLD.match(line)]
    assert len(told) == 1 and told[0].startswith("error: "), child.text
    assert "No space left on device" in told[0] and str(folder) in told[0]
    assert what in told[0] and (what or "could not be saved" not in told[0])
    names = {path.name for path in folder.iterdir()}
    assert not {"finished.json", "samples.txt"} & names
    assert not any(name.endswith(".partial") for name in names)
    reference = Reference(tiny_experiment.experiment(steps=STEPS))
    newest = reference.check(folder)
    assert [newest] == (saved or [20])
    (disk / "others").unlink()
    again = commands.Child(tmp_path / "again.txt", *argv)
    assert again.status() == 0, again.text
    assert f"going on from step {newest}\n" in again.text
    assert f"finished; see {folder}\n" in again.text
    assert [step for step, _ in commands.losses(folder)] == list(range(1, STEPS + 1))
    assert reference.check(folder) == STEPS
