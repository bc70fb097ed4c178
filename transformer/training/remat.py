"""The remat policy of a run, by the memory of its devices: of those of its
`remat_losses` the one that recomputes least of which the activations fit."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from transformer import axes
from transformer.training import memory
from transformer.training.experiment import Experiment
from transformer.training.update import abstract_state


def policy(experiment: Experiment) -> str:
    """The one in use of its `remat_losses`; "" for another loss."""
    known = experiment.remat_losses.items()
    return next((name for name, loss in known if loss is experiment.loss), "")


def policies(experiment: Experiment) -> tuple[str, ...]:
    """Those to choose from, the one that recomputes least first; () where there is no
    choice."""
    names = tuple(experiment.remat_losses)
    return names if policy(experiment) and len(names) > 1 else ()


def choose(experiment: Experiment, policy: str) -> Experiment:
    """`experiment` with one of its `policies`, as its `derived` says."""
    derived = {**experiment.derived, "remat": policy}
    return experiment._replace(loss=experiment.remat_losses[policy], derived=derived)


def after(experiment: Experiment) -> Experiment | None:
    """`experiment` with the policy that recomputes more, None where there is none."""
    names = policies(experiment)
    if not names or policy(experiment) == names[-1]:
        return None
    return choose(experiment, names[names.index(policy(experiment)) + 1])


def divisions(experiment: Experiment, shards: int) -> Iterator[Experiment]:
    """`experiment` in more and more microbatches, where it may be divided
    (`accumulate_to_fit`) and `shards` divide the rows of each; with each of its
    `policies`. Fewer microbatches come first: each gathers all weights."""
    names, count = policies(experiment), experiment.accumulate
    while True:
        made = experiment._replace(accumulate=count)
        yield from (choose(made, name) for name in names) if names else (made,)
        count *= 2
        divides = experiment.batch_size % (count * shards) == 0
        if not (experiment.accumulate_to_fit and divides):
            return


def activation_bytes(experiment: Experiment, params: Any) -> float:
    """Bytes that the backward pass of a microbatch needs of its forward pass,
    parameters apart: its residuals, of all devices together."""
    rows = experiment.batch_size // experiment.accumulate
    batch = {
        name: jax.ShapeDtypeStruct((rows, *np.shape(a)[1:]), np.asarray(a).dtype)
        for name, a in experiment.batch(0, [0]).items()
    }

    def backward(params: Any, batch: Any) -> Any:
        def total(params: Any) -> Any:
            return experiment.loss(params, batch, jax.random.key(0)).total

        return jax.vjp(total, params)[1]

    residuals = jax.tree.leaves(jax.eval_shape(backward, params, batch))
    weights = {leaf.shape for leaf in jax.tree.leaves(params)}
    return sum(
        math.prod(leaf.shape) * leaf.dtype.itemsize
        for leaf in residuals
        if leaf.shape not in weights
    )


def fit(experiment: Experiment, mesh: Mesh) -> Experiment:
    """`experiment` with the first policy whose activations, counted, fit into a device
    beside the state and a gradient: of the whole batch, else of as few microbatches as
    may be, into which the compiled step is divided where it needs it; the last policy
    where nothing fits. With its own where the memory is not known; as it is where there
    is no choice."""
    if not policies(experiment):
        return experiment
    there = memory.least_device_bytes()
    if there is None:
        return choose(experiment, policy(experiment))
    state = abstract_state(experiment, mesh)
    room = there - memory.state_bytes(state, experiment.gradient_dtype)
    shards = axes.batch_shards(mesh)
    for made in divisions(experiment, shards):
        counted = activation_bytes(made, state.params)
        if counted / shards / mesh.shape["context"] <= room:
            return made._replace(accumulate=experiment.accumulate)
    return choose(experiment, policies(experiment)[-1])
