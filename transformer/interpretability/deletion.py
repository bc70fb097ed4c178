"""Deletion test of attributions: accuracy as the most important patches are erased.

Patches are replaced by a blank in some order, the most important first; the sooner the
accuracy falls, the better the attribution (Samek et al. 2015, arXiv 1509.06321, section
III; for attention, Chefer et al. 2021, arXiv 2012.09838, section 4).

Throughout, predict(raw_BLP) returns logits (B, V) of raw patches (B, L, P), each row's
from its own; an order (B, L) lists each row's patches, the first to erase first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array | np.ndarray
Predict = Callable[[jax.Array], jax.Array]


@jax.jit
def descending_order(score_BL: Array) -> jax.Array:
    """The order of each row's patches by score (B, L), the largest first."""
    return jnp.argsort(-score_BL, axis=-1)


@jax.jit
def erase(raw_BLP: Array, order_BL: Array, count: Array, blank_P: Array) -> jax.Array:
    """Raw patches with the first `count` of each row's order set to `blank_P`. count:
    one number for all rows, or (B,) numbers."""
    rank_BL = jnp.argsort(order_BL, axis=-1)
    erased_BL = rank_BL < jnp.broadcast_to(count, rank_BL.shape[:1])[:, None]
    return jnp.where(erased_BL[..., None], blank_P[None, None], raw_BLP)


@jax.jit
def baseline_scores(
    raw_BLP: Array, blank_P: Array, key: jax.Array
) -> dict[str, jax.Array]:
    """Scores (B, L) that do not depend on a model: random, random among patches that
    are not blank, and the absolute difference from a blank."""
    random_BL = jax.random.uniform(key, raw_BLP.shape[:2])
    difference_BL = jnp.abs(raw_BLP - blank_P[None, None]).sum(-1)
    return {
        "random": random_BL,
        "random_nonblank": random_BL + (difference_BL > 0),
        "most_different": difference_BL,
    }


class DeletionCurves(NamedTuple):
    """counts: numbers of erased patches. accuracy: at each of them, by attribution.
    mean_accuracy: over all numbers of patches from 0 to L, by attribution."""

    counts: list[int]
    accuracy: dict[str, np.ndarray]
    mean_accuracy: dict[str, float]


def deletion_curves(
    predict: Predict,
    raw_BLP: Array,
    label_B: Array,
    scores: Mapping[str, Array],
    *,
    blank_P: Array,
    points: int = 15,
) -> DeletionCurves:
    """Accuracy as patches are erased by each of the scores (B, L), the largest first.
    The mean is the area under the curve, by trapezoids, over L: lower is better."""

    @jax.jit
    def accuracy(order_BL: Array, count: jax.Array) -> jax.Array:
        logits_BV = predict(erase(raw_BLP, order_BL, count, blank_P))
        return jnp.mean(logits_BV.argmax(-1) == label_B)

    length = raw_BLP.shape[1]
    # Denser at small counts, where the curves differ most.
    counts = sorted({round(length * part**2) for part in np.linspace(0, 1, points)})
    curves = {}
    for name, score_BL in scores.items():
        order_BL = descending_order(score_BL)
        values = [accuracy(order_BL, jnp.int32(count)) for count in counts]
        curves[name] = np.array([float(value) for value in values])
    means = {
        name: float(np.trapezoid(c, counts)) / length for name, c in curves.items()
    }
    return DeletionCurves(counts, curves, means)


class Flip(NamedTuple):
    """Rows where their prediction first changed: after how many erased patches, int
    (B,), the new class, int (B,), and the remaining raw patches."""

    count: np.ndarray
    label: np.ndarray
    remaining_BLP: jax.Array


def erase_until_flip(
    predict: Predict, raw_BLP: Array, score_BL: Array, blank_P: Array
) -> Flip:
    """Erase each row's patches, the largest score first, until its prediction changes;
    all of them where it never does."""
    order_BL, length = descending_order(score_BL), raw_BLP.shape[1]

    @jax.jit
    def prediction(count: jax.Array) -> jax.Array:
        return predict(erase(raw_BLP, order_BL, count, blank_P)).argmax(-1)

    labels = np.stack([np.asarray(prediction(jnp.int32(n))) for n in range(length + 1)])
    changed = labels != labels[0]
    count = np.where(changed.any(0), changed.argmax(0), length)
    remaining_BLP = erase(raw_BLP, order_BL, jnp.asarray(count), blank_P)
    return Flip(count, labels[count, np.arange(len(count))], remaining_BLP)
