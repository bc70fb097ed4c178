"""Rows of a table of embeddings whose features the mesh divides.

The plain way gathers the table (V, D) on every device and adds up a gradient of its
size. Here N devices with D / N features each are p groups, and a group gathers D / p
features, a piece of the table. A device looks up the tokens of p devices, one of each
group, in its piece; an all-to-all takes the features to the devices of their tokens.
The gradient goes the same way back: all-to-all, sum over the tokens in float32,
reduce-scatter in the group, in float32 or `axes.gradient_dtype`.

With T tokens a device and w bytes a number, a device sends V D (w + 4) bytes in the
plain way and V D (w + 4) / p + 2 T D w + 4 T p here: less, where w is 2, up to about
1.5 V tokens. No piece has fewer features than a TPU's register has lanes: so a device
reads and adds up as many registers as in the plain way, of parts of more tokens.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from transformer import axes

LANES = 128
# Of an id, and of a number of a gradient's sum.
BYTES = 4
Groups = tuple[tuple[int, ...], ...]


class _Division(NamedTuple):
    """shape: of the table. rows, over: mesh axes of its V and D. ids: of B and of L.
    groups: the devices, by their index in `over`, that gather a piece. across: those
    that exchange tokens, one of each group."""

    shape: tuple[int, ...]
    rows: tuple[str, ...]
    over: tuple[str, ...]
    ids: tuple[tuple[str, ...], ...]
    groups: Groups
    across: Groups

    @property
    def table_spec(self) -> PartitionSpec:
        return PartitionSpec(self.rows, self.over)

    @property
    def token_axes(self) -> tuple[str, ...]:
        return tuple(axis for entry in self.ids for axis in entry)


def rows(table_VD: jax.Array, ids: jax.Array) -> jax.Array:
    """`table_VD[ids]` for ids of any shape. No device has the whole table where the
    mesh of `jax.set_mesh` divides both D and the ids (B, L) and less is sent so."""
    division = _division(table_VD, ids) if ids.ndim == 2 else None
    if division is None:
        return axes.replicate(table_VD)[ids]
    return _rows(division, table_VD, ids)


def _division(table_VD: jax.Array, ids_BL: jax.Array) -> _Division | None:
    """None where the plain lookup sends less, or where devices that divide D have the
    same tokens."""
    rows, over = axes.dimension_axes(table_VD.shape, "VD", "parameter")
    ids = tuple(axes.dimension_axes(ids_BL.shape, "BL", "activation"))
    sizes = dict(jax.sharding.get_abstract_mesh().shape)
    devices = math.prod(sizes[axis] for axis in over)
    width, item = table_VD.shape[1], table_VD.dtype.itemsize
    wide = (p for p in range(devices, 0, -1) if width // p >= LANES)
    pieces = next((p for p in wide if not devices % p), 1)
    group = devices // pieces
    starts = range(0, devices, group)
    groups = tuple(tuple(range(start, start + group)) for start in starts)
    across = tuple(zip(*groups, strict=True))
    found = _Division(table_VD.shape, rows, over, ids, groups, across)
    tokens = ids_BL.size // math.prod(sizes[axis] for axis in found.token_axes)
    plain = table_VD.size * (item + BYTES)
    sent = plain / pieces + 2 * tokens * width * item + BYTES * tokens * pieces
    return found if sent < plain and {*over} <= {*found.token_axes} else None


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _rows(division: _Division, table_VD: jax.Array, ids_BL: jax.Array) -> jax.Array:
    def of_device(table_VD: jax.Array, ids_BL: jax.Array) -> jax.Array:
        if division.rows:
            table_VD = jax.lax.all_gather(table_VD, division.rows, tiled=True)
        within: Any = {"axis_index_groups": list(map(list, division.groups))}
        table_VD = jax.lax.all_gather(
            table_VD, division.over, axis=1, tiled=True, **within
        )
        x_CBLD = table_VD[_gather_ids(division, ids_BL)]
        return _exchange(division, x_CBLD, 0, 3)[0]

    specs = division.table_spec, PartitionSpec(*division.ids)
    over_mesh = jax.shard_map(
        of_device, in_specs=specs, out_specs=specs[1], check_vma=False
    )
    return over_mesh(table_VD, ids_BL)


def _rows_forward(division: _Division, table_VD: jax.Array, ids_BL: jax.Array) -> Any:
    like = jnp.zeros((), table_VD.dtype)
    return _rows(division, table_VD, ids_BL), (ids_BL, like)


def _rows_backward(division: _Division, residuals: Any, grad_BLD: jax.Array) -> Any:
    ids_BL, like = residuals
    others = tuple(axis for axis in division.token_axes if axis not in division.over)
    added = like.dtype if like.dtype == axes.gradient_dtype() else jnp.float32

    def of_device(ids_BL: jax.Array, grad_BLD: jax.Array) -> jax.Array:
        grad_CBLD = _exchange(division, grad_BLD[None], 3, 0)
        shape = division.shape[0], grad_CBLD.shape[-1]
        sum_VD = jnp.zeros(shape, jnp.float32)
        sum_VD = sum_VD.at[_gather_ids(division, ids_BL)].add(grad_CBLD)
        if division.rows:
            count = jax.lax.axis_size(division.rows)
            first = jax.lax.axis_index(division.rows) * (len(sum_VD) // count)
            sum_VD = jax.lax.dynamic_slice_in_dim(sum_VD, first, len(sum_VD) // count)
        sum_VD = sum_VD.astype(added)
        sum_VD = jax.lax.psum_scatter(
            sum_VD,
            division.over,
            scatter_dimension=1,
            axis_index_groups=list(map(list, division.groups)),
            tiled=True,
        )
        if others:
            sum_VD = jax.lax.psum(sum_VD, others)
        return sum_VD.astype(like.dtype)

    ids_spec = PartitionSpec(*division.ids)
    over_mesh = jax.shard_map(
        of_device,
        in_specs=(ids_spec, ids_spec),
        out_specs=division.table_spec,
        check_vma=False,
    )
    return over_mesh(ids_BL, grad_BLD), None


_rows.defvjp(_rows_forward, _rows_backward)


def _gather_ids(division: _Division, ids_BL: jax.Array) -> jax.Array:
    """Those of the devices across, (C, B, L)."""
    within: Any = {"axis_index_groups": list(map(list, division.across))}
    return jax.lax.all_gather(ids_BL, division.over, **within)


def _exchange(
    division: _Division, x_CBLD: jax.Array, split: int, join: int
) -> jax.Array:
    """Between the devices across: dimension `split` divided among them, `join` put
    together."""
    within: Any = {"axis_index_groups": list(map(list, division.across))}
    return jax.lax.all_to_all(x_CBLD, division.over, split, join, tiled=True, **within)
