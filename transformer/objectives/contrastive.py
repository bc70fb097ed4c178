"""Contrastive losses: pair the two views of each row among those of a batch, by a
softmax (CLIP, Radford et al. 2021, arXiv 2103.00020, figure 3; InfoNCE, van den Oord et
al. 2018, arXiv 1807.03748, equation 4) or a sigmoid of each pair (SigLIP, Zhai et al.
2023, arXiv 2303.15343, equation 1).

The other rows of the batch are a row's negatives; those of weight 0 are excluded.
Devices see the negatives of the whole batch, so their sums add as those of any loss do.
Those of accumulated microbatches do not: each has its own rows as negatives only, an
easier task with a lower loss. Losses of different batch sizes cannot be compared.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from transformer.objectives import cross_entropy
from transformer.objectives.loss import Loss


def clip_loss(
    image_BD: jax.Array,
    text_BD: jax.Array,
    weight_B: jax.Array,
    *,
    temperature: float,
) -> Loss:
    """`softmax_loss` of cosine similarities divided by the temperature. Both inputs
    (B, D) are of length 1."""
    candidates_CD = text_BD
    cosine_BC = jnp.einsum(
        "BD,CD->BC", image_BD, candidates_CD, preferred_element_type=jnp.float32
    )
    return softmax_loss(cosine_BC / temperature, weight_B)


def softmax_loss(score_BC: jax.Array, weight_B: jax.Array) -> Loss:
    """Half of -log p(its text | an image) - log p(its image | a text), summed over the
    weighted rows, where p is a softmax over the batch of the scores of images B with
    texts C, of which row n pairs with column n. sums: nats, correct, rows; correct
    counts the images whose own text has the highest score, of equals the first."""
    logits_BC = _exclude(score_BC, weight_B)
    pair_B = jnp.diagonal(logits_BC)
    image_nats_B = jax.nn.logsumexp(logits_BC, axis=1) - pair_B
    text_nats_B = jax.nn.logsumexp(logits_BC, axis=0) - pair_B
    nats_B = (image_nats_B + text_nats_B) / 2
    return _loss(nats_B, logits_BC, weight_B)


def sigmoid_loss(score_BC: jax.Array, weight_B: jax.Array) -> Loss:
    """-log p(all pairs of an image), summed over the weighted images, where the
    probability that an image and a text are a pair is the sigmoid of their score.
    Scores and sums are those of `softmax_loss`."""
    logits_BC = _exclude(score_BC, weight_B)
    sign_BC = 2 * jnp.eye(len(weight_B)) - 1
    nats_BC = jax.nn.softplus(-sign_BC * logits_BC)
    # That of an excluded text, which is no pair, is 0.
    return _loss(nats_BC.sum(1), logits_BC, weight_B)


def _exclude(score_BC: jax.Array, weight_B: jax.Array) -> jax.Array:
    """The scores of rows and columns of a weight. The others are finite, so that the
    gradient of an excluded row has no NaN."""
    real_B = weight_B > 0
    return jnp.where(real_B[:, None] & real_B[None], score_BC, -1e9)


def _loss(nats_B: jax.Array, logits_BC: jax.Array, weight_B: jax.Array) -> Loss:
    pair_B = jnp.diagonal(logits_BC)
    total = jnp.sum(nats_B * weight_B)
    correct_B = cross_entropy.is_best(logits_BC, pair_B, jnp.arange(len(pair_B)))
    correct = jnp.sum(correct_B * weight_B)
    rows = weight_B.sum()
    return Loss(total, rows, {"nats": total, "correct": correct, "rows": rows})


def pair_metrics(loss: Loss) -> dict[str, float]:
    """Mean loss, and the fraction of images whose text is the nearest in the batch."""
    return {
        "loss": float(loss.sums["nats"]) / float(loss.weight),
        "accuracy": float(loss.sums["correct"]) / float(loss.sums["rows"]),
    }
