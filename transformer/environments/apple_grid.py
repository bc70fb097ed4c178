"""An orchard without edges: walk and gather apples, worth 1; thorns cost 1.

The field is a torus of 7 x 7 with ten of each at random; what is walked upon is gone.
Twenty-four steps are too few for all of it, so what an episode gains tells how well it
was walked, from some -9 for one who seeks the thorns to some 9.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from transformer.environments.environment import Environment

SIDE, APPLES, THORNS, STEPS = 7, 10, 10, 24
MOVES = np.array([[-1, 0], [1, 0], [0, -1], [0, 1]])
NAMES = ("up", "down", "left", "right")
# How much less a thing is worth for every step that it is away, to the scripted policy.
DISCOUNT = 0.4
SHARPNESS = 12.0


class State(NamedTuple):
    """field: float32 [7, 7], 1 for an apple, -1 for thorns. place: int32 [2]."""

    field: jax.Array
    place: jax.Array


def reset(key: jax.Array) -> State:
    """Everything in its random place, and the walker in the middle of an empty cell."""
    cells = jnp.zeros(SIDE * SIDE).at[:APPLES].set(1.0)
    cells = cells.at[APPLES : APPLES + THORNS].set(-1.0)
    order = jax.random.permutation(key, SIDE * SIDE)
    field = jnp.zeros(SIDE * SIDE).at[order].set(cells).reshape(SIDE, SIDE)
    # The last in the order is empty.
    return State(field, jnp.stack([order[-1] // SIDE, order[-1] % SIDE]))


def centred(state: State) -> jax.Array:
    """The field as the walker sees it, itself in the middle, [7, 7]."""
    shift = SIDE // 2 - state.place
    return jnp.roll(state.field, shift, axis=(0, 1))


def observe(state: State) -> jax.Array:
    """Where apples are, and where thorns are, seen from the walker: float32 [98]."""
    field = centred(state).reshape(-1)
    return jnp.concatenate([field > 0, field < 0]).astype(jnp.float32)


def step(state: State, action: jax.Array) -> tuple[State, jax.Array]:
    """A step to a neighbouring cell, and what was there."""
    row, column = (state.place + jnp.asarray(MOVES)[action]) % SIDE
    reward = state.field[row, column]
    field = state.field.at[row, column].set(0.0)
    return State(field, jnp.stack([row, column])), reward


def _nearness() -> np.ndarray:
    """[4, 7, 7]: the discount of each cell, seen from the walker, after each move."""
    here = np.stack(np.meshgrid(*[np.arange(SIDE)] * 2, indexing="ij"), -1)
    apart = np.abs(here[None] - (SIDE // 2 + MOVES[:, None, None]))
    return DISCOUNT ** np.minimum(apart, SIDE - apart).sum(-1)


NEARNESS = _nearness()


def policy(state: State, key: jax.Array, quality: jax.Array) -> jax.Array:
    """A move drawn by what lies ahead of each: quality 1 goes where apples are, 0
    anywhere, -1 into the thorns."""
    ahead = (NEARNESS * centred(state)[None]).sum((1, 2))
    return jax.random.categorical(key, SHARPNESS * quality * ahead)


WORLD = Environment(
    reset, observe, step, features=2 * SIDE * SIDE, actions=len(MOVES), steps=STEPS
)
