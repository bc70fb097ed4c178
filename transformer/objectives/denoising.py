"""The training objective of every generative process: corrupt, predict, compare.

The process gives inputs and targets (`transformer/processes`), `compare` the loss of a
prediction: `cross_entropy.cross_entropy` for tokens, `squared_error` for velocities and
fields.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from transformer.objectives.loss import Loss
from transformer.processes.process import Process

Compare = Callable[[jax.Array, jax.Array, jax.Array], Loss]
Predict = Callable[[jax.Array, jax.Array], jax.Array]


def squared_error(
    prediction_BLP: jax.Array, target_BLP: jax.Array, weight_BL: jax.Array
) -> Loss:
    """Mean over a token's features of (prediction - target)^2, summed over the weighted
    tokens, in float32."""
    error_BLP = prediction_BLP.astype(jnp.float32) - target_BLP.astype(jnp.float32)
    total = jnp.sum(jnp.square(error_BLP).mean(-1) * weight_BL)
    return Loss(total, weight_BL.sum(), {"squared_error": total})


def pixel_cross_entropy(
    logits_BLP: jax.Array, target_BLP: jax.Array, weight_BL: jax.Array
) -> Loss:
    """Binary cross-entropy of gray values from 0 to 1, read as probabilities of white
    (Srivastava et al. 2015, arXiv 1502.04681, section 4.1): mean over a token's
    features, summed over the weighted tokens, in nats. sums: squared_error, of the
    sigmoids, likewise."""
    z_BLP, gray_BLP = logits_BLP.astype(jnp.float32), target_BLP.astype(jnp.float32)
    nats_BLP = jax.nn.softplus(z_BLP) - gray_BLP * z_BLP
    total = jnp.sum(nats_BLP.mean(-1) * weight_BL)
    error = squared_error(jax.nn.sigmoid(z_BLP), gray_BLP, weight_BL)
    return Loss(total, weight_BL.sum(), error.sums)


def denoising_loss(
    process: Process,
    compare: Compare,
    predict: Predict,
    x: jax.Array,
    key: jax.Array,
    *,
    weight_B: jax.Array | float = 1.0,
) -> Loss:
    """compare(prediction, target, weight_BL) of x, corrupted at a random time.

    predict(inputs, t_B): the model. Each row has its own time. weight_B: of each row, 0
    for those that only fill up the batch.
    """
    time_key, corrupt_key = (jax.random.fold_in(key, i) for i in (0, 1))
    t_B = process.sample_time(time_key, x.shape[0])
    example = process.corrupt(x, t_B, corrupt_key)
    prediction = predict(example.inputs, t_B)
    row_weight_B = jnp.broadcast_to(jnp.asarray(weight_B), t_B.shape)
    weight_BL = example.weight_BL * row_weight_B[:, None]
    return compare(prediction, example.target, weight_BL)


def drop_labels(
    label_B: jax.Array, key: jax.Array, *, rate: float, null_label: int
) -> jax.Array:
    """The labels, a fraction `rate` of them replaced by `null_label`, for
    classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598, algorithm 1)."""
    uniform_B = jax.random.uniform(jax.random.fold_in(key, 2), label_B.shape)
    return jnp.where(uniform_B < rate, null_label, label_B)


def drop_texts(
    text: tuple[jax.Array, ...],
    null_text: tuple[Any, ...],
    key: jax.Array,
    *,
    rate: float,
) -> tuple[jax.Array, ...]:
    """As `drop_labels`, of texts (ids_BL, segment_BL) and what else comes with them, of
    any rank; `null_text` has one row."""
    one_B = jnp.ones(len(text[0]), jnp.int32)
    keep_B = drop_labels(one_B, key, rate=rate, null_label=0) > 0

    def choose(array: jax.Array, null: Any) -> jax.Array:
        return jnp.where(jnp.expand_dims(keep_B, range(1, array.ndim)), array, null)

    return tuple(map(choose, text, null_text))


def class_conditional_loss(
    compare: Compare,
    predict: Callable[..., jax.Array],
    params: Any,
    batch: Mapping[str, jax.Array],
    key: jax.Array,
    *,
    process: Process,
    inputs: str,
    null_label: int,
    label_dropout: float = 0.0,
) -> Loss:
    """`denoising_loss` of the rows batch[inputs] given their classes `label_B`, after
    `drop_labels`. predict(params, label_B, x, t_B): the model."""
    label_B = drop_labels(
        batch["label_B"], key, rate=label_dropout, null_label=null_label
    )
    conditional = partial(predict, params, label_B)
    weight_B = batch["weight_B"]
    return denoising_loss(
        process, compare, conditional, batch[inputs], key, weight_B=weight_B
    )


def squared_error_metrics(loss: Loss) -> dict[str, float]:
    """Mean loss and mean squared error."""
    weight = float(loss.weight)
    error = float(loss.sums["squared_error"]) / weight
    return {"loss": float(loss.total) / weight, "squared_error": error}
