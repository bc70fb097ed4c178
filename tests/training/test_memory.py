"""Memory that a model needs, counted before it is made."""

import jax
import pytest
import tiny_experiment

from transformer import axes
from transformer.training import memory, update


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
