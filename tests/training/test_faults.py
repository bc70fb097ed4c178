"""Runs that are killed, stopped, stuck, broken, out of disk, or not finite."""

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
    """The states of an uninterrupted run, by step."""

    def __init__(self, experiment) -> None:
        self.experiment = experiment
        self.mesh = axes.make_mesh(devices=jax.devices()[:1])
        with jax.set_mesh(self.mesh):
            self._advance = loop.jit_update(experiment, self.mesh)
            self._state = update.init_sharded_state(experiment, self.mesh)
        self._states = [jax.device_get(self._state)]

    def after(self, step: int) -> update.State:
        while len(self._states) <= step:
            batch = self.experiment.batch(
                len(self._states) - 1, range(self.experiment.batch_size)
            )
            with jax.set_mesh(self.mesh):
                self._state, _ = self._advance(self._state, batch)
            self._states.append(jax.device_get(self._state))
        return self._states[step]

    def check(self, folder: Path) -> int:
        """Check the newest committed state in a folder; return its step."""
        checkpoints = checkpoint.open_(
            folder / loop.CHECKPOINTS, loop.checkpoint_identity(self.experiment)
        )
        newest = max(checkpoints.steps())
        with jax.set_mesh(self.mesh):
            state, skipped = checkpoints.restore(
                update.abstract_state(self.experiment, self.mesh)
            )
        assert skipped == [] and int(state.step) == newest
        expected = self.after(newest)
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), expected)
        return newest


def steps_in(folder: Path) -> list[int]:
    return checkpoint.steps(folder / loop.CHECKPOINTS)


@pytest.mark.parametrize("kills", [20, pytest.param(150, marks=pytest.mark.slow)])
def test_run_killed_at_random_moments_resumes_exactly(kills, tmp_path):
    """Each child resumes the run of the one before; every step is saved."""
    rng = random.Random(kills)
    reference = Reference(tiny_experiment.experiment(steps=LONG))
    folder, newest, start = tmp_path / "run", -1, time.monotonic()
    argv = [f"--workdir={folder}", f"--steps={LONG}", "--checkpoint_every=1"]
    for kill in range(kills):
        child = commands.Child(tmp_path / f"output{kill}.txt", *argv)
        child.await_true(lambda old=newest: max(steps_in(folder), default=-1) > old)
        time.sleep(rng.uniform(0, 0.3))
        child.signal(signal.SIGKILL)
        assert child.status() == -signal.SIGKILL
        assert (kill == 0) == ("resuming from" not in child.text)
        newest = reference.check(folder)
    print(f"{kills} kills, {newest} steps, {time.monotonic() - start:.0f} s")
    steps = [step for step, _ in commands.losses(folder)]
    assert steps[:newest] == list(range(1, newest + 1))


SIGTERMS = {
    "training": (["--pause=0.01"], "step     10"),
    "compiling": ([], "tracing"),
    "evaluating": (["--evaluate_every=3", "--evaluation_pause=0.3"], "evaluating"),
}


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("phase", SIGTERMS)
def test_sigterm_saves_the_last_step_and_stops(phase, processes, tmp_path):
    argv, marker = SIGTERMS[phase]
    # An empty compilation cache.
    env = {"XDG_CACHE_HOME": str(tmp_path)} if phase == "compiling" else {}
    argv = [f"--steps={LONG}", "--checkpoint_every=100000", *argv]
    folder = tmp_path / "run"
    if processes == 1:
        output, workdir = tmp_path / "output.txt", f"--workdir={folder}"
        children = [commands.Child(output, workdir, *argv, env=env)]
    else:
        children = commands.start_processes(folder, *argv, env=env)
    # The first "evaluating" is of the batch whose shapes are taken.
    children[0].await_text(marker, 2 if phase == "evaluating" else 1)
    children[-1].signal(signal.SIGTERM)
    statuses = [child.status() for child in children]
    assert statuses == [143] * processes, children[0].text
    assert "stopped by SIGTERM; the last step is saved" in children[0].text
    assert "Traceback" not in "".join(child.text for child in children)
    (step,) = steps_in(folder)
    if processes == 1:
        Reference(tiny_experiment.experiment(steps=LONG)).check(folder)
    if phase == "evaluating":
        # Two processes agree on a step a little later.
        assert step == 3 if processes == 1 else step >= 3


def test_run_stopped_in_its_report_is_finished_by_the_next(tmp_path):
    folder = tmp_path / "run"
    argv = [f"--workdir={folder}", "--steps=6"]
    child = commands.Child(tmp_path / "output.txt", *argv, "--report_pause=60")
    child.await_text("reporting", 1)
    child.signal(signal.SIGTERM)
    start = time.monotonic()
    assert child.status() == 143 and time.monotonic() - start < 20
    assert "stopped by SIGTERM; the last step is saved" in child.text
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


@pytest.mark.parametrize(("fault", "process", "step", "seconds", "message"), FAILURES)
def test_fault_of_one_process_ends_both(
    fault, process, step, seconds, message, tmp_path
):
    """Within a minute, with a traceback, in the first batch or a later one; the
    watchdog is shortened unless the test is slow."""
    children = commands.start_processes(
        tmp_path / "run",
        f"--fault={fault}",
        f"--fault_process={process}",
        f"--fault_step={step}",
        "--log_every=1",
        env={
            "WATCHDOG_SECONDS": str(seconds),
            "HEARTBEAT_SECONDS": str(min(seconds, 30)),
        },
    )
    if step:
        children[0].await_text("step      1")
    start = time.monotonic()
    assert all(child.status() != 0 for child in children)
    # The end of the coordinator ends the other at once.
    assert time.monotonic() - start < (25 if (fault, process) == ("raise", 0) else 60)
    text = children[process].text
    assert message in text and re.search(r"Traceback|most recent call", text)


@pytest.fixture(scope="module")
def nan_run(tmp_path_factory):
    """The folder of a run whose loss is not finite in step 8, which would be saved."""
    folder = tmp_path_factory.mktemp("nan") / "run"
    argv = [
        f"--workdir={folder}",
        "--checkpoint_every=2",
        "--fault=nan",
        "--fault_step=7",
    ]
    child = commands.Child(folder.parent / "output.txt", *argv)
    assert child.status() == 1
    return folder, child


def test_non_finite_loss_stops_before_saving(nan_run):
    folder, child = nan_run
    (line,) = [line for line in child.text.splitlines() if "error" in line]
    assert "step 8: expected a finite loss, got nan" in line
    assert "first bad gradient: embedding_VD" in line
    assert re.search(r"last finite loss 2\.\d+ at step 7", line)
    assert "Traceback" not in child.text
    assert steps_in(folder) == [2, 4, 6]
    assert [step for step, _ in commands.losses(folder)] == [1, 2, 3, 4, 5, 6, 7]
    flags = {"fault": "nan", "fault_step": 7}
    assert Reference(tiny_experiment.experiment(**flags)).check(folder) == 6


def test_non_finite_parameters_are_refused():
    params = {"gain_D": np.ones(3), "w_DF": np.array([[1.0, np.inf]])}
    with pytest.raises(faults.NonFinite, match="step 4: .* got w_DF with values"):
        faults.check_params_finite(4, params)
    faults.check_params_finite(4, {"gain_D": np.ones(3)})


def test_failing_write_keeps_older_steps(tmp_path):
    """No file may grow beyond a size that a later step reaches."""
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
