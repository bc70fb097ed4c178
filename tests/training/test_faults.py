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

from transformer import axes, runtime_messages
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
            folder / checkpoint.FOLDER, loop.checkpoint_identity(self.experiment)
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
    return checkpoint.steps(folder / checkpoint.FOLDER)


@pytest.mark.parametrize("kills", [2, pytest.param(150, marks=pytest.mark.slow)])
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


PHASES = {
    "training": (["--pause=0.01"], "step     10"),
    "compiling": ([], "tracing"),
    "evaluating": (["--evaluate_every=3", "--evaluation_pause=0.3"], "evaluating"),
}


@pytest.mark.parametrize(
    ("phase", "processes", "number"),
    [
        ("training", 1, signal.SIGINT),
        ("compiling", 1, signal.SIGTERM),
        ("evaluating", 1, signal.SIGHUP),
        ("training", 2, signal.SIGTERM),
        ("compiling", 2, signal.SIGHUP),
        ("evaluating", 2, signal.SIGINT),
    ],
)
def test_a_signal_saves_the_last_step_and_stops(phase, processes, number, tmp_path):
    argv, marker = PHASES[phase]
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
    children[-1].signal(number)
    statuses = [child.status() for child in children]
    others = [128 + signal.SIGTERM] * (processes - 1)
    assert statuses == [*others, 128 + number], children[0].text
    line = f"stopped by {number.name}; the last step is saved"
    assert line in children[-1].text
    assert "Traceback" not in "".join(child.text for child in children)
    (step,) = steps_in(folder)
    if processes == 1:
        Reference(tiny_experiment.experiment(steps=LONG)).check(folder)
    if phase == "evaluating":
        # Two processes agree on a step a little later.
        assert step == 3 if processes == 1 else step >= 3


def test_a_signal_does_not_interrupt_a_save(tmp_path):
    """Every step is saved, so that most signals come while one is."""
    rng = random.Random(0)
    reference = Reference(tiny_experiment.experiment(steps=LONG))
    argv = [f"--workdir={tmp_path / 'run'}", f"--steps={LONG}", "--checkpoint_every=1"]
    for number in range(5):
        child = commands.Child(tmp_path / f"output{number}.txt", *argv)
        child.await_text("step ")
        time.sleep(rng.uniform(0, 0.2))
        child.signal(signal.SIGINT)
        assert child.status() == 128 + signal.SIGINT, child.text
        assert "Traceback" not in child.text and "error" not in child.text
        last = commands.losses(tmp_path / "run")[-1][0]
        assert reference.check(tmp_path / "run") == last


def test_a_second_signal_ends_at_once(tmp_path):
    argv = [f"--workdir={tmp_path / 'run'}", "--evaluation_pause=100"]
    child = commands.Child(tmp_path / "output.txt", *argv, "--evaluate_every=3")
    child.await_text("evaluating")
    start = time.monotonic()
    child.signal(signal.SIGINT)
    time.sleep(0.3)
    assert child.alive
    child.signal(signal.SIGINT)
    assert child.status() == 128 + signal.SIGINT and time.monotonic() - start < 20
    assert "Traceback" not in child.text


def test_other_verbs_end_at_once(tmp_path):
    folder = f"--workdir={tmp_path / 'run'}"
    assert commands.Child(tmp_path / "output.txt", folder, "--steps=2").status() == 0
    child = commands.Child(
        tmp_path / "verb.txt", "evaluate", folder, "--evaluation_pause=100"
    )
    child.await_text("evaluating")
    child.signal(signal.SIGINT)
    assert child.status() == 128 + signal.SIGINT
    assert child.text.splitlines()[-1] == "stopped by SIGINT"


@pytest.mark.parametrize("how", ["pipe", "full", "closed"])
def test_a_run_whose_output_nobody_reads_goes_on(how, tmp_path):
    """And says so once, on standard error; other verbs end without a traceback."""
    env, folder = {"LOSE": how}, f"--workdir={tmp_path / 'run'}"
    child = commands.Child(tmp_path / "output.txt", folder, "--steps=6", env=env)
    assert child.status() == 0, child.text
    warnings = child.text.count("warning: standard output is lost")
    assert warnings == (how != "closed") and "Traceback" not in child.text
    assert [step for step, _ in commands.losses(tmp_path / "run")] == [*range(1, 7)]
    verb = commands.Child(tmp_path / "verb.txt", "evaluate", folder, env=env)
    assert verb.status() == {"pipe": 141, "full": 1, "closed": 0}[how]
    assert "Traceback" not in verb.text


