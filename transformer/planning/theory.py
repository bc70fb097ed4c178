"""The costs of a step without its compiled program: what its jaxpr multiplies, what the
shardings divide, and the collectives that data, fully sharded and tensor parallelism
prescribe (Rajbhandari et al. 2019, arXiv 1910.02054; Shoeybi et al. 2019,
arXiv 1909.08053).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Set
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from transformer import axes
from transformer.planning.costs import Collective, Costs
from transformer.training import flops, remat
from transformer.training.experiment import Experiment
from transformer.training.update import State, init_state, update

# Of weights and activations in collectives.
COMPUTE_BYTES = 2


class Work(NamedTuple):
    """Of one step on all chips together, whatever the mesh. flops: of the products of
    the whole update; model_flops: of the model alone. activations: bytes that the
    backward pass of a microbatch needs of its forward pass, parameters apart."""

    flops: float
    model_flops: float
    activations: float


def work_of(experiment: Experiment) -> Work:
    """Counted in the jaxpr of the update and in the residuals of the backward pass."""
    state = jax.eval_shape(lambda: init_state(experiment))
    row = jax.tree.map(np.asarray, experiment.batch(0, [0]))

    def abstract(rows: int) -> Any:
        return jax.tree.map(
            lambda a: jax.ShapeDtypeStruct((rows, *a.shape[1:]), a.dtype), row
        )

    rows = experiment.batch_size
    program = jax.make_jaxpr(partial(update, experiment))(state, abstract(rows))
    return Work(
        flops.matmul_flops(program.jaxpr),
        rows * flops.per_row(experiment),
        remat.activation_bytes(experiment, state.params),
    )


# The work of an experiment.
Works = Callable[[Experiment], Work]


def works_of(experiment: Experiment) -> Works:
    """`work_of` this experiment in any number of microbatches and with any of its
    remat policies, each policy counted once."""
    counted: dict[str, Work] = {}

    def work(variant: Experiment) -> Work:
        policy = remat.policy(variant)
        if policy not in counted:
            whole = variant._replace(accumulate=experiment.accumulate)
            counted[policy] = work_of(whole)
        found, times = counted[policy], variant.accumulate / experiment.accumulate
        return found._replace(activations=found.activations / times)

    return work


def costs(work: Work, experiment: Experiment, state: State, mesh: Mesh) -> Costs:
    """Of one step on one chip, were the products divided evenly over all chips. Memory:
    the state and the activations are written and read once, the weights, gathered over
    fsdp, are read in the forward pass and for both gradients."""
    kept = activation_share(work, mesh)
    numbers = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state.params))
    sizes = dict(mesh.shape)
    read = 3 * COMPUTE_BYTES * numbers / sizes["tensor"] / sizes["expert"]
    traffic = 2 * state_bytes(state) + experiment.accumulate * (2 * kept + read)
    return Costs(
        work.flops / mesh.size,
        traffic,
        tuple(collectives(experiment, state, mesh)),
        kernels=0,
        unknown_loops=0,
    )


def activation_share(work: Work, mesh: Mesh) -> float:
    """Bytes of the activations on one chip, divided over rows and positions."""
    return work.activations / axes.batch_shards(mesh) / mesh.shape["context"]


def state_bytes(tree: Any) -> int:
    """Bytes of the largest shard of each array of abstract arrays with shardings."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def gradient_bytes(experiment: Experiment) -> int:
    """Bytes of a number of a gradient, as it is added over devices."""
    return np.dtype(experiment.gradient_dtype).itemsize


def method(mesh: Mesh) -> str:
    """How this module finds the costs, and what it leaves out."""
    left_out = [axis for axis in ("context", "expert") if mesh.shape[axis] > 1]
    text = "counted, not compiled"
    if left_out:
        text += f", without what layers exchange over {' and '.join(left_out)}"
    return text


def collectives(experiment: Experiment, state: State, mesh: Mesh) -> list[Collective]:
    """fsdp: the weights gathered for the forward and for the backward pass of each
    microbatch, gradients reduce-scattered; gradients all-reduced over the axes of rows
    and positions that do not divide their weight; tensor: the output of each sublayer
    all-reduced in both passes. All overlap but the last."""
    sizes = dict(mesh.shape)
    leaves = jax.tree_util.tree_flatten_with_path(state.params)[0]
    numbers = [(path, leaf, _mesh_axes(leaf)) for path, leaf in leaves]
    found = []
    divided = sum(
        math.prod(leaf.shape) / sizes["tensor"] ** ("tensor" in claimed)
        for _, leaf, claimed in numbers
        if "fsdp" in claimed
    )
    fsdp, passes = sizes["fsdp"], experiment.accumulate
    if fsdp > 1 and divided:
        whole = COMPUTE_BYTES * divided, gradient_bytes(experiment) * divided
        span = _span(sizes, {"fsdp"})
        found += [Collective("all-gather", whole[0], fsdp, 2 * passes, True, span)]
        found += [Collective("reduce-scatter", whole[1], fsdp, passes, True, span)]
    reduced: dict[frozenset[str], float] = defaultdict(float)
    for _, leaf, claimed in numbers:
        over = {*axes.ALPHABET["B"].activation, *axes.ALPHABET["L"].activation}
        shard = math.prod(leaf.sharding.shard_shape(leaf.shape))
        reduced[frozenset(over - claimed)] += gradient_bytes(experiment) * shard
    for over, size in reduced.items():
        group = math.prod(sizes[axis] for axis in over)
        if group > 1:
            span = _span(sizes, over)
            found.append(Collective("all-reduce", size, group, 1, True, span))
    tensor = sizes["tensor"]
    if tensor > 1:
        span = _span(sizes, {"tensor"})
        tokens = experiment.batch_size * experiment.tokens_per_row
        tokens /= axes.batch_shards(mesh) * sizes["context"] * passes
        for path, leaf, claimed in numbers:
            if "tensor" not in claimed:
                continue
            letters = axes.dimensions(axes.leaf_name(path))
            # Maps back into the residual stream: attention's and the MLP's output.
            if not letters.endswith("D") or letters == "VD":
                continue
            layers = math.prod(leaf.shape[: len(leaf.shape) - len(letters)])
            size = tokens * leaf.shape[-1] * COMPUTE_BYTES
            times = 2 * layers * passes
            found.append(Collective("all-reduce", size, tensor, times, False, span))
    return found


def _span(sizes: dict[str, int], over: Set[str]) -> int:
    """Chips of a mesh from the first of a group over these axes to its last."""
    distance, stride = 0, 1
    for axis in reversed(axes.AXES):
        distance += (sizes[axis] - 1) * stride if axis in over else 0
        stride *= sizes[axis]
    return distance + 1


def _mesh_axes(leaf: Any) -> set[str]:
    """The mesh axes that divide an abstract array."""
    entries = (e if isinstance(e, tuple) else (e,) for e in leaf.sharding.spec)
    return {axis for entry in entries for axis in entry if axis is not None}
