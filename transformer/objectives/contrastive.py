"""Which of these belongs to which: two views of each row of a batch, told from those of
the other rows (CLIP, Radford et al. 2021, arXiv 2103.00020, figure 3; InfoNCE, van den
Oord et al. 2018, arXiv 1807.03748, equation 4)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from transformer.objectives.loss import Loss


def symmetric(
    first_BD: jax.Array,
    second_BD: jax.Array,
    weight_B: jax.Array,
    *,
    temperature: float,
) -> Loss:
    """Half of -log p(its second | a first) - log p(its first | a second), summed over
    the rows by their weight, where p is a softmax over the batch of cosines divided by
    the temperature. Vectors of length 1. sums: nats, correct, rows; correct counts the
    firsts whose own second is the nearest.

    A row's loss depends on the other rows: they are what it is told from, and one of
    weight 0 is nobody's. So the sums of a batch's rows add over devices, which see the
    whole batch, as those of any loss do. They do not over parts that are accumulated:
    each part has only its own rows to tell apart, an easier task with a lower loss.
    Losses of batches of different sizes cannot be compared.
    """
    candidates_CD = second_BD
    cosine_BC = jnp.einsum(
        "BD,CD->BC", first_BD, candidates_CD, preferred_element_type=jnp.float32
    )
    there_B = weight_B > 0
    both_BC = there_B[:, None] & there_B[None]
    # Finite, so that a row that is nobody's has no NaN in its gradient.
    logits_BC = jnp.where(both_BC, cosine_BC / temperature, -1e9)
    own_B = jnp.diagonal(logits_BC)
    told_B = jax.nn.logsumexp(logits_BC, axis=1) - own_B
    back_B = jax.nn.logsumexp(logits_BC, axis=0) - own_B
    total = jnp.sum((told_B + back_B) / 2 * weight_B)
    correct = jnp.sum((own_B >= logits_BC.max(1)) * weight_B)
    rows = weight_B.sum()
    return Loss(total, rows, {"nats": total, "correct": correct, "rows": rows})
