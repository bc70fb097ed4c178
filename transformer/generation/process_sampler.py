"""Generation along a process: from nothing, step by step, to a sample."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from transformer.processes.process import Process

Predict = Callable[[jax.Array, jax.Array], jax.Array]


def sampled(
    process: Process, predict: Predict, key: jax.Array, *, like: Any, steps: int
) -> jax.Array:
    """A sample of the shape and dtype of `like`, in one compiled loop.

    predict(x, t_B): the model's prediction of x at time t, what `objectives.denoising`
    trains. steps: of generation; fewer are faster and coarser (autoregression takes
    exactly L).
    """
    if steps < 1:
        raise ValueError(f"steps: expected at least 1, got {steps}")
    times = process.times(steps)
    start_key, walk_key = (jax.random.fold_in(key, i) for i in (0, 1))

    def step(number: jax.Array, x: jax.Array) -> jax.Array:
        t, later = times[number], times[number + 1]
        prediction = predict(x, jnp.broadcast_to(t, x.shape[:1]))
        step_key = jax.random.fold_in(walk_key, number)
        return process.update(x, prediction, t, later, step_key)

    return jax.lax.fori_loop(0, steps, step, process.start(start_key, like))


def guided(predict: Predict, predict_without: Predict, *, scale: float) -> Predict:
    """Classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598, equation 6):
    scale 1 is `predict`; more exaggerates what the condition changes."""

    def guide(x: jax.Array, t_B: jax.Array) -> jax.Array:
        without = predict_without(x, t_B)
        return without + scale * (predict(x, t_B) - without)

    return guide


def classes(
    process: Process,
    predict: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
    label_B: jax.Array,
    key: jax.Array,
    *,
    like: Any,
    steps: int,
    none: int,
    scale: float,
) -> jax.Array:
    """A sample of each of the classes `label_B`, guided away from the class `none`.

    predict(label_B, x, t_B): the model. like: of one row.
    """
    none_B = jnp.full_like(label_B, none)
    both = partial(predict, label_B), partial(predict, none_B)
    rows = jax.ShapeDtypeStruct((len(label_B), *like.shape[1:]), like.dtype)
    told = guided(*both, scale=scale)
    return sampled(process, told, key, like=rows, steps=steps)
