"""Acting in a world by a model of episodes: see, ask, decide, and see what comes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Walk(NamedTuple):
    """Episodes as they came about: states, each leaf [N, T, ...], before every step;
    actions int32 [N, T]; rewards float32 [N, T]."""

    states: Any
    actions: jax.Array
    rewards: jax.Array


def walked(
    world: Any,
    decide: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
    key: jax.Array,
    asked_B: jax.Array,
    *,
    same: bool = False,
) -> Walk:
    """An episode for each return asked for, of a `world` as `environments.environment`
    describes it.

    decide(asked_BT, seen_BTP, done_BT): logits (B, T, V) of every step's action, each
    from what came before it; what is not yet known is zero. What is asked for falls by
    what was gained, and actions are drawn. same: all begin in the same state.
    """
    rows = asked_B.shape[0]
    start_key, draw_key = (jax.random.fold_in(key, i) for i in (0, 1))
    keys = jax.random.split(start_key, rows)
    state = jax.vmap(world.reset)(jnp.where(same, keys[:1], keys))
    begun = (
        jnp.zeros((rows, world.steps)),
        jnp.zeros((rows, world.steps, world.features)),
        jnp.zeros((rows, world.steps), jnp.int32),
    )

    def step(carry: Any, number: jax.Array) -> Any:
        (asked_BT, seen_BTP, done_BT), state, left_B = carry
        asked_BT = asked_BT.at[:, number].set(left_B)
        seen_BTP = seen_BTP.at[:, number].set(jax.vmap(world.observe)(state))
        logits_BV = decide(asked_BT, seen_BTP, done_BT)[:, number]
        draw = jax.random.fold_in(draw_key, number)
        action_B = jax.random.categorical(draw, logits_BV).astype(jnp.int32)
        after, gained_B = jax.vmap(world.step)(state, action_B)
        known = asked_BT, seen_BTP, done_BT.at[:, number].set(action_B)
        return (known, after, left_B - gained_B), (state, action_B, gained_B)

    carry = begun, state, jnp.asarray(asked_B, jnp.float32)
    told = jax.lax.scan(step, carry, jnp.arange(world.steps))[1]
    states, action_TB, gained_TB = jax.tree.map(lambda a: jnp.moveaxis(a, 0, 1), told)
    return Walk(states, action_TB, gained_TB)


def followed(asked: np.ndarray, got: np.ndarray, lines: dict[str, float]) -> Any:
    """A matplotlib figure: what was gained by what was asked for, and other walkers."""
    from matplotlib.figure import Figure

    figure = Figure((5.6, 4.2), layout="constrained")
    axes = figure.subplots()
    values = np.unique(asked)
    mean = np.array([got[asked == value].mean() for value in values])
    spread = np.array([got[asked == value].std() for value in values])
    axes.plot(values, values, color="#bbbbbb", label="as asked")
    axes.errorbar(values, mean, spread, fmt="o-", capsize=3, label="gained")
    for style, (name, value) in zip((":", "--", "-."), lines.items(), strict=True):
        axes.axhline(value, color="#777777", linestyle=style, linewidth=1, label=name)
    axes.set(xlabel="return asked for", ylabel="return gained")
    axes.legend(frameon=False)
    return figure
