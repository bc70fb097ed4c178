"""From rows on the host to global batches on the mesh, made ahead of their steps."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from transformer import axes
from transformer.training.experiment import BatchFn

Value = TypeVar("Value")


def check(
    batch_size: int, microbatches: int, mesh: Mesh, *, name: str = "batch_size"
) -> None:
    """Raise ValueError unless `microbatches` equal parts of a batch divide over the
    mesh. name: of the batch, for the message."""
    shards = axes.batch_shards(mesh)
    if batch_size % (microbatches * shards):
        raise ValueError(
            f"{name}: expected a multiple of {microbatches * shards} "
            f"({microbatches} microbatches x {shards} shards of the mesh), "
            f"got {batch_size}"
        )


def sharded_batches(
    batch: BatchFn, batch_size: int, mesh: Mesh
) -> Callable[[int], Any]:
    """step -> the global batch on the mesh; each process makes its own rows only.

    A process asks `batch` for the rows that its devices hold, on any mesh. Raises
    ValueError when the rows do not divide over the mesh.
    """
    row = jax.tree.map(np.asarray, batch(0, [0]))
    shapes = {
        name: jax.ShapeDtypeStruct((batch_size, *a.shape[1:]), a.dtype)
        for name, a in row.items()
    }
    shardings = axes.batch_shardings(mesh, shapes)
    rows = _local_rows(shapes, shardings)

    def sharded_batch(step: int) -> Any:
        local = batch(step, rows)
        return {
            name: _shard(local[name], shapes[name].shape, shardings[name], rows)
            for name in shapes
        }

    return sharded_batch


def _local_rows(
    shapes: dict[str, Any], shardings: dict[str, NamedSharding]
) -> list[int]:
    """The rows that this process's devices hold, ascending."""
    held: set[int] = set()
    for name, shape in shapes.items():
        slices: Any = shardings[name].addressable_devices_indices_map(shape.shape)
        for index in slices.values():
            held.update(range(*index[0].indices(shape.shape[0])))
    return sorted(held)


def _shard(
    local: np.ndarray,
    shape: tuple[int, ...],
    sharding: NamedSharding,
    rows: Sequence[int],
) -> jax.Array:
    def part(index: Any) -> np.ndarray:
        start, stop, _ = index[0].indices(shape[0])
        first = int(np.searchsorted(rows, start))
        return local[(slice(first, first + stop - start), *index[1:])]

    return jax.make_array_from_callback(shape, sharding, part)


def prefetch(
    function: Callable[[int], Value],
    steps: Iterable[int],
    *,
    depth: int = 2,
    threads: int = 1,
) -> Generator[Value, None, None]:
    """`function(step)` for each of `steps`, in order, computed up to `depth` ahead.

    Work begins at the call. An exception of the function is raised at its step, with
    the thread's traceback; `close()` (or the end, or an error) stops the threads.
    """
    if depth < 1 or threads < 1:
        raise ValueError(f"expected depth and threads >= 1, got {depth}, {threads}")
    pool = ThreadPoolExecutor(threads, thread_name_prefix="prefetch")
    remaining = iter(steps)
    pending: deque[Future[Value]] = deque()

    def submit() -> None:
        while len(pending) < depth:
            step = next(remaining, None)
            if step is None:
                return
            pending.append(pool.submit(function, step))

    def values() -> Generator[Value, None, None]:
        try:
            while pending:
                value = pending.popleft().result()
                submit()
                yield value
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    submit()
    return values()
