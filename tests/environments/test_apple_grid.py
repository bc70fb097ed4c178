"""The apple grid and its scripted policy."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import numpy as np

from transformer.environments import apple_grid, environment

KEY = jax.random.key(0)


def test_a_step_removes_its_cell_and_changes_no_other() -> None:
    rng, step = np.random.default_rng(0), jax.jit(apple_grid.step)
    state = jax.device_get(jax.jit(apple_grid.reset)(KEY))
    assert sorted(np.unique(state.grid, return_counts=True)[1]) == [10, 10, 29]
    assert state.grid[tuple(state.position)] == 0
    for _ in range(60):
        action = int(rng.integers(4))
        after, reward = jax.device_get(step(state, action))
        position = state.position + apple_grid.MOVES[action]
        position %= apple_grid.SIDE
        assert after.position.tolist() == position.tolist()
        expected = state.grid.copy()
        assert float(reward) == expected[tuple(position)]
        expected[tuple(position)] = 0
        np.testing.assert_array_equal(after.grid, expected)
        state = after


def test_observations_are_relative_to_the_agent() -> None:
    """A torus shifted together with its agent looks the same."""
    state = jax.device_get(jax.jit(apple_grid.reset)(KEY))
    shifted: Any = apple_grid.State(
        np.roll(state.grid, (2, 3), axis=(0, 1)),
        (state.position + np.array([2, 3])) % 7,
    )
    observe = jax.jit(apple_grid.observe)
    observation = observe(state)
    np.testing.assert_array_equal(observation, observe(shifted))
    apples = np.asarray(observation).reshape(2, 7, 7)[0]
    _, reward = jax.jit(apple_grid.step)(state, 0)
    assert apples[2, 3] == max(float(reward), 0)


def test_a_policy_of_higher_quality_has_higher_returns() -> None:
    play = partial(environment.play_episodes, apple_grid.ENVIRONMENT, apple_grid.policy)
    episodes = jax.device_get(jax.jit(play)(KEY, np.linspace(-1, 1, 40)))
    returns = episodes.rewards.sum(1)
    assert returns[:10].mean() < -5 and returns[-10:].mean() > 5
    assert episodes.observations.shape == (40, 24, 98) and episodes.actions.max() == 3
