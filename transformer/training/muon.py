"""Muon: momentum, made orthogonal (Jordan et al. 2024; Liu et al. 2025,
arXiv 2502.16982), whose products are divided over the mesh.

On one device it is the Muon of optax, bit for bit, with the same state. On a mesh the
matrices of all layers, rather than the rows of each, are divided over the devices: an
all-to-all brings whole matrices together, each device makes its own orthogonal, and an
all-to-all takes them back (as in Liu et al. 2025, section 2.3, which gathers instead).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec
from optax.contrib import MuonDimensionNumbers

from transformer import axes

# f(x) = a x + b x^3 + c x^5 has a steep slope at 0 and takes singular values of at most
# 1 to between 0.7 and 1.2 (Jordan et al. 2024).
COEFFICIENTS = 3.4445, -4.7750, 2.0315
STEPS = 5


class Matrices(NamedTuple):
    """A parameter as a stack of matrices (C, rows, columns), rows <= columns, and the
    mesh axes that divide each of these dimensions. order: of the parameter's axes."""

    stack: jax.Array
    divided: tuple[tuple[str, ...], ...]
    order: tuple[int, ...]

    @property
    def group(self) -> Any:
        """Equal for matrices that one stack can hold."""
        return self.stack.shape[1:], self.divided


def scale_by_muon(dimension_numbers: Any) -> optax.GradientTransformation:
    """Nesterov momentum with bias correction, normalized, as optax has it, then made
    orthogonal.

    dimension_numbers(tree): of each leaf its `MuonDimensionNumbers`.
    """
    momentum = optax.contrib.scale_by_muon(
        COEFFICIENTS, ns_steps=0, weight_dimension_numbers=dimension_numbers
    )

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        ahead, state = momentum.update(updates, state, params)
        return orthogonalize(ahead, dimension_numbers(updates)), state

    return optax.GradientTransformation(momentum.init, update)


def scale_by_shape(dimension_numbers: Any) -> optax.GradientTransformation:
    """sqrt(outputs / inputs) where that is more than 1 (Jordan et al. 2024)."""

    def scale(x: jax.Array, numbers: MuonDimensionNumbers) -> jax.Array:
        inputs, outputs = (math.prod(x.shape[i] for i in side) for side in numbers)  # pyright: ignore
        return jnp.sqrt(jnp.maximum(1, outputs / inputs)) * x

    def update(updates: Any, params: Any = None) -> Any:
        return jax.tree.map(scale, updates, dimension_numbers(updates))

    return optax.stateless(update)


def newton_schulz(x_CIO: jax.Array) -> jax.Array:
    """The singular values of each matrix of a stack, which are at most 1, taken to
    about 1."""
    a, b, c = jnp.asarray(COEFFICIENTS, x_CIO.dtype)

    def of_matrix(x: jax.Array) -> jax.Array:
        for _ in range(STEPS):
            gram = x @ x.T
            x = a * x + (b * gram + c * gram @ gram) @ x
        return x

    return jax.vmap(of_matrix)(x_CIO)


