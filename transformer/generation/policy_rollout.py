"""Rollouts of a decision transformer in an environment, conditioned on a return."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Rollout(NamedTuple):
    """Episodes: states before each step, each leaf [B, T, ...]; actions int32 [B, T];
    rewards float32 [B, T]."""

    states: Any
    actions: jax.Array
    rewards: jax.Array


def policy_rollout(
    environment: Any,
    policy: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
    key: jax.Array,
    target_return_B: jax.Array,
    *,
    same_start: bool = False,
) -> Rollout:
    """An episode for each target return, in an `environments.environment.Environment`
    (Chen et al. 2021, arXiv 2106.01345, algorithm 1).

    policy(return_to_go_BT, observation_BTP, action_BT): logits (B, T, V) of the action
    of every step from what precedes it; later entries are zero. Actions are sampled;
    the return to go falls by each reward. same_start: all begin in the same state.
    """
    rows, steps = target_return_B.shape[0], environment.steps
    reset_key, sample_key = (jax.random.fold_in(key, i) for i in (0, 1))
    keys = jax.random.split(reset_key, rows)
    state = jax.vmap(environment.reset)(jnp.where(same_start, keys[:1], keys))
    history = (
        jnp.zeros((rows, steps)),
        jnp.zeros((rows, steps, environment.features)),
        jnp.zeros((rows, steps), jnp.int32),
    )

    def step(carry: Any, number: jax.Array) -> Any:
        (return_BT, observation_BTP, action_BT), state, to_go_B = carry
        observation_BP = jax.vmap(environment.observe)(state)
        return_BT = return_BT.at[:, number].set(to_go_B)
        observation_BTP = observation_BTP.at[:, number].set(observation_BP)
        logits_BV = policy(return_BT, observation_BTP, action_BT)[:, number]
        step_key = jax.random.fold_in(sample_key, number)
        action_B = jax.random.categorical(step_key, logits_BV).astype(jnp.int32)
        after, reward_B = jax.vmap(environment.step)(state, action_B)
        action_BT = action_BT.at[:, number].set(action_B)
        history = return_BT, observation_BTP, action_BT
        return (history, after, to_go_B - reward_B), (state, action_B, reward_B)

    carry = history, state, jnp.asarray(target_return_B, jnp.float32)
    outputs = jax.lax.scan(step, carry, jnp.arange(steps))[1]
    states, action_BT, reward_BT = jax.tree.map(
        lambda leaf: jnp.moveaxis(leaf, 0, 1), outputs
    )
    return Rollout(states, action_BT, reward_BT)
