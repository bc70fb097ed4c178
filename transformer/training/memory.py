"""The memory that training a model needs, and what there is."""

from __future__ import annotations

import math
import os
from typing import Any

import jax

from transformer.training import faults


def state_bytes(abstract_state: Any) -> int:
    """Bytes on the fullest device of a state and of one gradient, activations apart."""
    leaves = jax.tree.leaves(abstract_state)
    gradients = jax.tree.leaves(abstract_state.params)
    return sum(_shard_bytes(leaf) for leaf in [*leaves, *gradients])


def _shard_bytes(leaf: Any) -> int:
    return math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize


def device_bytes() -> int | None:
    """Bytes of memory of a device; of a CPU, its share of the machine's; None where
    that is not known."""
    devices = jax.local_devices()
    stats = devices[0].memory_stats() if devices[0].platform != "cpu" else None
    if stats and "bytes_limit" in stats:
        return int(stats["bytes_limit"])
    if devices[0].platform != "cpu" or not hasattr(os, "sysconf"):
        return None
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return total // len(devices)


def check(abstract_state: Any) -> None:
    """Raise ValueError where the state and a gradient cannot fit on a device."""
    needs, there = state_bytes(abstract_state), device_bytes()
    if there is not None and needs > there:
        raise ValueError(
            f"expected a model whose parameters, gradients and optimizer fit into "
            f"{_gib(there)} of memory a device, got one that needs {_gib(needs)} "
            "without activations"
        )


def check_program(program: Any) -> None:
    """Raise faults.OutOfMemory where a compiled program cannot fit on a device: its
    arguments, results and what it holds between them."""
    sizes, there = program.memory_analysis(), device_bytes()
    if sizes is None or there is None:
        return
    needs = sizes.argument_size_in_bytes + sizes.temp_size_in_bytes
    needs += sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    if needs > there:
        raise faults.OutOfMemory(
            f"expected a step that fits into {_gib(there)} of memory a device, got one "
            f"that needs {_gib(needs)}; {faults.SMALLER}"
        )


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
