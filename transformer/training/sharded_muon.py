"""The Muon of optax, its products divided over the devices of a mesh.

The matrices of all layers, rather than the rows of each, are divided: an all-to-all
brings whole matrices together, each device orthogonalizes its own, and an all-to-all
takes them back. Liu et al. (2025, arXiv 2502.16982, section 2.3) gather each matrix on
the devices that share it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec
from optax.contrib import MuonDimensionNumbers

from transformer import axes

# Of the polynomial a x + b x^3 + c x^5, whose slope at 0 is steep and which takes
# singular values of at most 1 to between 0.7 and 1.2 (Jordan et al. 2024).
COEFFICIENTS = 3.4445, -4.7750, 2.0315
STEPS = 5

# Of a tree of parameters: each leaf's `MuonDimensionNumbers`, or None for Adam.
Dimensions = Callable[[Any], Any]


class Matrices(NamedTuple):
    """A parameter as a stack of matrices (C, rows, columns), rows <= columns.

    axes: the mesh axes that divide each of these dimensions. order: of the parameter's
    own dimensions in the stack.
    """

    stack: jax.Array
    axes: tuple[tuple[str, ...], ...]
    order: tuple[int, ...]

    def to_parameter(self, stack: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """`stack`, in the form of this one, as a parameter of `shape`."""
        back = sorted(range(len(shape)), key=lambda i: self.order[i])
        return stack.reshape([shape[i] for i in self.order]).transpose(back)


def muon(
    muon_learning_rate: optax.ScalarOrSchedule,
    adam_learning_rate: optax.ScalarOrSchedule,
    dimensions: Dimensions,
    *,
    weight_decay: float,
    is_decayed: Callable[[Any], Any],
) -> optax.GradientTransformation:
    """As `optax.contrib.muon`, with its state, for updates within `jax.set_mesh`."""

    def label(params: Any) -> Any:
        return jax.tree.map(
            lambda numbers: "adam" if numbers is None else "muon",
            dimensions(params),
            is_leaf=lambda x: x is None or isinstance(x, MuonDimensionNumbers),
        )

    by_muon = optax.chain(
        scale_by_muon(dimensions),
        scale_by_shape(dimensions),
        optax.add_decayed_weights(weight_decay, is_decayed),
        optax.scale_by_learning_rate(muon_learning_rate),
    )
    by_adam = optax.adamw(adam_learning_rate, b2=0.95, weight_decay=0.0, nesterov=True)
    return optax.partition({"muon": by_muon, "adam": by_adam}, label)


def scale_by_muon(dimensions: Dimensions) -> optax.GradientTransformation:
    """Nesterov momentum with bias correction, normalized, as optax has it, and then
    `orthogonalize`."""
    momentum = optax.contrib.scale_by_muon(
        COEFFICIENTS, ns_steps=0, weight_dimension_numbers=dimensions
    )

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        ahead, state = momentum.update(updates, state, params)
        return orthogonalize(ahead, dimensions(updates)), state

    return optax.GradientTransformation(momentum.init, update)


def scale_by_shape(dimensions: Dimensions) -> optax.GradientTransformation:
    """sqrt(outputs / inputs) where that is more than 1 (Jordan et al. 2024)."""

    def scale(x: jax.Array, numbers: Any) -> jax.Array:
        inputs, outputs = (math.prod(x.shape[i] for i in side) for side in numbers)
        return jnp.sqrt(jnp.maximum(1, outputs / inputs)) * x

    def update(updates: Any, params: Any = None) -> Any:
        return jax.tree.map(scale, updates, dimensions(updates))

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


def orthogonalize(tree: Any, dimensions: Any) -> Any:
    """`newton_schulz` of the matrices of each leaf, those of one shape and placement
    together, divided over the mesh of `jax.set_mesh`."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    numbers = structure.flatten_up_to(dimensions)
    matrices = [
        _matrices(path, leaf, one)
        for (path, leaf), one in zip(leaves, numbers, strict=True)
    ]
    groups: dict[Any, list[int]] = defaultdict(list)
    for place, one in enumerate(matrices):
        groups[one.stack.shape[1:], one.axes].append(place)
    result: dict[int, jax.Array] = {}
    for (_, over), places in groups.items():
        stacks = [matrices[place].stack for place in places]
        result |= zip(places, _orthogonalize_stacks(stacks, over), strict=True)
    return structure.unflatten(
        one.to_parameter(result[place], leaf.shape)
        for place, (one, (_, leaf)) in enumerate(zip(matrices, leaves, strict=True))
    )


