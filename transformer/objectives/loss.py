"""The value that every objective returns: additive sums."""

from __future__ import annotations

from typing import NamedTuple

import jax


class Loss(NamedTuple):
    """A loss as a pair of sums, so that microbatches, devices and packed rows only add.

    total: float32 scalar, the summed loss. weight: float32 scalar, the summed weight of
    the targets. sums: further additive float32 scalars by name (nats, bytes, correct).
    The mean is total / weight, divided once, at the end.
    """

    total: jax.Array
    weight: jax.Array
    sums: dict[str, jax.Array]


def mean_loss(loss: Loss) -> dict[str, float]:
    """Metrics of an objective without further sums: `loss`, total / weight."""
    return {"loss": float(loss.total) / float(loss.weight)}
