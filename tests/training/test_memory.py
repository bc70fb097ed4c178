"""Memory that a model needs, counted before it is made."""

import commands
import jax
import pytest
import tiny_experiment

from transformer import axes
from transformer.training import faults, memory, update


def test_needs_are_the_bytes_of_state_and_gradient():
    """Adam's two moments, the parameters, their gradient, two counts, a step, a key."""
    experiment = tiny_experiment.experiment(width=8)
    mesh = axes.make_mesh(devices=jax.devices()[:1])
    state = update.abstract_state(experiment, mesh)
    parameters = 2 * 17 * 8 + 2 * 8 * 32
    rest = memory.state_bytes(state) - 4 * 4 * parameters
    assert rest == 4 * (2 + 1 + 2)
    memory.check(state)


def test_a_model_beyond_the_memory_is_refused_before_it_is_made(tmp_path):
    experiment = tiny_experiment.experiment(width=2**20)
    mesh = axes.make_mesh(devices=jax.devices()[:1])
    state = update.abstract_state(experiment, mesh)
    with pytest.raises(ValueError, match=r"fit into .* GiB .* got one that needs 1310"):
        memory.check(state)


def test_a_step_beyond_the_memory_is_refused_before_it_is_taken(
    tmp_path, capsys, monkeypatch
):
    """The state fits; the activations of the batch do not."""
    limit = 10 * 2**20
    monkeypatch.setattr(memory, "device_bytes", lambda: limit)
    argv = [f"--workdir={tmp_path / 'run'}", "--steps=1", "--mesh=data:1"]
    monkeypatch.setattr(jax, "devices", lambda: jax.local_devices()[:1])
    assert commands.exit_status([*argv, "--batch_size=100000"], monkeypatch) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "expected a step that fits into 0.0 GiB of memory a device, got" in line
    assert "--batch_size" in line


def test_memory_that_runs_out_is_told_in_one_line():
    wide = jax.ShapeDtypeStruct((2**24, 2**24), "float32")
    program = jax.jit(lambda: jax.numpy.zeros(wide.shape)).lower().compile()
    with pytest.raises(jax.errors.JaxRuntimeError) as failure:
        program()
    line = faults.one_line(failure.value)
    assert line.endswith(faults.SMALLER) and "\n" not in line
    assert faults.one_line(MemoryError()) == f"out of memory; {faults.SMALLER}"
    assert faults.one_line(RuntimeError("Out of memory")) is None
