"""A world in which something acts, and how to let it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax


class Environment(NamedTuple):
    """A world as pure functions, one episode at a time; `jax.vmap` makes many.

    reset(key) -> state, a pytree. observe(state) -> float32 [features], what the one
    who acts sees. step(state, action) -> (state, reward), action int32 below `actions`.
    steps: of an episode.
    """

    reset: Callable[[jax.Array], Any]
    observe: Callable[[Any], jax.Array]
    step: Callable[[Any, jax.Array], tuple[Any, jax.Array]]
    features: int
    actions: int
    steps: int


class Episodes(NamedTuple):
    """What was seen, done and gained: observations float32 [N, T, features], actions
    int32 [N, T], rewards float32 [N, T]."""

    observations: jax.Array
    actions: jax.Array
    rewards: jax.Array


def played(
    world: Environment,
    policy: Callable[[Any, jax.Array, jax.Array], jax.Array],
    key: jax.Array,
    temper: jax.Array,
) -> Episodes:
    """An episode for each temper [N], by policy(state, key, its temper) -> action,
    which sees the state itself."""

    def one(key: jax.Array, temper: jax.Array) -> Episodes:
        start_key, walk_key = (jax.random.fold_in(key, i) for i in (0, 1))

        def step(state: Any, key: jax.Array) -> Any:
            seen, action = world.observe(state), policy(state, key, temper)
            state, reward = world.step(state, action)
            return state, Episodes(seen, action, reward)

        keys = jax.random.split(walk_key, world.steps)
        return jax.lax.scan(step, world.reset(start_key), keys)[1]

    return jax.vmap(one)(jax.random.split(key, len(temper)), temper)
