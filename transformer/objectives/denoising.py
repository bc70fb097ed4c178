"""The one objective of all that is generated: hide, predict, compare.

The process says what is hidden and what is asked for (`transformer/processes`), the
measure how far off a prediction is: `language.cross_entropy` for symbols,
`squared_error` for velocities and fields.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from transformer.objectives.loss import Loss
from transformer.processes.process import Process

Measure = Callable[[jax.Array, jax.Array, jax.Array], Loss]
Predict = Callable[[jax.Array, jax.Array], jax.Array]


def squared_error(
    prediction_BLP: jax.Array, target_BLP: jax.Array, weight_BL: jax.Array
) -> Loss:
    """Mean over a token's features of (prediction - target)^2, summed over the weighted
    tokens, in float32."""
    wide_BLP = prediction_BLP.astype(jnp.float32) - target_BLP.astype(jnp.float32)
    total = jnp.sum(jnp.square(wide_BLP).mean(-1) * weight_BL)
    return Loss(total, weight_BL.sum(), {"squared_error": total})


def grey_cross_entropy(
    logits_BLP: jax.Array, target_BLP: jax.Array, weight_BL: jax.Array
) -> Loss:
    """Cross-entropy of greys from 0 to 1, each the chance of white (Srivastava et al.
    2015, arXiv 1502.04681, section 4.1): mean over a token's features, summed over the
    weighted tokens, in nats. sums: squared_error, of the sigmoids, likewise."""
    z_BLP, grey_BLP = logits_BLP.astype(jnp.float32), target_BLP.astype(jnp.float32)
    nats_BLP = jax.nn.softplus(z_BLP) - grey_BLP * z_BLP
    total = jnp.sum(nats_BLP.mean(-1) * weight_BL)
    error = squared_error(jax.nn.sigmoid(z_BLP), grey_BLP, weight_BL)
    return Loss(total, weight_BL.sum(), error.sums)


def hidden(
    process: Process,
    measure: Measure,
    predict: Predict,
    x: jax.Array,
    key: jax.Array,
    *,
    weight_B: jax.Array | float = 1.0,
) -> Loss:
    """`measure` of what the model predicts of x, hidden as at a random time.

    predict(seen, t_B): the model. Each row has a time of its own. weight_B: how much
    each row counts, 0 where it only fills up a batch.
    """
    time_key, hide_key = (jax.random.fold_in(key, i) for i in (0, 1))
    t_B = process.time(time_key, x.shape[0])
    corrupted = process.corrupt(x, t_B, hide_key)
    prediction = predict(corrupted.seen, t_B)
    counted_B = jnp.broadcast_to(jnp.asarray(weight_B), t_B.shape)
    weight_BL = corrupted.weight_BL * counted_B[:, None]
    return measure(prediction, corrupted.target, weight_BL)


def forgotten(
    label_B: jax.Array, key: jax.Array, *, share: float, none: int
) -> jax.Array:
    """The labels, a `share` of them `none`, so that a model learns both with a class
    and without (Ho and Salimans 2022, arXiv 2207.12598, algorithm 1)."""
    chance_B = jax.random.uniform(jax.random.fold_in(key, 2), label_B.shape)
    return jnp.where(chance_B < share, none, label_B)
