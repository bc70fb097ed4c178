"""Scores of an ensemble forecast of I members.

Forecasts are tokens of P features. Each feature has a weight, such as the area of its
cell on the sphere, or 0 where the target is missing: there, target and members may be
NaN.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.scipy import stats

from transformer.objectives.loss import Loss


def _zero_unweighted(
    members_IBLP: jax.Array, target_BLP: jax.Array, weight_BLP: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Members and target, 0 where the weight is 0: NaN * 0 would be NaN, in the
    gradient too."""
    seen_BLP = weight_BLP > 0
    members_IBLP = jnp.where(seen_BLP[None], members_IBLP, 0)
    return members_IBLP, jnp.where(seen_BLP, target_BLP, 0)


def mean_distance(members_IBLP: jax.Array) -> jax.Array:
    """E |x - x'| over pairs of different members; 0 of one member."""
    count = members_IBLP.shape[0]
    total_BLP = jnp.zeros(members_IBLP.shape[1:])
    for i in range(count):
        total_BLP += jnp.abs(members_IBLP[i][None] - members_IBLP).sum(0)
    return total_BLP / max(count * (count - 1), 1)


def crps(members_IBLP: jax.Array, target_BLP: jax.Array, weight_BLP: jax.Array) -> Loss:
    """The fair continuous ranked probability score, summed with its weights.

    E |x - y| - E |x - x'| / 2 over members x and pairs of different members (Gneiting
    and Raftery 2007, equation 21; the estimator that is unbiased for small ensembles,
    Ferro 2014). Its expectation is least where members and target have the same
    distribution. One member scores its absolute error. sums: those of
    `error_and_spread`, and crps.
    """
    distance_BLP = mean_distance(members_IBLP)
    return crps_of_distance(members_IBLP, distance_BLP, target_BLP, weight_BLP)


def crps_of_distance(
    members_IBLP: jax.Array,
    distance_BLP: jax.Array,
    target_BLP: jax.Array,
    weight_BLP: jax.Array,
) -> Loss:
    """`crps` of members whose `mean_distance` is known."""
    distance_BLP = jnp.where(weight_BLP > 0, distance_BLP, 0)
    members_IBLP, target_BLP = _zero_unweighted(members_IBLP, target_BLP, weight_BLP)
    error_BLP = jnp.abs(members_IBLP - target_BLP[None]).mean(0)
    score_BLP = error_BLP - distance_BLP / 2
    sums = error_and_spread(members_IBLP, target_BLP, weight_BLP)
    total = jnp.sum(score_BLP * weight_BLP)
    return Loss(total, weight_BLP.sum(), {**sums, "crps": total})


def error_and_spread(
    members_IBLP: jax.Array, target_BLP: jax.Array, weight_BLP: jax.Array
) -> dict[str, jax.Array]:
    """Weighted sums: the ensemble mean's squared error, the members' variance (divided
    by I - 1), the weights. Error and variance agree, but for a factor (I + 1) / I,
    where members and target have the same distribution (Fortin et al. 2014)."""
    members_IBLP, target_BLP = _zero_unweighted(members_IBLP, target_BLP, weight_BLP)
    count = members_IBLP.shape[0]
    mean_BLP = members_IBLP.mean(0)
    variance_BLP = jnp.square(members_IBLP - mean_BLP[None]).sum(0) / max(count - 1, 1)
    return {
        "squared_error": jnp.sum(jnp.square(mean_BLP - target_BLP) * weight_BLP),
        "variance": jnp.sum(variance_BLP * weight_BLP),
        "weight": weight_BLP.sum(),
    }


def ensemble_metrics(loss: Loss, *, scale: float = 1.0) -> dict[str, float]:
    """Metrics of a `crps` times `scale`, in units of the fields: rmse of the ensemble
    mean, crps, and spread, the members' standard deviation."""
    sums = {name: float(value) for name, value in loss.sums.items()}
    return {
        "loss": float(loss.total) / float(loss.weight),
        "rmse": scale * (sums["squared_error"] / sums["weight"]) ** 0.5,
        "crps": scale * sums["crps"] / sums["weight"],
        "spread": scale * (sums["variance"] / sums["weight"]) ** 0.5,
    }


def gaussian_crps(error_BLP: jax.Array, deviation_BLP: jax.Array) -> jax.Array:
    """The CRPS of a normal distribution whose mean is `error` beside the target
    (Gneiting and Raftery 2007, equation 5)."""
    ratio_BLP = error_BLP / deviation_BLP
    density_BLP, below_BLP = stats.norm.pdf(ratio_BLP), stats.norm.cdf(ratio_BLP)
    score_BLP = ratio_BLP * (2 * below_BLP - 1) + 2 * density_BLP
    return deviation_BLP * (score_BLP - math.pi**-0.5)