def test_a_second_run_in_a_folder_is_refused_by_name(tmp_path):
    """The lock of a killed process is taken over."""
    folder = f"--workdir={tmp_path / 'run'}"
    first = commands.Child(tmp_path / "1.txt", folder, "--pause=0.05", "--steps=3000")
    first.await_text("step     10")
    before = commands.losses(tmp_path / "run")
    second = commands.Child(tmp_path / "2.txt", folder, "--steps=3000")
    assert second.status() == 2
    assert "expected no other process that trains there, got process" in second.text
    assert commands.losses(tmp_path / "run")[: len(before)] == before
    first.signal(signal.SIGKILL)
    first.status()
    third = commands.Child(tmp_path / "3.txt", folder, "--steps=3000", "--pause=0.05")
    third.await_text("step     10")
    third.signal(signal.SIGTERM)
    assert third.status() == 143


def test_what_is_removed_while_a_run_goes_on_is_written_again(tmp_path):
    folder = tmp_path / "run"
    argv = [f"--workdir={folder}", "--steps=200", "--pause=0.02"]
    child = commands.Child(tmp_path / "output.txt", *argv, "--checkpoint_every=20")
    child.await_true(lambda: 20 in steps_in(folder), "a checkpoint")
    folder.rename(tmp_path / "away")
    assert child.status() == 0, child.text
    assert "Traceback" not in child.text and child.text.count("warning: ") == 3
    assert [step for step, _ in commands.losses(folder)] == [*range(1, 201)]
    assert steps_in(folder)[-1] == 200 and (folder / "run.json").exists()


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
    again = commands.Child(tmp_path / "again.txt", *argv, "--report_pause=0")
    assert again.status() == 0 and f"finished; see {folder}" in again.text
    assert (folder / "samples.txt").read_text() == "0 1 2\n"
    assert "step      6  train" not in again.text
    Reference(tiny_experiment.experiment(steps=6)).check(folder)


def test_processes_stopped_in_their_report_end_at_once(tmp_path):
    """Where JAX would keep SIGTERM for a next step."""
    folder = tmp_path / "run"
    children = commands.start_processes(folder, "--steps=6", "--report_pause=60")
    for child in children:
        child.await_text("reporting", 1)
    for child in children:
        child.signal(signal.SIGTERM)
    start = time.monotonic()
    assert [child.status() for child in children] == [143, 143], children[1].text
    assert time.monotonic() - start < 20 and steps_in(folder) == [6]
    for child in children:
        assert "stopped by SIGTERM; the last step is saved" in child.text


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


@pytest.mark.parametrize("victim", [0, 1])
def test_the_end_of_a_process_is_told_in_one_line(victim, tmp_path):
    """Whichever part of the runtime notices it first."""
    children = commands.start_processes(
        tmp_path / "run",
        "--steps=100000",
        "--pause=0.01",
        env={"HEARTBEAT_SECONDS": "5"},
    )
    children[0].await_text("step     10")
    children[victim].signal(signal.SIGKILL)
    other = children[1 - victim]
    assert other.status() not in (0, -signal.SIGKILL)
    lines = [line for line in other.text.splitlines() if not is_progress(line)]
    assert lines == [runtime_messages.PEER_LOST.rstrip()], other.text


@pytest.mark.slow
def test_a_run_folder_that_processes_do_not_share_is_refused(tmp_path):
    """The first checkpoint would hang."""
    folders = [tmp_path / "a", tmp_path / "b"]
    children = commands.start_processes(
        tmp_path / "run", env={"SHARED_SECONDS": "0.5"}, workdirs=folders
    )
    assert children[1].status() == 2 and children[0].status() != 0
    message = f"error: run folder {folders[1]}: expected a file system that all"
    assert message in children[1].text


def is_progress(line):
    # Two processes write at once, so a line of one may stand within another.
    begins = "step ", "tracing", "tiny_experiment:"
    # Gloo's threads write the last number of a message, and its line's end, apart.
    is_rest = re.fullmatch(r"\d*", line)
    return "peer ranks" in line or line.startswith(begins) or bool(is_rest)


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
    before = commands.contents(folder / checkpoint.FOLDER)
    second = commands.Child(
        tmp_path / "b.txt", f"--workdir={folder}", env={"LIMIT_BYTES": "20000"}
    )
    assert second.status() == 1
    line = second.text.splitlines()[-1]
    assert line.startswith("error: ")
    after = commands.contents(folder / checkpoint.FOLDER)
    assert before.items() <= after.items()
