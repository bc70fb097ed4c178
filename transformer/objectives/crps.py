"""Scores of a forecast that is several forecasts: an ensemble of I members.

What is forecast comes in tokens of P features; a weight goes with each feature, such as
the area that a cell of the sphere covers, or 0 where there is nothing to compare with.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from transformer.objectives.loss import Loss


def crps(members_IBLP: jax.Array, target_BLP: jax.Array, weight_BLP: jax.Array) -> Loss:
    """The fair continuous ranked probability score, summed with its weights.

    E |x - y| - E |x - x'| / 2 over members x and pairs of different members (Gneiting
    and Raftery 2007, equation 21; in the form that is fair to small ensembles, Ferro
    2014). It is least, on average, where the members are drawn from what the target is
    drawn from. One member gives its absolute error. Sums: those of `errors`, and crps.
    """
    count = members_IBLP.shape[0]
    off_BLP = jnp.abs(members_IBLP - target_BLP[None]).mean(0)
    apart_BLP = jnp.zeros_like(target_BLP)
    for i in range(count):
        apart_BLP += jnp.abs(members_IBLP[i][None] - members_IBLP).sum(0)
    pairs = max(count * (count - 1), 1)
    score_BLP = off_BLP - apart_BLP / (2 * pairs)
    sums = errors(members_IBLP, target_BLP, weight_BLP)
    total = jnp.sum(score_BLP * weight_BLP)
    return Loss(total, weight_BLP.sum(), {**sums, "crps": total})


def errors(
    members_IBLP: jax.Array, target_BLP: jax.Array, weight_BLP: jax.Array
) -> dict[str, jax.Array]:
    """Weighted sums of: the ensemble mean's squared error, the members' variance (by
    I - 1, so that both agree where the ensemble is what the target is drawn from, but
    for a factor (I + 1) / I: Fortin et al. 2014), the weights."""
    count = members_IBLP.shape[0]
    mean_BLP = members_IBLP.mean(0)
    spread_BLP = jnp.square(members_IBLP - mean_BLP[None]).sum(0) / max(count - 1, 1)
    return {
        "squared_error": jnp.sum(jnp.square(mean_BLP - target_BLP) * weight_BLP),
        "variance": jnp.sum(spread_BLP * weight_BLP),
        "weight": weight_BLP.sum(),
    }
