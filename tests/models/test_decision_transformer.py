"""The decision transformer: what an action depends on."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from cases import random_params

from transformer.models import decision_transformer

ROWS, STEPS, ACTIONS, FEATURES = 2, 12, 4, 6
NET = decision_transformer.decision_transformer(
    actions=ACTIONS, observation_features=FEATURES, depth=1, width=32
)


@jax.jit
def logits(params: Any, *inputs: jax.Array) -> Any:
    return NET.apply({"params": params}, *inputs)


def test_an_action_depends_on_its_return_and_observation_and_on_earlier_actions() -> (
    None
):
    """But not on itself or on later steps."""
    params = random_params(NET, init_params=decision_transformer.init_params)
    rng = np.random.default_rng(0)
    returns = jnp.asarray(rng.normal(size=(ROWS, STEPS)), jnp.float32)
    shape = ROWS, STEPS, FEATURES
    observations = jnp.asarray(rng.normal(size=shape), jnp.float32)
    actions = jnp.asarray(rng.integers(0, ACTIONS, (ROWS, STEPS)), jnp.int32)
    base = logits(params, returns, observations, actions)

    def first_change(*inputs: jax.Array) -> int:
        difference = np.abs(np.asarray(logits(params, *inputs) - base)).max((0, 2))
        return int(np.argmax(difference > 1e-5))

    assert first_change(returns.at[:, 7].add(3.0), observations, actions) == 7
    assert first_change(returns, observations.at[:, 7].add(1.0), actions) == 7
    other = actions.at[:, 7].set((actions[:, 7] + 1) % ACTIONS)
    assert first_change(returns, observations, other) == 8
