"""A grid world: apples are worth 1, thorns -1.

The grid is a torus of 7 x 7 cells with ten of each at random; what the agent steps on
is removed. An episode of 24 steps is too short to collect everything; returns range
from about -9, for a policy that seeks the thorns, to about 9.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from transformer.environments.environment import Environment

SIDE, APPLES, THORNS, STEPS = 7, 10, 10, 24
MOVES = np.array([[-1, 0], [1, 0], [0, -1], [0, 1]])
ACTION_NAMES = ("up", "down", "left", "right")
# Of the scripted policy: discount per step of distance, and inverse temperature.
DISCOUNT = 0.4
SHARPNESS = 12.0


class State(NamedTuple):
    """grid: float32 [7, 7], 1 for an apple, -1 for thorns. position: int32 [2]."""

    grid: jax.Array
    position: jax.Array


def reset(key: jax.Array) -> State:
    """A random grid, with the agent on an empty cell."""
    cells = jnp.zeros(SIDE * SIDE).at[:APPLES].set(1.0)
    cells = cells.at[APPLES : APPLES + THORNS].set(-1.0)
    order = jax.random.permutation(key, SIDE * SIDE)
    grid = jnp.zeros(SIDE * SIDE).at[order].set(cells).reshape(SIDE, SIDE)
    # The last cell of the order is empty.
    return State(grid, jnp.stack([order[-1] // SIDE, order[-1] % SIDE]))


def egocentric_grid(state: State) -> jax.Array:
    """The grid with the agent in the middle, [7, 7]."""
    shift = SIDE // 2 - state.position
    return jnp.roll(state.grid, shift, axis=(0, 1))


def observe(state: State) -> jax.Array:
    """Indicators of apples and of thorns, relative to the agent: float32 [98]."""
    grid = egocentric_grid(state).reshape(-1)
    return jnp.concatenate([grid > 0, grid < 0]).astype(jnp.float32)


def step(state: State, action: jax.Array) -> tuple[State, jax.Array]:
    """Move to a neighboring cell; the reward is that cell's value."""
    row, column = (state.position + jnp.asarray(MOVES)[action]) % SIDE
    reward = state.grid[row, column]
    grid = state.grid.at[row, column].set(0.0)
    return State(grid, jnp.stack([row, column])), reward


def _move_discounts() -> np.ndarray:
    """[4, 7, 7]: the discount of each cell relative to the agent, after each move."""
    here = np.stack(np.meshgrid(*[np.arange(SIDE)] * 2, indexing="ij"), -1)
    distance = np.abs(here[None] - (SIDE // 2 + MOVES[:, None, None]))
    return DISCOUNT ** np.minimum(distance, SIDE - distance).sum(-1)


MOVE_DISCOUNTS = _move_discounts()


def policy(state: State, key: jax.Array, quality: jax.Array) -> jax.Array:
    """A sampled action of the scripted policy: quality 1 seeks apples, 0 is uniform, -1
    seeks thorns."""
    value = (MOVE_DISCOUNTS * egocentric_grid(state)[None]).sum((1, 2))
    return jax.random.categorical(key, SHARPNESS * quality * value)


ENVIRONMENT = Environment(
    reset, observe, step, features=2 * SIDE * SIDE, actions=len(MOVES), steps=STEPS
)
