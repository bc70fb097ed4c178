"""Evaluation on held-out data: sums over batches, divided at the end."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from transformer.training import batching, faults, optimizers, signals
from transformer.training.experiment import Evaluation, Experiment, LossFn

_programs: dict[Any, Any] = {}


def _program(loss: LossFn, *arguments: Any) -> Any:
    """`loss` compiled for the shapes and shardings of `arguments`, once."""
    shapes = tuple((a.shape, a.dtype, a.sharding) for a in jax.tree.leaves(arguments))
    if (loss, shapes) not in _programs:
        _programs[loss, shapes] = faults.compile_program(jax.jit(loss), *arguments)
    return _programs[loss, shapes]


def total_loss(evaluation: Evaluation, params: Any, mesh: Mesh) -> Any:
    """The Loss summed over all batches of the evaluation, on the host.

    Raises signals.Termination between batches after a signal.
    """
    batch_at = batching.sharded_batches(evaluation.batch, evaluation.batch_size, mesh)
    key = jax.random.key(0)
    total = None
    for step in range(evaluation.batches):
        if signals.stop_requested():
            raise signals.Termination
        jax.block_until_ready(total)  # The watchdog must see computed batches only.
        faults.arm_watchdog()
        batch = batch_at(step)
        loss = _program(evaluation.loss, params, batch, key)(params, batch, key)
        total = loss if total is None else jax.tree.map(jnp.add, total, loss)
    return jax.device_get(total)


def evaluate_state(
    experiment: Experiment, state: Any, mesh: Mesh
) -> dict[str, dict[str, float]]:
    """`evaluate` of the state's parameters; beside them, as NAME_ema, of their moving
    average where it is kept."""
    results = evaluate(experiment, state.params, mesh)
    average = optimizers.average_of(state.optimizer_state)
    if average is not None:
        averaged = evaluate(experiment, average, mesh)
        results |= {f"{name}_ema": metrics for name, metrics in averaged.items()}
    return results


def evaluate(
    experiment: Experiment, params: Any, mesh: Mesh
) -> dict[str, dict[str, float]]:
    """The metrics of every evaluation, by its name, but those without a scored target,
    which a line tells."""
    results = {}
    for name, evaluation in experiment.evaluations.items():
        total = total_loss(evaluation, params, mesh)
        if total.weight:
            results[name] = evaluation.metrics(total)
        elif jax.process_index() == 0:
            print(f"warning: {name}: no target is scored", flush=True)
    return results