def _matrices(path: Sequence[Any], leaf: jax.Array, numbers: Any) -> Matrices:
    rows, columns = map(tuple, numbers)
    over = axes.parameter_axes(path, leaf.shape)

    def size(side: Sequence[int]) -> int:
        return math.prod(leaf.shape[i] for i in side)

    def axes_of(side: Sequence[int]) -> tuple[str, ...]:
        return tuple(axis for i in side for axis in over[i])

    # Square ones are turned such that one group holds them.
    if (size(rows), axes_of(rows)) > (size(columns), axes_of(columns)):
        rows, columns = columns, rows
    lead = [i for i in range(leaf.ndim) if i not in (*rows, *columns)]
    # A dimension that the mesh divides (experts) is the major one.
    lead.sort(key=lambda i: not over[i])
    order = (*lead, *rows, *columns)
    stack = leaf.transpose(order).reshape(-1, size(rows), size(columns))
    return Matrices(stack, (axes_of(lead), axes_of(rows), axes_of(columns)), order)


def _orthogonalize_stacks(
    stacks: list[jax.Array], over: tuple[tuple[str, ...], ...]
) -> list[jax.Array]:
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return list(map(newton_schulz, stacks))
    spec = PartitionSpec(*over)
    of_shards = partial(_orthogonalize_shards, over, dict(mesh.shape))
    specs: Any = {"in_specs": spec, "out_specs": spec, "check_vma": False}
    return jax.shard_map(of_shards, **specs)(stacks)


def _orthogonalize_shards(
    over: tuple[tuple[str, ...], ...], sizes: dict[str, int], shards: list[jax.Array]
) -> list[jax.Array]:
    """On one device, of the shards that it has of some stacks."""
    lead, rows, columns = over
    x_CIO = jnp.concatenate(shards)
    # The last of several axes divides a dimension the finest.
    exchanges = [(axis, 1) for axis in reversed(rows)]
    exchanges += [(axis, 2) for axis in reversed(columns)]
    parts, copies = math.prod(sizes[axis] for axis, _ in exchanges), []
    for axis, size in sizes.items():
        if axis not in lead + rows + columns and size > 1 and parts < len(x_CIO):
            copies.append(axis)
            parts *= size
    ends = [sum(map(len, shards[: i + 1])) for i in range(len(shards))]
    x_CIO = jnp.pad(x_CIO, ((0, -len(x_CIO) % parts), (0, 0), (0, 0)))
    # XLA's simplification for CPUs breaks an all-to-all that it sees to send zeros.
    x_CIO = jax.lax.optimization_barrier(x_CIO)
    for axis, dimension in exchanges:
        x_CIO = jax.lax.all_to_all(x_CIO, axis, 0, dimension, tiled=True)
    for axis in copies:
        count = len(x_CIO) // sizes[axis]
        first = count * jax.lax.axis_index(axis)
        x_CIO = jax.lax.dynamic_slice_in_dim(x_CIO, first, count)
    x_CIO = newton_schulz(x_CIO)
    for axis in reversed(copies):
        x_CIO = jax.lax.all_gather(x_CIO, axis, tiled=True)
    for axis, dimension in reversed(exchanges):
        x_CIO = jax.lax.all_to_all(x_CIO, axis, dimension, 0, tiled=True)
    return jnp.split(x_CIO, ends)[:-1]
