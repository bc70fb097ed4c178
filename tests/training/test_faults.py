"""What befalls a run: killed, stopped, stuck, broken, out of disk, out of numbers."""

import random
import re
import signal
import time
from pathlib import Path

import commands
import jax
import numpy as np
import pytest
import tiny_experiment

from transformer import axes
from transformer.training import checkpoint, faults, loop, update

LONG = 100_000


class Reference:
    """The states that an uninterrupted run goes through, by step."""

    def __init__(self, experiment) -> None:
        self.experiment = experiment
        self.mesh = axes.mesh(devices=jax.devices()[:1])
        with jax.set_mesh(self.mesh):
            self._advance = loop.jit_update(experiment, self.mesh)
            self._state = update.init_sharded_state(experiment, self.mesh)
        self._after = [jax.device_get(self._state)]

    def after(self, step: int) -> update.State:
        while len(self._after) <= step:
            batch = self.experiment.batch(
                len(self._after) - 1, range(self.experiment.batch_size)
            )
            with jax.set_mesh(self.mesh):
                self._state, _ = self._advance(self._state, batch)
            self._after.append(jax.device_get(self._state))
        return self._after[step]

    def check(self, folder: Path) -> int:
        """The newest committed step of a folder, restored, is what it should be."""
        place = folder / loop.CHECKPOINTS
        saved = checkpoint.open_(place, loop.identity(self.experiment))
        newest = max(saved.steps())
        with jax.set_mesh(self.mesh):
            state, passed_over = saved.restore(
                update.state_shapes(self.experiment, self.mesh)
            )
        assert passed_over == [] and int(state.step) == newest
        expected = self.after(newest)
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), expected)
        return newest


def steps_in(folder: Path) -> list[int]:
    return checkpoint.steps(folder / loop.CHECKPOINTS)


@pytest.mark.parametrize("kills", [20, pytest.param(150, marks=pytest.mark.slow)])
def test_killed_at_random_moments(kills, tmp_path):
    """Each child goes on where the one before was killed, saving at every step."""
    chance = random.Random(kills)
    reference = Reference(tiny_experiment.experiment(steps=LONG))
    folder, newest, begun = tmp_path / "run", -1, time.monotonic()
    argv = [f"--workdir={folder}", f"--steps={LONG}", "--checkpoint_every=1"]
    for kill in range(kills):
        child = commands.Child(tmp_path / f"said{kill}.txt", *argv)
        child.await_true(lambda old=newest: max(steps_in(folder), default=-1) > old)
        time.sleep(chance.uniform(0, 0.3))
        child.signal(signal.SIGKILL)
        assert child.status() == -signal.SIGKILL
        assert (kill == 0) == ("going on from" not in child.text)
        newest = reference.check(folder)
    print(f"{kills} kills, {newest} steps, {time.monotonic() - begun:.0f} s")
    told = [step for step, _ in commands.losses(folder)]
    assert told[:newest] == list(range(1, newest + 1))


SIGTERMS = {
    "training": (["--pause=0.01"], "step     10"),
    "compiling": ([], "tracing"),
    "evaluating": (["--evaluate_every=3", "--evaluation_pause=0.3"], "evaluating"),
}


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("phase", SIGTERMS)
def test_stopped_by_sigterm(phase, processes, tmp_path):
    argv, marker = SIGTERMS[phase]
    # So that there is something to compile.
    env = {"XDG_CACHE_HOME": str(tmp_path)} if phase == "compiling" else {}
    argv = [f"--steps={LONG}", "--checkpoint_every=100000", *argv]
    folder = tmp_path / "run"
    if processes == 1:
        said, workdir = tmp_path / "said.txt", f"--workdir={folder}"
        children = [commands.Child(said, workdir, *argv, env=env)]
    else:
        children = commands.start_processes(folder, *argv, env=env)
    # Probing the shape of a batch says "evaluating" once more.
    children[0].await_text(marker, 2 if phase == "evaluating" else 1)
    children[-1].signal(signal.SIGTERM)
    statuses = [child.status() for child in children]
    assert statuses == [faults.TERMINATED] * processes, children[0].text
    assert "stopped by SIGTERM; all that was reached is saved" in children[0].text
    assert "Traceback" not in "".join(child.text for child in children)
    (step,) = steps_in(folder)
    if processes == 1:
        Reference(tiny_experiment.experiment(steps=LONG)).check(folder)
    if phase == "evaluating":
        # Two processes agree on a place to stop a little later.
        assert step == 3 if processes == 1 else step >= 3


