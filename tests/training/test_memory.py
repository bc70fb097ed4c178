"""Memory that a model needs, counted before it is made."""

import commands
import flax.linen as nn
import jax
import pytest
import tiny_experiment
from cases import MODELS

from transformer import axes
from transformer.models import decoder
from transformer.training import faults, loop, memory, update


def test_needs_are_the_bytes_of_state_and_gradient():
    """Adam's two moments, the parameters, their gradient, two counts, a step, a key."""
    experiment = tiny_experiment.experiment(width=8)
    mesh = axes.make_mesh(devices=jax.devices()[:1])
    state = update.abstract_state(experiment, mesh)
    parameters = 2 * 17 * 8 + 2 * 8 * 32
    rest = memory.state_bytes(state) - 4 * 4 * parameters
    assert rest == 4 * (2 + 1 + 2)
    memory.check(state)
    narrow = memory.state_bytes(state, "bfloat16")
    assert memory.state_bytes(state) - narrow == 2 * parameters


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
    limit = 2**20
    monkeypatch.setattr(memory, "device_bytes", lambda: limit)
    argv = [f"--workdir={tmp_path / 'run'}", "--steps=1", "--mesh=data:1"]
    monkeypatch.setattr(jax, "devices", lambda: jax.local_devices()[:1])
    assert commands.exit_status([*argv, "--batch_size=10000"], monkeypatch) == 1
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


@pytest.mark.parametrize("case", MODELS, ids=lambda case: case.name)
def test_the_limit_counts_all_parameters_while_they_are_made(case, monkeypatch):
    """Parameters and gradients that fit exactly are accepted; one byte less is not."""
    net = case.make()
    params = jax.eval_shape(lambda: decoder.init_params(net, jax.random.key(0)))
    needs = 2 * sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(params))

    def init(there: int, gradients: str = "float32") -> None:
        monkeypatch.setattr(memory, "device_bytes", lambda: there)
        with memory.limit_init(1, gradients):
            jax.eval_shape(lambda: decoder.init_params(net, jax.random.key(0)))

    init(needs)
    init(3 * needs // 4, "bfloat16")
    with pytest.raises(ValueError, match="needs more than .* without activations"):
        init(needs - 1)


def test_a_deep_model_is_refused_at_its_first_layer_that_does_not_fit(monkeypatch):
    """Layers after it are not traced, which takes seconds."""
    layers = []
    monkeypatch.setattr(memory, "device_bytes", lambda: 2**30)

    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x_BD):
            layers.append(self.name)
            return nn.Dense(2**13, use_bias=False)(x_BD)

    net = nn.Sequential([Layer() for _ in range(100)])
    x_BD = jax.ShapeDtypeStruct((1, 2**13), "float32")
    with pytest.raises(ValueError, match="needs more than"), memory.limit_init(1):
        jax.eval_shape(lambda x_BD: net.init(jax.random.key(0), x_BD), x_BD)
    assert len(layers) == 3


def test_a_step_beyond_the_memory_is_divided_into_microbatches(capsys, monkeypatch):
    """Of a run that may: as few as fit, which a line says. The gradient is theirs."""
    mesh = axes.make_mesh(devices=jax.devices()[:1])
    rows = {"batch_size": 4096, "width": 8}
    made = tiny_experiment.experiment(**rows)
    state, batch = update.init_state(made), made.batch(0, range(4096))

    def needs(count: int) -> int:
        one = made._replace(accumulate=count)
        program = loop.jit_update(one, mesh).lower(state, batch).compile()
        return program.memory_analysis().temp_size_in_bytes

    limit = needs(4) + sum(leaf.nbytes for leaf in jax.tree.leaves((state, batch)))
    monkeypatch.setattr(memory, "device_bytes", lambda: 1.1 * limit)
    assert needs(2) > needs(4) + 0.3 * limit
    with pytest.raises(faults.OutOfMemory):
        loop.compile_update(made, mesh, state, batch)
    may = made._replace(accumulate_to_fit=True)
    after, metrics = loop.compile_update(may, mesh, state, batch)(state, batch)
    lines = capsys.readouterr().out.splitlines()
    told = [line for line in lines if line.endswith("microbatches")]
    assert [line.split()[-2] for line in told] == ["2", "4"]
    monkeypatch.setattr(memory, "device_bytes", lambda: 1000)
    odd = may._replace(batch_size=6)
    few = {name: a[:6] for name, a in batch.items()}
    with pytest.raises(faults.OutOfMemory):
        loop.compile_update(odd, mesh, after, few)
    assert float(metrics.loss.weight) == batch["weight_BL"].sum()
