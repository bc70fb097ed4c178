"""The interface of every generative process: corrupt -> predict -> update."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax


class NoisedExample(NamedTuple):
    """A training example at some time: the model's inputs, its targets, and the weight
    of each prediction, (B, L) float32."""

    inputs: jax.Array
    target: jax.Array
    weight_BL: jax.Array


class Process(NamedTuple):
    """A path from a prior at time 0 to the data at time 1, as functions.

    sample_time(key, rows): training times (B,). corrupt(x, t_B, key): `NoisedExample`.
    prior(key, like): a sample at time 0, of the shape and dtype of `like`.
    update(x, prediction, t, t_next, key): x at t_next, from the model's prediction at
    t; both are scalars on the grid `times(steps)`.
    times(steps): the `steps` + 1 times 0, ..., 1 of a generation in `steps` steps.
    """

    sample_time: Callable[[jax.Array, int], jax.Array]
    corrupt: Callable[[jax.Array, jax.Array, jax.Array], NoisedExample]
    prior: Callable[[jax.Array, Any], jax.Array]
    update: Callable[..., jax.Array]
    times: Callable[[int], jax.Array]
