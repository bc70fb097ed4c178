"""Cross-entropy of tokens and labels, and two ways that never hold all logits at once.

An `Objective` takes float32 logits (B, L, V), int32 targets (B, L) and float32 weights
(B, L), and returns a `Loss` in nats: sums, not means. `chunked_loss` computes any
objective from features and unembedding in chunks of each row, and its logits again in
the backward pass; `fused_cross_entropy` does so for the cross-entropy alone, and
computes them once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from transformer.network import precision
from transformer.network.precision import Einsum, einsum_f32
from transformer.objectives.loss import Loss

Objective = Callable[[jax.Array, jax.Array, jax.Array], Loss]


def _places(scores: Any) -> np.ndarray:
    return np.arange(scores.shape[-1]).reshape(*[1] * (scores.ndim - 1), -1)


def is_best(scores: Any, own: Any, index: Any) -> Any:
    """bool [...]: whether the argmax of the scores [..., V] is `index` [...], whose
    score is `own` [...]; never where that is NaN. The one rule for ties, in every
    metric: of equal scores the first is the best. numpy in, numpy out; JAX in, JAX out.
    """
    before = _places(scores) < index[..., None]
    tied_before = ((scores == own[..., None]) & before).any(-1)
    return (own >= scores.max(-1)) & ~tied_before


def ranks(scores: Any, own: Any, index: Any) -> Any:
    """int [...]: the place of `index` among the falling scores [..., V], from 1 to V; 1
    where `is_best`. Arguments as there; NaN comes last."""
    own, index = own[..., None], index[..., None]
    behind = (scores < own) | ((scores == own) & (_places(scores) >= index))
    return 1 + (~behind).sum(-1) - 1 * (own != own)[..., 0]


def cross_entropy(
    logits_BLV: jax.Array, targets_BL: jax.Array, weight_BL: jax.Array
) -> Loss:
    """-log p(target), summed over the weighted targets; sums: nats, correct, tokens.
    A target is correct where it is the argmax: of equal logits the first."""
    log_sum_BL = jax.nn.logsumexp(logits_BLV, axis=-1)
    target_BL = jnp.take_along_axis(logits_BLV, targets_BL[..., None], axis=-1)[..., 0]
    nats = jnp.sum((log_sum_BL - target_BL) * weight_BL)
    correct_BL = is_best(logits_BLV, target_BL, targets_BL)
    correct = jnp.sum(correct_BL * weight_BL)
    tokens = weight_BL.sum()
    return Loss(nats, tokens, {"nats": nats, "correct": correct, "tokens": tokens})


def classification(
    logits_BV: jax.Array,
    label_B: jax.Array,
    weight_B: jax.Array,
    *,
    objective: Objective = cross_entropy,
) -> Loss:
    """`objective` of one label per row: logits (B, V), labels (B,) and weights (B,).
    The sums are those of the objective, which counts each row as a token."""
    return objective(logits_BV[:, None], label_B[:, None], weight_B[:, None])


def classification_loss(
    logits: Callable[[Any, Any], jax.Array], *, objective: Objective = cross_entropy
) -> Callable[[Any, Any, jax.Array], Loss]:
    """The loss (params, batch, key) -> `classification` of logits(params, batch), for
    the arrays `label_B` and `weight_B` of a batch."""

    def loss(params: Any, batch: Any, key: jax.Array) -> Loss:
        labels = batch["label_B"], batch["weight_B"]
        return classification(logits(params, batch), *labels, objective=objective)

    return loss


def label_smoothing(amount: float) -> Objective:
    """Cross-entropy against (1 - amount) on the target and amount / V on every token
    of the vocabulary (Szegedy et al. 2015, arXiv 1512.00567, section 7). The sum `nats`
    stays unsmoothed. ValueError for an amount of 1, at which no target counts."""
    if not 0 <= amount < 1:
        raise ValueError(f"label_smoothing: expected a number in [0, 1), got {amount}")

    def smooth_cross_entropy(
        logits_BLV: jax.Array, targets_BL: jax.Array, weight_BL: jax.Array
    ) -> Loss:
        loss = cross_entropy(logits_BLV, targets_BL, weight_BL)
        log_sum_BL = jax.nn.logsumexp(logits_BLV, axis=-1)
        uniform = jnp.sum((log_sum_BL - logits_BLV.mean(-1)) * weight_BL)
        return loss._replace(total=(1 - amount) * loss.total + amount * uniform)

    return smooth_cross_entropy


def z_loss(objective: Objective, coefficient: float) -> Objective:
    """`objective` plus coefficient * logsumexp(logits)^2, which keeps logits from
    drifting (PaLM, Chowdhery et al. 2022, arXiv 2204.02311, section 5)."""

    def objective_with_z_loss(
        logits_BLV: jax.Array, targets_BL: jax.Array, weight_BL: jax.Array
    ) -> Loss:
        loss = objective(logits_BLV, targets_BL, weight_BL)
        log_sum_BL = jax.nn.logsumexp(logits_BLV, axis=-1)
        penalty = jnp.sum(jnp.square(log_sum_BL) * weight_BL)
        return loss._replace(total=loss.total + coefficient * penalty)

    return objective_with_z_loss


def chunked_loss(
    objective: Objective,
    x_BLD: jax.Array,
    w_VD: precision.Table,
    targets_BL: jax.Array,
    weight_BL: jax.Array,
    *,
    chunks: int = 1,
) -> Loss:
    """`objective` of the logits x w^T, or those of a `precision.Unembedding`, in
    `chunks` chunks of each row.

    Only one chunk's float32 logits live at once, also in the backward pass, which
    computes them again. ValueError unless `chunks` divides L.
    """
    rows, length, _ = x_BLD.shape
    _check_chunks(chunks, length)

    def chunk_loss(chunk: tuple[jax.Array, jax.Array, jax.Array]) -> Loss:
        x_BCD, targets_BC, weight_BC = chunk
        logits_BCV = precision.unembed("BCD,VD->BCV", x_BCD, w_VD)
        return objective(logits_BCV, targets_BC, weight_BC)

    def split(a: jax.Array) -> jax.Array:
        parts = a.reshape(rows, chunks, length // chunks, *a.shape[2:])
        return jnp.moveaxis(parts, 1, 0)

    # A loop, because a compiler may compute unrolled chunks all at once.
    arrays = split(x_BLD), split(targets_BL), split(weight_BL)
    losses = jax.lax.map(jax.checkpoint(chunk_loss, prevent_cse=False), arrays)
    return jax.tree.map(lambda sums: sums.sum(0), losses)


def _check_chunks(chunks: int, length: int) -> None:
    if length % chunks:
        raise ValueError(f"chunks: expected a divisor of {length}, got {chunks}")


def _chunk_sums(einsum: Einsum, transform: Any, x_BCD, w_VD, targets_BC, weight_BC):
    """One chunk's nats and correct tokens, its nats per token, and the gradient of the
    nats by the product x w^T: softmax - one-hot, times the weight, times the
    derivative of `transform`."""
    product_BCV = einsum("BCD,VD->BCV", x_BCD, w_VD)
    logits_BCV, pull_back = jax.vjp(transform, product_BCV)
    max_BCV = logits_BCV.max(-1, keepdims=True)
    exp_BCV = jnp.exp(logits_BCV - max_BCV)
    sum_BC = exp_BCV.sum(-1)
    target_BC = jnp.take_along_axis(logits_BCV, targets_BC[..., None], -1)[..., 0]
    nats_BC = jnp.log(sum_BC) + max_BCV[..., 0] - target_BC
    scale_BC = weight_BC / sum_BC
    token_BCV = jax.lax.broadcasted_iota(jnp.int32, logits_BCV.shape, 2)
    is_target_BCV = token_BCV == targets_BC[..., None]
    grad_BCV = exp_BCV * scale_BC[..., None]
    grad_BCV = grad_BCV - jnp.where(is_target_BCV, weight_BC[..., None], 0.0)
    (grad_BCV,) = pull_back(grad_BCV)
    correct_BC = is_best(logits_BCV, target_BC, targets_BC)
    correct = jnp.sum(correct_BC * weight_BC)
    return jnp.sum(nats_BC * weight_BC), correct, nats_BC, grad_BCV.astype(x_BCD.dtype)


def _slices(chunks: int, *arrays: jax.Array) -> Iterator[tuple[jax.Array, ...]]:
    length = arrays[0].shape[1]
    size = length // chunks
    for start in range(0, length, size):
        yield tuple(a[:, start : start + size] for a in arrays)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _fused_sums(einsum, transform, chunks, x_BLD, w_VD, targets_BL, weight_BL):
    sums = [
        _chunk_sums(einsum, transform, x_BCD, w_VD, targets_BC, weight_BC)[:2]
        for x_BCD, targets_BC, weight_BC in _slices(
            chunks, x_BLD, targets_BL, weight_BL
        )
    ]
    return tuple(sum(parts) for parts in zip(*sums, strict=True))


def _fused_forward(einsum, transform, chunks, x_BLD, w_VD, targets_BL, weight_BL):
    totals, corrects, nats, x_grads, w_grads = [], [], [], [], []
    of_weight = precision.weight_gradient(einsum, x_BLD.dtype, w_VD.dtype)
    for x_BCD, targets_BC, weight_BC in _slices(chunks, x_BLD, targets_BL, weight_BL):
        total, correct, nats_BC, grad_BCV = _chunk_sums(
            einsum, transform, x_BCD, w_VD, targets_BC, weight_BC
        )
        totals.append(total)
        corrects.append(correct)
        nats.append(nats_BC)
        x_grads.append(einsum("BCV,VD->BCD", grad_BCV, w_VD).astype(x_BLD.dtype))
        w_grads.append(of_weight("BCV,BCD->VD", grad_BCV, x_BCD))
    x_grad_BLD = jnp.concatenate(x_grads, axis=1)
    w_grad_VD: Any = sum(w_grads)
    residuals = x_grad_BLD, w_grad_VD.astype(w_VD.dtype), jnp.concatenate(nats, axis=1)
    return (sum(totals), sum(corrects)), residuals


def _fused_backward(einsum, transform, chunks, residuals, gradients):
    x_grad_BLD, w_grad_VD, nats_BL = residuals
    scale, _ = gradients  # the count of correct tokens has no gradient
    return (
        (x_grad_BLD * scale).astype(x_grad_BLD.dtype),
        (w_grad_VD * scale).astype(w_grad_VD.dtype),
        None,
        nats_BL * scale,
    )


_fused_sums.defvjp(_fused_forward, _fused_backward)


def fused_cross_entropy(
    x_BLD: jax.Array,
    w_VD: precision.Table,
    targets_BL: jax.Array,
    weight_BL: jax.Array,
    *,
    chunks: int = 1,
    einsum: Einsum = einsum_f32,
) -> Loss:
    """`cross_entropy` of the logits x w^T, or those of a `precision.Unembedding`, in
    `chunks` chunks of each row.

    The forward pass computes the gradients of features and weights from each chunk's
    logits at once, so these are computed once; the backward pass only scales. Only
    `total` has a gradient; the other sums are for metrics. ValueError unless `chunks`
    divides L.
    """
    _check_chunks(chunks, x_BLD.shape[1])
    w_VD, transform = precision.unembedding_parts(w_VD)
    sums: Any = _fused_sums(
        einsum, transform, chunks, x_BLD, w_VD, targets_BL, weight_BL
    )
    total, correct = sums
    tokens = weight_BL.sum()
    named = {"nats": total, "correct": correct, "tokens": tokens}
    return Loss(total, tokens, jax.lax.stop_gradient(named))


def masked_cross_entropy(
    x_BLD: jax.Array,
    w_VD: precision.Table,
    targets_BL: jax.Array,
    weight_BL: jax.Array,
    *,
    count: int,
) -> Loss:
    """`fused_cross_entropy` at the `count` positions of largest weight in each row,
    without the logits of the others: for masked models, where only masked positions
    have weight. Equal to that of all positions where at most `count` have weight."""
    weight_BC, place_BC = jax.lax.top_k(weight_BL, count)
    targets_BC = jnp.take_along_axis(targets_BL, place_BC, axis=1)
    x_BCD = jnp.take_along_axis(x_BLD, place_BC[..., None], axis=1)
    return fused_cross_entropy(x_BCD, w_VD, targets_BC, weight_BC)


def word_dropout(
    ids_BL: jax.Array, key: jax.Array, rate: float, *, mask_id: int
) -> jax.Array:
    """Decoder inputs with a fraction `rate` of the tokens replaced by `mask_id`, so
    that the decoder relies on what it conditions on more than on the tokens before
    (Bowman et al. 2015, arXiv 1511.06349, section 3.1). The first token stays: it
    starts the sequence."""
    uniform_BL = jax.random.uniform(key, ids_BL.shape)
    dropped_BL = (uniform_BL < rate) & (jnp.arange(ids_BL.shape[1]) > 0)[None]
    return jnp.where(dropped_BL, mask_id, ids_BL)


def add_byte_count(
    loss: Loss, targets_BL: jax.Array, weight_BL: jax.Array, bytes_V: Any
) -> Loss:
    """`loss` with the sum `bytes`: the UTF-8 bytes of its weighted targets, from the
    length in bytes of each token of the vocabulary."""
    count = jnp.sum(jnp.asarray(bytes_V, jnp.float32)[targets_BL] * weight_BL)
    return loss._replace(sums={**loss.sums, "bytes": count})


def bits_per_byte(loss: Loss) -> float:
    """Bits per UTF-8 byte of text: comparable between tokenizers."""
    return float(loss.sums["nats"]) / math.log(2) / float(loss.sums["bytes"])


def token_metrics(loss: Loss) -> dict[str, float]:
    """`loss` (unsmoothed nats / weight, without auxiliary terms), `accuracy`, and
    `bits_per_byte` where `add_byte_count` counted the bytes."""
    metrics = {
        "loss": float(loss.sums["nats"]) / float(loss.weight),
        "accuracy": float(loss.sums["correct"]) / float(loss.sums["tokens"]),
    }
    if "bytes" in loss.sums:
        metrics["bits_per_byte"] = bits_per_byte(loss)
    return metrics


def pixel_metrics(loss: Loss, *, pixels_per_token: int = 1) -> dict[str, float]:
    """`token_metrics` of images, and bits per pixel."""
    metrics = token_metrics(loss)
    bits = metrics["loss"] / math.log(2) / pixels_per_token
    return {**metrics, "bits_per_pixel": bits}
