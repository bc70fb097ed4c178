"""Resumed is uninterrupted, two processes are one, a run tells what it did."""

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

from transformer import axes
from transformer.training import checkpoint, loop, metrics, update

STEPS = 30
EVERY = ["--checkpoint_every=4", "--evaluate_every=8"]


def state_of(folder: Path, experiment) -> update.State:
    """The newest state on disk, on the host."""
    mesh = axes.mesh(devices=jax.devices()[:1])
    saved = checkpoint.open_(folder / loop.CHECKPOINTS, loop.identity(experiment))
    with jax.set_mesh(mesh):
        state, passed_over = saved.restore(update.state_shapes(experiment, mesh))
    assert passed_over == []
    return jax.device_get(state)


def trained(folder: Path, *argv: str) -> commands.Child:
    folder.mkdir(parents=True, exist_ok=True)
    flags = [f"--workdir={folder}", f"--steps={STEPS}", *EVERY, *argv]
    return commands.Child(folder / "said.txt", *flags)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The folder of a run from start to end."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    child = trained(folder)
    assert child.status() == 0, child.text
    return folder


def test_a_finished_run_leaves_its_folder(uninterrupted):
    files = {file.name for file in uninterrupted.iterdir()}
    assert files == {
        "checkpoints",
        "experiment.py",
        "finished.json",
        "loss.png",
        "metrics.jsonl",
        "results.json",
        "run.json",
        "said.txt",
        "samples.txt",
        "tensorboard",
    }
    told = (uninterrupted / "said.txt").read_text()
    assert "right: 0.1235\nbaseline: none\n" in told
    assert json.loads((uninterrupted / "results.json").read_text())["right"] == 0.123456
    record = json.loads((uninterrupted / "run.json").read_text())
    assert record["flags"]["steps"] == STEPS and record["versions"]["jax"]
    source = Path(tiny_experiment.__file__).read_text()
    assert (uninterrupted / "experiment.py").read_text() == source
    steps = [step for step, _ in commands.losses(uninterrupted)]
    assert steps == list(range(1, STEPS + 1))
    held_out = commands.losses(uninterrupted, "held_out")
    assert [step for step, _ in held_out] == [8, 16, 24, STEPS]
    assert held_out[-1][1] < held_out[0][1] < np.log(tiny_experiment.SYMBOLS)


def test_a_finished_run_says_so(uninterrupted, capsys, monkeypatch):
    before = commands.contents(uninterrupted)
    argv = [f"--workdir={uninterrupted}"]
    assert commands.exit_status(argv, monkeypatch) == 0
    assert f"is finished: step {STEPS}" in capsys.readouterr().out
    assert commands.contents(uninterrupted) == before


def test_resumed_is_uninterrupted_bit_for_bit(uninterrupted, tmp_path):
    """Killed twice, before and after the first checkpoint, without warning."""
    for marker in ("step      ", "step     10"):
        child = trained(tmp_path, "--pause=0.05", "--log_every=2")
        child.await_text(marker)
        child.signal(signal.SIGKILL)
        assert child.status() == -signal.SIGKILL
    assert not (tmp_path / "finished.json").exists()
    child = trained(tmp_path, "--pause=0.05")
    assert child.status() == 0, child.text
    assert "going on from step" in child.text
    expected = state_of(uninterrupted, tiny_experiment.experiment(steps=STEPS))
    state = state_of(tmp_path, tiny_experiment.experiment(steps=STEPS))
    jax.tree.map(np.testing.assert_array_equal, state, expected)
    for kind in ("train", "held_out"):
        told = commands.losses(tmp_path, kind)
        assert told == commands.losses(uninterrupted, kind)


def test_one_process_is_two(uninterrupted, tmp_path):
    children = commands.start_processes(
        tmp_path / "run", f"--steps={STEPS}", *EVERY, "--mesh=data:2,tensor:2"
    )
    assert [child.status() for child in children] == [0, 0], children[1].text
    folder = tmp_path / "run"
    experiment = tiny_experiment.experiment(steps=STEPS)
    state = state_of(folder, experiment)
    expected = state_of(uninterrupted, experiment)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        state,
        expected,
    )
    for kind in ("train", "held_out"):
        told, one = (commands.losses(f, kind) for f in (folder, uninterrupted))
        assert len(told) == len(one)
        np.testing.assert_allclose(told, one, rtol=1e-5)


def test_a_notebook_trains_without_a_command_line(tmp_path):
    """And goes on from the state that it gets."""
    experiment = tiny_experiment.experiment(steps=4)
    mesh = axes.mesh()
    state = loop.train(experiment, tmp_path, mesh=mesh)
    assert int(state.step) == 4
    longer = tiny_experiment.experiment(steps=6)
    assert int(loop.train(longer, tmp_path, mesh=mesh).step) == 6
    told = [(record["step"], record["kind"]) for record in metrics.read(tmp_path)]
    assert told == [*((step, "train") for step in range(1, 7)), (6, "held_out")]


def test_another_architecture_is_refused(uninterrupted):
    before = commands.contents(uninterrupted)
    with pytest.raises(ValueError, match="expected MLP of width 9, got MLP of width 8"):
        loop.check(tiny_experiment.experiment(width=9), uninterrupted, mesh=axes.mesh())
    assert commands.contents(uninterrupted) == before


def test_a_whole_command_is_calm(tmp_path):
    """A real command line, platform tuning and all: nothing on stderr, quick help."""
    tests = Path(__file__).parent
    env = {"PYTHONPATH": f"{tests.parent}:{tests}", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-m", "tiny_experiment", "--steps=3", "--workdir=run"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"HOME": str(tmp_path), "PATH": os.environ["PATH"], **env},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == "finished; see run"