def test_stopped_while_reporting_is_not_finished_and_finishes_when_run_again(tmp_path):
    folder = tmp_path / "run"
    argv = [f"--workdir={folder}", "--steps=6"]
    child = commands.Child(tmp_path / "said.txt", *argv, "--report_pause=60")
    child.await_text("reporting", 1)
    child.signal(signal.SIGTERM)
    begun = time.monotonic()
    assert child.status() == faults.TERMINATED and time.monotonic() - begun < 20
    assert "stopped by SIGTERM; all that was reached is saved" in child.text
    assert "Traceback" not in child.text and steps_in(folder) == [6]
    assert not {"finished.json", "samples.txt"} & {
        path.name for path in folder.iterdir()
    }
    again = commands.Child(tmp_path / "again.txt", *argv)
    assert again.status() == 0 and f"finished; see {folder}" in again.text
    assert (folder / "samples.txt").read_text() == "0 1 2\n"
    assert "step      6  train" not in again.text
    Reference(tiny_experiment.experiment(steps=6)).check(folder)


RAISED = "RuntimeError: row of step 5 is bad"
FAILURES = [
    ("raise", 0, 5, 45, RAISED),
    ("hang", 1, 0, 5, "Timeout"),
    ("hang", 1, 5, 5, "Timeout"),
    *(
        pytest.param(*failure, marks=pytest.mark.slow)
        for failure in (
            ("raise", 1, 5, 45, RAISED),
            ("hang", 0, 5, 45, "Timeout"),
            ("hang", 1, 5, 45, "Timeout"),
        )
    ),
]


@pytest.mark.parametrize(("fault", "on", "at", "seconds", "said"), FAILURES)
def test_one_of_two_processes_fails(fault, on, at, seconds, said, tmp_path):
    """All are gone within a minute, with a traceback, be it in the first batch or a
    later one; waits are shortened unless the test is slow."""
    children = commands.start_processes(
        tmp_path / "run",
        f"--fault={fault}",
        f"--fault_process={on}",
        f"--fault_step={at}",
        "--log_every=1",
        env={
            "WATCHDOG_SECONDS": str(seconds),
            "HEARTBEAT_SECONDS": str(min(seconds, 30)),
        },
    )
    if at:
        children[0].await_text("step      1")
    begun = time.monotonic()
    assert all(child.status() != 0 for child in children)
    # The death of the process that coordinates is noticed at once.
    assert time.monotonic() - begun < (25 if (fault, on) == ("raise", 0) else 60)
    text = children[on].text
    assert said in text and re.search(r"Traceback|most recent call", text)


@pytest.fixture(scope="module")
def saved_run(tmp_path_factory):
    """A folder whose run had no number in step 8, a step that is saved."""
    folder = tmp_path_factory.mktemp("saved") / "run"
    argv = [
        f"--workdir={folder}",
        "--checkpoint_every=2",
        "--fault=nan",
        "--fault_step=7",
    ]
    child = commands.Child(folder.parent / "said.txt", *argv)
    assert child.status() == 1
    return folder, child


def test_no_number_stops_before_saving(saved_run):
    folder, child = saved_run
    (line,) = [line for line in child.text.splitlines() if "error" in line]
    assert "step 8: expected a finite loss, got nan" in line
    assert "first bad gradient: embedding_VD" in line
    assert re.search(r"last finite loss 2\.\d+ at step 7", line)
    assert "Traceback" not in child.text
    assert steps_in(folder) == [2, 4, 6]
    assert [step for step, _ in commands.losses(folder)] == [1, 2, 3, 4, 5, 6, 7]
    flags = {"fault": "nan", "at": 7}
    assert Reference(tiny_experiment.experiment(**flags)).check(folder) == 6


def test_parameters_that_are_no_numbers_are_not_saved():
    params = {"gain_D": np.ones(3), "w_DF": np.array([[1.0, np.inf]])}
    with pytest.raises(faults.NonFinite, match="step 4: .* got w_DF with values"):
        faults.check_sound(4, params)
    faults.check_sound(4, {"gain_D": np.ones(3)})


def test_a_full_disk_leaves_older_steps(tmp_path):
    """Stands in for it: no file may grow beyond a size, reached in a later step."""
    folder = tmp_path / "run"
    argv = [f"--workdir={folder}", "--checkpoint_every=2", "--width=64"]
    first = commands.Child(tmp_path / "a.txt", *argv, "--fault=nan", "--fault_step=4")
    assert first.status() == 1 and steps_in(folder) == [2, 4]
    before = commands.contents(folder / loop.CHECKPOINTS)
    second = commands.Child(
        tmp_path / "b.txt", f"--workdir={folder}", env={"LIMIT_BYTES": "20000"}
    )
    assert second.status() == 1
    line = second.text.splitlines()[-1]
    assert line.startswith("error: ")
    after = commands.contents(folder / loop.CHECKPOINTS)
    assert before.items() <= after.items()
