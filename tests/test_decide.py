"""Decisions: the orchard, who sees what, and walks that follow from what is asked."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import decision_transformer
from transformer.environments import apple_grid, environment
from transformer.training import update

KEY = jax.random.key(0)
WORLD = apple_grid.ENVIRONMENT


@pytest.fixture(scope="module")
def seen() -> Any:
    """Forty episodes of walkers from bad to good, numpy."""
    play = jax.jit(partial(environment.play_episodes, WORLD, apple_grid.policy))
    return jax.device_get(play(KEY, jnp.linspace(-1, 1, 40)))


def test_what_is_left_is_what_is_still_to_come() -> None:
    data = decision_transformer.episodes(1000, 0)
    for number in (0, 7, 23):
        left = data.train["rewards"][:, number:].sum(1)
        np.testing.assert_allclose(data.train["left"][:, number], left, atol=1e-5)
    assert len(data.validation["left"]) == decision_transformer.HELD_OUT
    again, other = (
        decision_transformer.episodes(1000, 0),
        decision_transformer.episodes(1000, 1),
    )
    np.testing.assert_array_equal(data.train["actions"], again.train["actions"])
    assert (data.train["actions"] != other.train["actions"]).any()


def test_training_lowers_both_losses_and_walks_follow_from_the_key() -> None:
    experiment = decision_transformer.experiment(
        count=1000, depth=1, width=32, batch_size=32, steps=40, dtype="float32"
    )
    state = jax.jit(lambda: update.init_state(experiment))()
    advance = jax.jit(lambda *given: update.update(experiment, *given))
    told = []
    for step in range(experiment.steps):
        state, step_told = advance(state, experiment.batch(step, range(32)))
        told.append(experiment.metrics(step_told.loss))
    for name in ("nats_asked", "nats_cloned"):
        assert np.mean([t[name] for t in told[-4:]]) < told[0][name] - 0.02
    walkers = experiment.report.args[0]
    one, again, other = (
        walkers.walked("asked", state.params, jax.random.key(seed), [8, 0])
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one.actions, again.actions)
    assert (one.actions != other.actions).any()
    cloned = [
        walkers.walked("cloned", state.params, KEY, [asked, asked]) for asked in (-8, 8)
    ]
    np.testing.assert_array_equal(cloned[0].actions, cloned[1].actions)
