"""Held-out measurements: sums over batches, divided at the end."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from transformer.training import batching, compiling, faults
from transformer.training.experiment import Evaluation, Experiment, LossOf

_programs: dict[Any, Any] = {}


def _program(loss: LossOf, *arguments: Any) -> Any:
    """`loss` compiled for such arguments, once."""
    places = tuple((a.shape, a.dtype, a.sharding) for a in jax.tree.leaves(arguments))
    if (loss, places) not in _programs:
        _programs[loss, places] = compiling.program(jax.jit(loss), *arguments)
    return _programs[loss, places]


def summed(evaluation: Evaluation, params: Any, mesh: Mesh) -> Any:
    """The Loss of all batches of the evaluation, on the host.

    Raises faults.Terminated between batches when asked to stop.
    """
    at = batching.fed(evaluation.batch, evaluation.batch_size, mesh)
    key = jax.random.key(0)
    total = None
    for step in range(evaluation.batches):
        if faults.asked_to_stop():
            raise faults.Terminated
        jax.block_until_ready(total)  # or the watchdog would be fed by mere promises
        faults.watch()
        batch = at(step)
        more = _program(evaluation.loss, params, batch, key)(params, batch, key)
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
