"""Resumed runs equal uninterrupted ones, two processes one; files of a run."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import commands
import jax
import numpy as np
import pytest
import tiny_experiment

from transformer import axes, storage
from transformer.training import checkpoint, loop, metrics, update

STEPS = 30
EVERY = ["--checkpoint_every=4", "--evaluate_every=8"]


def state_of(folder: Path, experiment) -> update.State:
    """The newest state on disk, on the host."""
    mesh = axes.make_mesh(devices=jax.devices()[:1])
    checkpoints = checkpoint.open_(
        folder / checkpoint.FOLDER, loop.checkpoint_identity(experiment)
    )
    with jax.set_mesh(mesh):
        state, skipped = checkpoints.restore(update.abstract_state(experiment, mesh))
    assert skipped == []
    return jax.device_get(state)


def start_run(folder: Path, *argv: str) -> commands.Child:
    """A child that trains in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    flags = [f"--workdir={folder}", f"--steps={STEPS}", *EVERY, *argv]
    return commands.Child(folder / "output.txt", *flags)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The folder of a run from start to end."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    child = start_run(folder)
    assert child.status() == 0, child.text
    return folder


def test_finished_run_leaves_its_folder(uninterrupted):
    files = {file.name for file in uninterrupted.iterdir()}
    assert files == {
        "checkpoints",
        "experiment.py",
        "finished.json",
        "loss.png",
        "metrics.jsonl",
        "output.txt",
        "results.json",
        "run.json",
        "samples.txt",
        "tensorboard",
        "lock",
        "best.json",
        "cost.json",
    }
    output = (uninterrupted / "output.txt").read_text()
    assert "accuracy: 0.1235\nbaseline: none\n" in output
    results = json.loads((uninterrupted / "results.json").read_text())
    assert results == {"accuracy": 0.123456, "baseline": "none"}
    record = json.loads((uninterrupted / "run.json").read_text())
    assert record["flags"]["steps"] == STEPS and record["legs"][0]["versions"]["jax"]
    source = Path(tiny_experiment.__file__).read_text()
    assert (uninterrupted / "experiment.py").read_text() == source
    steps = [step for step, _ in commands.losses(uninterrupted)]
    assert steps == list(range(1, STEPS + 1))
    held_out = commands.losses(uninterrupted, "held_out")
    assert [step for step, _ in held_out] == [8, 16, 24, STEPS]
    assert held_out[-1][1] < held_out[0][1] < np.log(tiny_experiment.VOCAB)


def test_train_in_a_finished_folder_changes_nothing(uninterrupted, capsys, monkeypatch):
    before = commands.contents(uninterrupted)
    argv = [f"--workdir={uninterrupted}"]
    assert commands.exit_status(argv, monkeypatch) == 0
    assert f"is finished: step {STEPS}" in capsys.readouterr().out
    assert commands.contents(uninterrupted) == before


def test_resumed_run_equals_uninterrupted_bit_for_bit(uninterrupted, tmp_path):
    """Killed twice, before and after the first checkpoint."""
    for marker in ("step      ", "step     10"):
        child = start_run(tmp_path, "--pause=0.05", "--log_every=2")
        child.await_text(marker)
        child.signal(signal.SIGKILL)
        assert child.status() == -signal.SIGKILL
    assert not (tmp_path / "finished.json").exists()
    child = start_run(tmp_path, "--pause=0.05")
    assert child.status() == 0, child.text
    assert "resuming from step" in child.text
    experiment = tiny_experiment.experiment(steps=STEPS)
    expected = state_of(uninterrupted, experiment)
    state = state_of(tmp_path, experiment)
    jax.tree.map(np.testing.assert_array_equal, state, expected)
    for kind in ("train", "held_out"):
        losses = commands.losses(tmp_path, kind)
        assert losses == commands.losses(uninterrupted, kind)


