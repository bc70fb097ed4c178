"""Parameters that several processes hold in parts, whole on the devices of each.

A report or a verb samples, draws and scores as one process does: it reads its results
on the host, and an array that spans the devices of other processes cannot be read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from transformer import axes
from transformer.training import memory


@contextmanager
def on_own_devices(params: Any) -> Iterator[Any]:
    """Within it the mesh has the devices of this process alone, and the yielded
    parameters, equal to `params`, are on them; of one process nothing changes.

    All processes must enter it: the parts are exchanged. They lie on the mesh axis
    fsdp where the mesh that is set divides more than rows, else each device has all.
    Raises faults.OutOfMemory, before the exchange, where no device can hold its part.
    """
    if jax.process_count() == 1:
        yield params
        return
    devices = jax.local_devices()
    sizes = dict(jax.sharding.get_abstract_mesh().shape)
    rows_alone = all(n == 1 for a, n in sizes.items() if a not in ("slice", "data"))
    axis: Any = {"data" if rows_alone else "fsdp": len(devices)}
    mesh = axes.make_mesh(devices=devices, **axis)
    shardings = axes.shardings(mesh, params)
    memory.check_copy(params, shardings)
    copy = jax.tree.map(_copy, params, shardings)
    with jax.set_mesh(mesh):
        yield copy


def _copy(a: Any, sharding: NamedSharding) -> jax.Array:
    """The whole array with a sharding over devices of this process. One array at a time
    is whole on a device."""
    if isinstance(a, jax.Array) and not a.is_fully_addressable:
        if not a.is_fully_replicated:
            assert isinstance(a.sharding, NamedSharding)
            whole = NamedSharding(a.sharding.mesh, PartitionSpec())
            a = jax.jit(lambda a: a, out_shardings=whole)(a)
        a = a.addressable_data(0)
    return jax.device_put(a, sharding)
