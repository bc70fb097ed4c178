"""The one interface of all that is generated: corrupt -> predict -> update."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax


class Corrupted(NamedTuple):
    """A training example at some time: what the model sees, what it should predict of
    it, and how much each prediction counts, (B, L) float32."""

    seen: jax.Array
    target: jax.Array
    weight_BL: jax.Array


class Process(NamedTuple):
    """Between nothing at time 0 and the data at time 1; x is the data's shape.

    time(key, rows): times (B,) to train at. corrupt(x, t_B, key): `Corrupted`.
    start(key, like): nothing, for an x of the shape and dtype of `like`.
    update(x, prediction, t, later, key): x one step later, t and later scalars, from
    the model's prediction of x at t. Both times are on the grid `times(steps)`.
    times(steps): the numbers 0, ..., 1 at which a generation of `steps` steps stops.
    """

    time: Callable[[jax.Array, int], jax.Array]
    corrupt: Callable[[jax.Array, jax.Array, jax.Array], Corrupted]
    start: Callable[[jax.Array, Any], jax.Array]
    update: Callable[..., jax.Array]
    times: Callable[[int], jax.Array]
