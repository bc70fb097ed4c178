"""The contrastive loss of CLIP: pair the two views of each row among those of a batch
(Radford et al. 2021, arXiv 2103.00020, figure 3; InfoNCE, van den Oord et al. 2018,
arXiv 1807.03748, equation 4)."""

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
    """Half of -log p(its text | an image) - log p(its image | a text), summed over the
    weighted rows, where p is a softmax over the batch of cosine similarities divided by
    the temperature. Both inputs (B, D) are of length 1. sums: nats, correct, rows;
    correct counts the images whose own text is the nearest, of equals the first.

    The other rows of the batch are a row's negatives; those of weight 0 are excluded.
    Devices see the negatives of the whole batch, so their sums add as those of any loss
    do. Those of accumulated microbatches do not: each has its own rows as negatives
    only, an easier task with a lower loss. Losses of different batch sizes cannot be
    compared.
    """
    candidates_CD = text_BD
    cosine_BC = jnp.einsum(
        "BD,CD->BC", image_BD, candidates_CD, preferred_element_type=jnp.float32
    )
    real_B = weight_B > 0
    real_BC = real_B[:, None] & real_B[None]
    # Finite, so that the gradient of an excluded row has no NaN.
    logits_BC = jnp.where(real_BC, cosine_BC / temperature, -1e9)
    pair_B = jnp.diagonal(logits_BC)
    image_nats_B = jax.nn.logsumexp(logits_BC, axis=1) - pair_B
    text_nats_B = jax.nn.logsumexp(logits_BC, axis=0) - pair_B
    total = jnp.sum((image_nats_B + text_nats_B) / 2 * weight_B)
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
