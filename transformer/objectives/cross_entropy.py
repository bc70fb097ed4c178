"""Next-token objectives over logits, and how to avoid holding the logits whole.

Each takes float32 logits (B, L, V), int32 targets (B, L) and float32 weights (B, L),
and returns a `Loss` in nats: sums, not means.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from transformer.objectives.loss import Loss

Objective = Callable[[jax.Array, jax.Array, jax.Array], Loss]


def cross_entropy(
    logits_BLV: jax.Array, targets_BL: jax.Array, weight_BL: jax.Array
) -> Loss:
    """-log p(target), summed over the weighted targets; sums: nats, correct, tokens."""
    peak_BL = logits_BLV.max(-1)
    log_total_BL = jax.nn.logsumexp(logits_BLV, axis=-1)
    chosen_BL = jnp.take_along_axis(logits_BLV, targets_BL[..., None], axis=-1)[..., 0]
    nats = jnp.sum((log_total_BL - chosen_BL) * weight_BL)
    correct = jnp.sum((chosen_BL >= peak_BL) * weight_BL)
    tokens = weight_BL.sum()
    return Loss(nats, tokens, {"nats": nats, "correct": correct, "tokens": tokens})


def label_smoothing(amount: float) -> Objective:
    """Cross-entropy against (1 - amount) on the target and amount / V on every symbol
    (Szegedy et al. 2015, arXiv 1512.00567, section 7). `nats` stays unsmoothed."""

    def smoothed(
        logits_BLV: jax.Array, targets_BL: jax.Array, weight_BL: jax.Array
    ) -> Loss:
        loss = cross_entropy(logits_BLV, targets_BL, weight_BL)
        log_total_BL = jax.nn.logsumexp(logits_BLV, axis=-1)
        uniform = jnp.sum((log_total_BL - logits_BLV.mean(-1)) * weight_BL)
        return loss._replace(total=(1 - amount) * loss.total + amount * uniform)

    return smoothed


def z_loss(objective: Objective, coefficient: float) -> Objective:
    """`objective` plus coefficient * (log of the softmax's total)^2, which keeps logits
    from drifting (PaLM, Chowdhery et al. 2022, arXiv 2204.02311, section 5)."""

    def regularised(
        logits_BLV: jax.Array, targets_BL: jax.Array, weight_BL: jax.Array
    ) -> Loss:
        loss = objective(logits_BLV, targets_BL, weight_BL)
        log_total_BL = jax.nn.logsumexp(logits_BLV, axis=-1)
        drift = jnp.sum(jnp.square(log_total_BL) * weight_BL)
        return loss._replace(total=loss.total + coefficient * drift)

    return regularised


def from_features(
    objective: Objective,
    x_BLD: jax.Array,
    w_VD: jax.Array,
    targets_BL: jax.Array,
    weight_BL: jax.Array,
    *,
    chunks: int = 1,
) -> Loss:
    """`objective` of the logits x w^T, `chunks` parts of each row at a time.

    Only one chunk's float32 logits live at once, in the backward pass too, where they
    are computed again. Raises ValueError when `chunks` does not divide L.
    """
    rows, length, _ = x_BLD.shape
    if length % chunks:
        raise ValueError(f"chunks: expected a divisor of {length}, got {chunks}")

    def part(chunk: tuple[jax.Array, jax.Array, jax.Array]) -> Loss:
        x_BCD, targets_BC, weight_BC = chunk
        logits_BCV = jnp.einsum(
            "BCD,VD->BCV", x_BCD, w_VD, preferred_element_type=jnp.float32
        )
        return objective(logits_BCV, targets_BC, weight_BC)

    def divided(a: jax.Array) -> jax.Array:
        parts = a.reshape(rows, chunks, length // chunks, *a.shape[2:])
        return jnp.moveaxis(parts, 1, 0)

    # A loop, because a compiler may compute unrolled chunks all at once.
    arrays = divided(x_BLD), divided(targets_BL), divided(weight_BL)
    parts = jax.lax.map(jax.checkpoint(part, prevent_cse=False), arrays)
    return jax.tree.map(lambda sums: sums.sum(0), parts)


def dropped(
    ids_BL: jax.Array, key: jax.Array, share: float, *, symbol: int
) -> jax.Array:
    """Tokens to continue, a share of them hidden behind `symbol`, so that what comes
    next must be known from what else is read, not remembered from what was written
    (word dropout, Bowman et al. 2015, arXiv 1511.06349, section 3.1). The first stays:
    it is where writing starts."""
    chance_BL = jax.random.uniform(key, ids_BL.shape)
    hide_BL = (chance_BL < share) & (jnp.arange(ids_BL.shape[1]) > 0)[None]
    return jnp.where(hide_BL, symbol, ids_BL)


def with_bytes(
    loss: Loss, targets_BL: jax.Array, weight_BL: jax.Array, bytes_V
) -> Loss:
    """`loss` with the sum `bytes`: the UTF-8 bytes that its weighted targets spell,
    from each symbol's length in bytes."""
    spelt = jnp.sum(jnp.asarray(bytes_V, jnp.float32)[targets_BL] * weight_BL)
    return loss._replace(sums={**loss.sums, "bytes": spelt})


def bits_per_byte(loss: Loss) -> float:
    """Information per byte of text, which no choice of vocabulary changes."""
    return float(loss.sums["nats"]) / math.log(2) / float(loss.sums["bytes"])