def test_two_processes_equal_one(uninterrupted, tmp_path):
    """In their state, and in what each computes for the report."""
    folder = tmp_path / "run"
    flags = f"--steps={STEPS}", *EVERY, "--mesh=data:2,tensor:2", "--report_predictions"
    children = commands.start_processes(folder, *flags)
    assert [child.status() for child in children] == [0, 0], children[1].text
    experiment = tiny_experiment.experiment(steps=STEPS)
    state = state_of(folder, experiment)
    expected = state_of(uninterrupted, experiment)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        state,
        expected,
    )
    for kind in ("train", "held_out"):
        two, one = (commands.losses(f, kind) for f in (folder, uninterrupted))
        assert len(two) == len(one)
        np.testing.assert_allclose(two, one, rtol=1e-5)
    predictions = str(np.asarray(tiny_experiment.follow(state.params)))
    assert (folder / "predictions.txt").read_text() == predictions
    children = commands.start_processes(folder, verb="generate")
    assert [child.status() for child in children] == [0, 0], children[0].text
    assert [child.text.count("0 3\n") for child in children] == [1, 0]


def test_train_returns_the_state_and_continues_it(tmp_path):
    """Without a command line, as in a notebook."""
    experiment = tiny_experiment.experiment(steps=4)
    mesh = axes.make_mesh()
    state = loop.train(experiment, tmp_path, mesh=mesh)
    assert int(state.step) == 4
    longer = tiny_experiment.experiment(steps=6)
    assert int(loop.train(longer, tmp_path, mesh=mesh).step) == 6
    records = [(record["step"], record["kind"]) for record in metrics.read(tmp_path)]
    assert records == [*((step, "train") for step in range(1, 7)), (6, "held_out")]


def test_another_tokenizer_is_refused(tmp_path):
    """Of the same size, so that every shape fits; both hashes are told."""
    files = {"tokenizer.json": b"one"}
    first = tiny_experiment.experiment(steps=1)._replace(extra_files=files)
    mesh = axes.make_mesh()
    loop.train(first, tmp_path, mesh=mesh)
    other = first._replace(extra_files={"tokenizer.json": b"two"})
    hashes = [storage.short_hash(content) for content in (b"two", b"one")]
    message = f"expected tokenizer.json {hashes[0]}, got tokenizer.json {hashes[1]}"
    for read in (loop.restore_run_state, loop.restore_run_params):
        assert read(first, tmp_path, mesh)
        with pytest.raises(ValueError, match=message):
            read(other, tmp_path, mesh)


def test_another_model_is_refused(uninterrupted):
    before = commands.contents(uninterrupted)
    with pytest.raises(ValueError, match="expected MLP of width 9, got MLP of width 8"):
        loop.check(
            tiny_experiment.experiment(width=9), uninterrupted, mesh=axes.make_mesh()
        )
    assert commands.contents(uninterrupted) == before


def test_command_line_prints_nothing_on_stderr(tmp_path):
    """In a process of its own, tuned like any other."""
    tests = Path(tiny_experiment.__file__).parent
    env = {"PYTHONPATH": f"{tests.parent}:{tests}", "JAX_PLATFORMS": "cpu"}
    process = subprocess.run(
        [sys.executable, "-m", "tiny_experiment", "--steps=3", "--workdir=run"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"HOME": str(tmp_path), "PATH": os.environ["PATH"], **env},
    )
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    assert process.stdout.splitlines()[-1] == "finished; see run"


def test_value_error_of_a_step_is_not_reported_as_bad_input(tmp_path):
    """It keeps its traceback; steps saved before stay."""
    experiment = tiny_experiment.experiment()

    def batch(step, rows):
        if step == 3:
            raise ValueError("row of step 3 is bad")
        return experiment.batch(step, rows)

    mesh = axes.make_mesh(devices=jax.devices()[:1])
    intervals = loop.Intervals(checkpoint=2)
    folder = tmp_path / "new" / "run"
    with pytest.raises(RuntimeError, match="training failed") as failure:
        loop.train(
            experiment._replace(batch=batch), folder, mesh=mesh, intervals=intervals
        )
    assert "row of step 3 is bad" in str(failure.value.__cause__)
    assert checkpoint.steps(folder / checkpoint.FOLDER) == [2]


def test_the_restored_state_is_the_newest_or_refused(uninterrupted, tmp_path):
    experiment = tiny_experiment.experiment(steps=STEPS)
    mesh = axes.make_mesh(devices=jax.devices()[:1])
    with jax.set_mesh(mesh):
        state = loop.restore_run_state(experiment, uninterrupted, mesh)
        params = loop.restore_run_params(experiment, uninterrupted, mesh)
        with pytest.raises(ValueError, match="expected a checkpoint, got none"):
            loop.restore_run_state(experiment, tmp_path, mesh)
    assert int(state.step) == STEPS
    jax.tree.map(np.testing.assert_array_equal, state.params, params)
