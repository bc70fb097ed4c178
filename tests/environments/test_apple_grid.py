"""The apple grid and its scripted policy."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from transformer.environments import apple_grid, environment

KEY = jax.random.key(0)


def test_a_step_removes_its_cell_and_changes_no_other() -> None:
    state = apple_grid.reset(KEY)
    assert sorted(np.unique(state.grid, return_counts=True)[1]) == [10, 10, 29]
    assert state.grid[tuple(state.position)] == 0
    for number in range(60):
        action = jax.random.randint(jax.random.fold_in(KEY, number), (), 0, 4)
        after, reward = apple_grid.step(state, action)
        position = np.asarray(state.position) + apple_grid.MOVES[int(action)]
        position %= apple_grid.SIDE
        assert after.position.tolist() == position.tolist()
        expected = np.asarray(state.grid).copy()
        assert float(reward) == expected[tuple(position)]
        expected[tuple(position)] = 0
        np.testing.assert_array_equal(after.grid, expected)
        state = after


def test_observations_are_relative_to_the_agent() -> None:
    """A torus shifted together with its agent looks the same."""
    state = apple_grid.reset(KEY)
    shifted = apple_grid.State(
        jnp.roll(state.grid, (2, 3), axis=(0, 1)),
        (state.position + jnp.array([2, 3])) % 7,
    )
    observation = apple_grid.observe(state)
    np.testing.assert_array_equal(observation, apple_grid.observe(shifted))
    apples = np.asarray(observation).reshape(2, 7, 7)[0]
    _, reward = apple_grid.step(state, jnp.int32(0))
    assert apples[2, 3] == max(float(reward), 0)


def test_a_policy_of_higher_quality_has_higher_returns() -> None:
    play = partial(environment.play_episodes, apple_grid.ENVIRONMENT, apple_grid.policy)
    episodes = jax.device_get(jax.jit(play)(KEY, jnp.linspace(-1, 1, 40)))
    returns = episodes.rewards.sum(1)
    assert returns[:10].mean() < -5 and returns[-10:].mean() > 5
    assert episodes.observations.shape == (40, 24, 98) and episodes.actions.max() == 3
