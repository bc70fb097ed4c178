"""Held-out measurements: sums over batches, divided at the end."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from transformer.training import faults, feeding
from transformer.training.experiment import Evaluation, Experiment, LossOf


@cache
def _compiled(loss: LossOf) -> Any:
    return jax.jit(loss)


def summed(evaluation: Evaluation, params: Any, mesh: Mesh) -> Any:
    """The Loss of all batches of the evaluation, on the host.

    Raises faults.Terminated between batches when asked to stop.
    """
    at = feeding.fed(evaluation.batch, evaluation.batch_size, mesh)
    loss = _compiled(evaluation.loss)
    key = jax.random.key(0)
    total = None
    for step in range(evaluation.batches):
        if faults.asked_to_stop():
            raise faults.Terminated
        faults.watch(compiling=step == 0)
        more = loss(params, at(step), key)
        total = more if total is None else jax.tree.map(jnp.add, total, more)
    return jax.device_get(total)


def measured(
    experiment: Experiment, params: Any, mesh: Mesh
) -> dict[str, dict[str, float]]:
    """Every evaluation's named numbers."""
    return {
        name: evaluation.report(summed(evaluation, params, mesh))
        for name, evaluation in experiment.evaluations.items()
    }
