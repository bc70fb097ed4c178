"""Does a prediction rest on what an attribution says? Erase that, and see.

Patches are replaced by a blank in some order, the most important first; the sooner a
model loses its way, the better the order (Samek et al. 2015, arXiv 1509.06321, section
III; for attention, Chefer et al. 2021, arXiv 2012.09838, section 4).

Everywhere predict(raw_BLP) gives the logits (B, V) of raw patches (B, L, P), each row's
from its own, an order (B, L) names each row's patches, the first to go first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array | np.ndarray
Predict = Callable[[jax.Array], jax.Array]


def highest(share_BL: Array) -> jax.Array:
    """The order of each row's patches by share (B, L), the largest first."""
    return jnp.argsort(-share_BL, axis=-1)


def erased(raw_BLP: Array, order_BL: Array, count: Array, blank_P: Array) -> jax.Array:
    """Raw patches of which each row's first `count` in its order are `blank_P`. count:
    one number for all rows, or (B,) numbers."""
    rank_BL = jnp.argsort(order_BL, axis=-1)
    gone_BL = rank_BL < jnp.broadcast_to(count, rank_BL.shape[:1])[:, None]
    return jnp.where(gone_BL[..., None], blank_P[None, None], raw_BLP)


def controls(raw_BLP: Array, blank_P: Array, key: jax.Array) -> dict[str, jax.Array]:
    """Shares (B, L) that know nothing of a model, to compare with: any patch, any that
    is not blank, and the one that differs most from a blank."""
    chance_BL = jax.random.uniform(key, raw_BLP.shape[:2])
    ink_BL = jnp.abs(raw_BLP - blank_P[None, None]).sum(-1)
    return {
        "any": chance_BL,
        "any with ink": chance_BL + (ink_BL > 0),
        "most ink": ink_BL,
    }


class Study(NamedTuple):
    """Accuracies [counts] by the name of what was erased first, after `counts` erased
    patches; and each one's mean over all numbers of patches, from none to L."""

    counts: list[int]
    curves: dict[str, np.ndarray]
    means: dict[str, float]


def study(
    predict: Predict,
    raw_BLP: Array,
    label_B: Array,
    shares: Mapping[str, Array],
    *,
    blank_P: Array,
    points: int = 15,
) -> Study:
    """How well the rows' labels are told as more and more patches are erased, by each
    of the shares (B, L), the largest first. The mean is the area under the curve, by
    trapezoids, over L: the smaller, the better the share says what is needed."""

    @jax.jit
    def accuracy(order_BL: Array, count: jax.Array) -> jax.Array:
        logits_BV = predict(erased(raw_BLP, order_BL, count, blank_P))
        return jnp.mean(logits_BV.argmax(-1) == label_B)

    length = raw_BLP.shape[1]
    # Closer together where few are erased: there the curves differ.
    counts = sorted({round(length * part**2) for part in np.linspace(0, 1, points)})
    curves = {}
    for name, share_BL in shares.items():
        order_BL = highest(share_BL)
        told = [accuracy(order_BL, jnp.int32(count)) for count in counts]
        curves[name] = np.array([float(share) for share in told])
    means = {
        name: float(np.trapezoid(c, counts)) / length for name, c in curves.items()
    }
    return Study(counts, curves, means)


class Turned(NamedTuple):
    """Rows at the point where their prediction changed: after how many erased patches,
    int (B,), to which class, int (B,), and what was left of their raw patches."""

    count: np.ndarray
    to: np.ndarray
    left_BLP: jax.Array


def until_turned(
    predict: Predict, raw_BLP: Array, share_BL: Array, blank_P: Array
) -> Turned:
    """Each row's patches erased, the largest share first, until its largest logit is
    another one; all of them where it never is."""
    order_BL, length = highest(share_BL), raw_BLP.shape[1]

    @jax.jit
    def predicted(count: jax.Array) -> jax.Array:
        return predict(erased(raw_BLP, order_BL, count, blank_P)).argmax(-1)

    said = np.stack([np.asarray(predicted(jnp.int32(n))) for n in range(length + 1)])
    changed = said != said[0]
    count = np.where(changed.any(0), changed.argmax(0), length)
    left_BLP = erased(raw_BLP, order_BL, jnp.asarray(count), blank_P)
    return Turned(count, said[count, np.arange(len(count))], left_BLP)
