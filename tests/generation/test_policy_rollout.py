"""Rollouts against the environment's own dynamics."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from transformer.environments import apple_grid
from transformer.generation import policy_rollout


def test_a_rollout_follows_the_environment_and_its_target_return() -> None:
    """The policy seeks apples where the return to go is positive, thorns where it is
    negative. The return to go falls by the rewards, and the policy is passed exactly
    the observations and actions of its own episode."""
    calls = []

    def policy(return_BT: Any, observation_BTP: Any, action_BT: Any) -> Any:
        history = return_BT, observation_BTP, action_BT
        jax.debug.callback(lambda *arrays: calls.append(arrays), *history)
        apples, thorns = observation_BTP[..., :49], observation_BTP[..., 49:]
        grid = (apples - thorns).reshape(*return_BT.shape, 7, 7)
        weights = apple_grid.MOVE_DISCOUNTS[None, None]
        value = (grid[:, :, None] * weights).sum((-2, -1))
        return 50 * jnp.sign(return_BT)[..., None] * value

    run = partial(
        policy_rollout.policy_rollout, apple_grid.ENVIRONMENT, policy, same_start=True
    )
    rollout = jax.jit(run)(jax.random.key(0), np.array([1e3, -1e3]))
    jax.effects_barrier()
    rollout = jax.device_get(rollout)
    returns = rollout.rewards.sum(1)
    assert returns[0] > 5 and returns[1] < -5
    np.testing.assert_array_equal(rollout.states.grid[0, 0], rollout.states.grid[1, 0])
    return_BT, observation_BTP, action_BT = map(np.asarray, calls[-1])
    to_go = 1e3 - np.concatenate([[0], np.cumsum(rollout.rewards[0])[:-1]])
    np.testing.assert_allclose(return_BT[0], to_go)
    np.testing.assert_array_equal(action_BT[0, :-1], rollout.actions[0, :-1])
    states = jax.tree.map(lambda leaf: leaf[0], rollout.states)
    own = jax.jit(jax.vmap(apple_grid.observe))(states)
    np.testing.assert_array_equal(observation_BTP[0], own)
