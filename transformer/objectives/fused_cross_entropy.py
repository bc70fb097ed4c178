"""Unembedding and cross-entropy in one, a chunk of rows at a time.

The gradient, softmax - one-hot, is made in the forward pass from the logits while they
are at hand, and multiplied back to features and weights at once: only one chunk's
float32 logits ever live, and they are computed once. The backward pass scales.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from transformer.objectives.loss import Loss

# (subscripts, a, b): float32, as `_wide`.
Product = Callable[[str, jax.Array, jax.Array], jax.Array]


def _wide(subscripts: str, *operands: jax.Array) -> jax.Array:
    return jnp.einsum(subscripts, *operands, preferred_element_type=jnp.float32)


def _chunk(product: Product, x_BCD, w_VD, targets_BC, weight_BC):
    """One chunk's sums, and the gradient of its total by its logits."""
    logits_BCV = product("BCD,VD->BCV", x_BCD, w_VD)
    peak_BCV = logits_BCV.max(-1, keepdims=True)
    raised_BCV = jnp.exp(logits_BCV - peak_BCV)
    total_BC = raised_BCV.sum(-1)
    chosen_BC = jnp.take_along_axis(logits_BCV, targets_BC[..., None], -1)[..., 0]
    nats_BC = jnp.log(total_BC) + peak_BCV[..., 0] - chosen_BC
    scale_BC = weight_BC / total_BC
    symbol_BCV = jax.lax.broadcasted_iota(jnp.int32, logits_BCV.shape, 2)
    hit_BCV = symbol_BCV == targets_BC[..., None]
    slope_BCV = raised_BCV * scale_BC[..., None]
    slope_BCV = slope_BCV - jnp.where(hit_BCV, weight_BC[..., None], 0.0)
    correct = jnp.sum((chosen_BC >= peak_BCV[..., 0]) * weight_BC)
    return jnp.sum(nats_BC * weight_BC), correct, nats_BC, slope_BCV.astype(x_BCD.dtype)


def _sliced(chunks: int, *arrays: jax.Array):
    length = arrays[0].shape[1]
    size = length // chunks
    for start in range(0, length, size):
        yield tuple(a[:, start : start + size] for a in arrays)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _total(product, chunks, x_BLD, w_VD, targets_BL, weight_BL):
    sums = [
        _chunk(product, x_BCD, w_VD, targets_BC, weight_BC)[:2]
        for x_BCD, targets_BC, weight_BC in _sliced(
            chunks, x_BLD, targets_BL, weight_BL
        )
    ]
    return tuple(sum(parts) for parts in zip(*sums, strict=True))


def _forward(product, chunks, x_BLD, w_VD, targets_BL, weight_BL):
    totals, corrects, nats, x_slopes = [], [], [], []
    w_slope_VD = jnp.zeros(w_VD.shape, jnp.float32)
    for x_BCD, targets_BC, weight_BC in _sliced(chunks, x_BLD, targets_BL, weight_BL):
        total, correct, nats_BC, slope_BCV = _chunk(
            product, x_BCD, w_VD, targets_BC, weight_BC
        )
        totals.append(total)
        corrects.append(correct)
        nats.append(nats_BC)
        x_slopes.append(product("BCV,VD->BCD", slope_BCV, w_VD).astype(x_BLD.dtype))
        w_slope_VD = w_slope_VD + product("BCV,BCD->VD", slope_BCV, x_BCD)
    x_slope_BLD = jnp.concatenate(x_slopes, axis=1)
    kept = x_slope_BLD, w_slope_VD.astype(w_VD.dtype), jnp.concatenate(nats, axis=1)
    return (sum(totals), sum(corrects)), kept


def _backward(product, chunks, kept, slopes):
    x_slope_BLD, w_slope_VD, nats_BL = kept
    scale, _ = slopes  # the count of correct symbols has no slope
    return (
        (x_slope_BLD * scale).astype(x_slope_BLD.dtype),
        (w_slope_VD * scale).astype(w_slope_VD.dtype),
        None,
        nats_BL * scale,
    )


_total.defvjp(_forward, _backward)


def cross_entropy(
    x_BLD: jax.Array,
    w_VD: jax.Array,
    targets_BL: jax.Array,
    weight_BL: jax.Array,
    *,
    chunks: int = 1,
    product: Product = _wide,
) -> Loss:
    """`language.cross_entropy` of the logits x w^T, `chunks` parts of each row at a
    time, multiplied by `product`.

    Only `total` has a gradient; the other sums are for reports. Raises ValueError when
    `chunks` does not divide L.
    """
    length = x_BLD.shape[1]
    if length % chunks:
        raise ValueError(f"chunks: expected a divisor of {length}, got {chunks}")
    both: Any = _total(product, chunks, x_BLD, w_VD, targets_BL, weight_BL)
    total, correct = both
    tokens = weight_BL.sum()
    sums = {"nats": total, "correct": correct, "tokens": tokens}
    return Loss(total, tokens, jax.lax.stop_gradient(sums))