def orthogonalize(tree: Any, numbers: Any) -> Any:
    """Each leaf made orthogonal, as the matrices of its dimension numbers."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    each = structure.flatten_up_to(numbers)
    taken = [
        _matrices(path, leaf, one)
        for (path, leaf), one in zip(leaves, each, strict=True)
    ]
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        done = [newton_schulz(one.stack) for one in taken]
    else:
        done = _divided(taken)
    given = [
        _parameter(stack, one, leaf.shape)
        for stack, one, (_, leaf) in zip(done, taken, leaves, strict=True)
    ]
    return structure.unflatten(given)


def _matrices(
    path: Sequence[Any], leaf: jax.Array, numbers: MuonDimensionNumbers
) -> Matrices:
    inputs, outputs = (tuple(side) for side in numbers)  # pyright: ignore
    claimed = axes.mesh_axes(path, leaf.shape)

    def size(side: Sequence[int]) -> int:
        return math.prod(leaf.shape[i] for i in side)

    def over(side: Sequence[int]) -> tuple[str, ...]:
        return tuple(axis for i in side for axis in claimed[i])

    # Square ones are turned such that one group holds them.
    if (size(inputs), over(inputs)) > (size(outputs), over(outputs)):
        inputs, outputs = outputs, inputs
    lead = [i for i in range(leaf.ndim) if i not in (*inputs, *outputs)]
    # A divided dimension (experts) is the major one.
    lead.sort(key=lambda i: not claimed[i])
    order = (*lead, *inputs, *outputs)
    stack = leaf.transpose(order).reshape(-1, size(inputs), size(outputs))
    return Matrices(stack, (over(lead), over(inputs), over(outputs)), order)


def _parameter(
    stack: jax.Array, matrices: Matrices, shape: tuple[int, ...]
) -> jax.Array:
    back = tuple(sorted(range(len(shape)), key=lambda i: matrices.order[i]))
    moved = stack.reshape([shape[i] for i in matrices.order])
    return moved.transpose(back)


def _divided(taken: list[Matrices]) -> list[jax.Array]:
    """As `newton_schulz` of each stack, those of one shape together, divided over the
    devices."""
    sizes = dict(jax.sharding.get_abstract_mesh().shape)
    groups: dict[Any, list[int]] = defaultdict(list)
    for number, one in enumerate(taken):
        groups[one.group].append(number)
    done: dict[int, jax.Array] = {}
    for numbers in groups.values():
        stacks = [taken[number].stack for number in numbers]
        divided = taken[numbers[0]].divided
        spec = PartitionSpec(*divided)
        specs: Any = {"in_specs": spec, "out_specs": spec, "check_vma": False}
        each = jax.shard_map(partial(_of_shards, divided, sizes), **specs)(stacks)
        done |= dict(zip(numbers, each, strict=True))
    return [done[number] for number in range(len(taken))]


def _of_shards(
    divided: tuple[tuple[str, ...], ...], sizes: dict[str, int], shards: list[jax.Array]
) -> list[jax.Array]:
    """`newton_schulz` of stacks of which a device has its shards, by `shard_map`."""
    lead, rows, columns = divided
    x_CIO = jnp.concatenate(shards)
    # The last axis of several that divide a dimension divides it the finest.
    exchanges = [(axis, 1) for axis in reversed(rows)]
    exchanges += [(axis, 2) for axis in reversed(columns)]
    parts, copies = math.prod(sizes[axis] for axis, _ in exchanges), []
    for axis, size in sizes.items():
        if axis not in lead + rows + columns and size > 1 and parts < len(x_CIO):
            copies.append(axis)
            parts *= size
    cuts = [sum(map(len, shards[:i])) for i in range(1, len(shards) + 1)]
    x_CIO = jnp.pad(x_CIO, ((0, -len(x_CIO) % parts), (0, 0), (0, 0)))
    # XLA's simplification for CPUs breaks an all-to-all that it sees to send zeros.
    x_CIO = jax.lax.optimization_barrier(x_CIO)
    for axis, dimension in exchanges:
        x_CIO = jax.lax.all_to_all(x_CIO, axis, 0, dimension, tiled=True)
    for axis in copies:
        each = len(x_CIO) // sizes[axis]
        start = each * jax.lax.axis_index(axis)
        x_CIO = jax.lax.dynamic_slice_in_dim(x_CIO, start, each)
    x_CIO = newton_schulz(x_CIO)
    for axis in reversed(copies):
        x_CIO = jax.lax.all_gather(x_CIO, axis, tiled=True)
    for axis, dimension in reversed(exchanges):
        x_CIO = jax.lax.all_to_all(x_CIO, axis, dimension, 0, tiled=True)
    return jnp.split(x_CIO, cuts)[:-1]
