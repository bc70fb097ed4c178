"""From batches on the host to batches on the mesh."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from transformer import axes
from transformer.training.experiment import BatchOf


def check(batch_size: int, parts: int, mesh: Mesh) -> None:
    """Raise ValueError unless `parts` equal parts of a batch divide over the mesh."""
    shards = axes.batch_shards(mesh)
    if batch_size % (parts * shards):
        raise ValueError(
            f"batch_size: expected a multiple of {parts * shards} ({parts} to "
            f"accumulate x {shards} parts of the mesh), got {batch_size}"
        )


def fed(batch: BatchOf, batch_size: int, mesh: Mesh) -> Callable[[int], Any]:
    """step -> the global batch on the mesh, each process making only its own rows.

    Works for any mesh: what a process asks of `batch` are the rows that its devices
    hold, and of those it hands each device its slice of positions. Raises ValueError
    when the mesh cannot divide the rows evenly.
    """
    row = jax.tree.map(np.asarray, batch(0, [0]))
    shapes = {
        name: jax.ShapeDtypeStruct((batch_size, *a.shape[1:]), a.dtype)
        for name, a in row.items()
    }
    places = axes.batch_placement(mesh, shapes)
    rows = _rows(shapes, places)

    def at(step: int) -> Any:
        made = batch(step, rows)
        return {
            name: _placed(made[name], shapes[name].shape, places[name], rows)
            for name in shapes
        }

    return at


def _rows(shapes: dict[str, Any], places: dict[str, NamedSharding]) -> list[int]:
    """The rows that this process's devices hold, ascending."""
    held: set[int] = set()
    for name, shape in shapes.items():
        slices: Any = places[name].addressable_devices_indices_map(shape.shape)
        for index in slices.values():
            held.update(range(*index[0].indices(shape.shape[0])))
    return sorted(held)


def _placed(
    made: np.ndarray,
    shape: tuple[int, ...],
    place: NamedSharding,
    rows: Sequence[int],
) -> jax.Array:
    def part(index: Any) -> np.ndarray:
        start, stop, _ = index[0].indices(shape[0])
        first = int(np.searchsorted(rows, start))
        return made[(slice(first, first + stop - start), *index[1:])]

    return jax.make_array_from_callback(shape, place, part)
