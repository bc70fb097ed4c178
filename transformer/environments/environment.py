"""An environment as pure functions, and episodes of a policy in it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np


class Environment(NamedTuple):
    """One episode at a time; `jax.vmap` makes a batch.

    reset(key) -> state, a pytree. observe(state) -> float32 [features]. step(state,
    action) -> (state, reward), action int32 below `actions`. steps: of an episode.
    """

    reset: Callable[[jax.Array], Any]
    observe: Callable[[Any], jax.Array]
    step: Callable[[Any, jax.Array], tuple[Any, jax.Array]]
    features: int
    actions: int
    steps: int


class Episodes(NamedTuple):
    """observations float32 [B, T, features], actions int32 [B, T], rewards float32
    [B, T]."""

    observations: jax.Array
    actions: jax.Array
    rewards: jax.Array


def play_episodes(
    environment: Environment,
    policy: Callable[[Any, jax.Array, jax.Array], jax.Array],
    key: jax.Array,
    quality_B: jax.Array,
) -> Episodes:
    """An episode for each quality, of a scripted policy(state, key, quality) -> action
    that sees the full state."""

    def play(key: jax.Array, quality: jax.Array) -> Episodes:
        reset_key, step_key = (jax.random.fold_in(key, i) for i in (0, 1))

        def step(state: Any, key: jax.Array) -> Any:
            observation = environment.observe(state)
            action = policy(state, key, quality)
            state, reward = environment.step(state, action)
            return state, Episodes(observation, action, reward)

        keys = jax.random.split(step_key, environment.steps)
        return jax.lax.scan(step, environment.reset(reset_key), keys)[1]

    return jax.vmap(play)(jax.random.split(key, len(quality_B)), quality_B)


def scripted_dataset(
    environment: Environment,
    policy: Callable[[Any, jax.Array, jax.Array], jax.Array],
    key: jax.Array,
    *,
    episodes: int,
    quality: tuple[float, float],
) -> dict[str, np.ndarray]:
    """Arrays of a decision transformer, numpy: the observations as int8 (indicators)
    and actions of `play_episodes`, of qualities uniform between the two,
    `return_to_go_BT`, the sum of the rewards from each step on, and `length_B`."""
    quality_key, play_key = (jax.random.fold_in(key, i) for i in (0, 1))
    low, high = quality
    quality_B = jax.random.uniform(quality_key, (episodes,), minval=low, maxval=high)
    play = jax.jit(partial(play_episodes, environment, policy))
    observations, actions, rewards = jax.device_get(play(play_key, quality_B))
    return {
        "return_to_go_BT": rewards[:, ::-1].cumsum(1)[:, ::-1],
        "observation_BTP": observations.astype(np.int8),
        "action_BT": actions,
        "length_B": np.full(len(actions), environment.steps, np.int32),
    }
