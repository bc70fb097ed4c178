"""The memory that training a model needs, and what there is."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.experimental import multihost_utils

from transformer.training import faults

# The least weights of a block, for each square of its width: of the MLP, 4 times as
# wide or gated and 8/3 as wide; where a flag states that, of queries and outputs.
BLOCK_WEIGHTS = 8
ATTENTION_WEIGHTS = 2


def state_bytes(abstract_state: Any, gradient_dtype: str = "float32") -> int:
    """Bytes on the fullest device of a state and of one gradient, activations apart."""
    leaves = jax.tree.leaves(abstract_state)
    gradient = sum(map(_shard_size, jax.tree.leaves(abstract_state.params)))
    whole = sum(_shard_size(leaf) * leaf.dtype.itemsize for leaf in leaves)
    return whole + gradient * np.dtype(gradient_dtype).itemsize


def _shard_size(leaf: Any) -> int:
    return math.prod(leaf.sharding.shard_shape(leaf.shape))


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


def least_device_bytes() -> float | None:
    """`device_bytes` of the process that has least, so that all choose alike."""
    return _least(device_bytes())


def _least(there: int | None) -> float | None:
    if jax.process_count() == 1:
        return there
    own = np.float32(math.inf if there is None else there)
    least = float(np.min(multihost_utils.process_allgather(own)))
    return None if math.isinf(least) else least


def check_copy(arrays: Any, shardings: Any) -> None:
    """Raise faults.OutOfMemory where `arrays`, copied with these shardings, do not fit
    beside what a device of any process has in use, as far as that is known."""
    parts = jax.tree.map(
        lambda a, s: math.prod(s.shard_shape(a.shape)) * a.dtype.itemsize,
        arrays,
        shardings,
    )
    needs, there = sum(jax.tree.leaves(parts)), device_bytes()
    stats = jax.local_devices()[0].memory_stats() or {}
    free = _least(there and there - stats.get("bytes_in_use", 0))
    if free is not None and needs > free:
        raise faults.OutOfMemory(
            f"expected {_gib(needs)} of memory a device for a copy of the parameters "
            f"on the devices of each process, got {_gib(int(free))}"
        )


def check(abstract_state: Any, gradient_dtype: str = "float32") -> None:
    """Raise ValueError where the state and a gradient cannot fit on a device."""
    needs, there = state_bytes(abstract_state, gradient_dtype), device_bytes()
    if there is not None and needs > there:
        raise _too_large(_gib(needs), there)


def least_weights(sizes: Mapping[str, Any]) -> int:
    """The fewest weights that a model of this library has with these sizes, by the
    names of their flags; 0 without `depth` and `width`."""
    of_block = ATTENTION_WEIGHTS if "expert_width" in sizes else BLOCK_WEIGHTS
    return sizes.get("depth", 0) * of_block * sizes.get("width", 0) ** 2


def check_weights(count: int, devices: int) -> None:
    """Raise the ValueError of `check` where so many weights in float32, and their
    gradients in bfloat16, do not fit on `devices` devices."""
    needs, there = count * (4 + 2) // devices, device_bytes()
    if there is not None and needs > there:
        raise _too_large(f"more than {_gib(needs)}", there)


def _too_large(needs: str, there: int) -> ValueError:
    return ValueError(
        "expected a model whose parameters, gradients and optimizer fit into "
        f"{_gib(there)} of memory a device, got one that needs {needs} "
        "without activations"
    )


@contextmanager
def limit_init(devices: int, gradient_dtype: str = "float32") -> Iterator[None]:
    """Within it, the initialization of a Linen module raises the ValueError of `check`
    at the first layer beyond the memory of `devices` devices: tracing all of a deep
    model takes tens of seconds.

    Counts the parameters so far and their gradients, of scanned layers only one, so
    that what `check` accepts is never refused.
    """
    there, bytes_of = device_bytes(), dict[tuple[int, Any], int]()

    def count(call: Callable[..., Any], arguments: Any, how: Any, context: Any) -> Any:
        result = call(*arguments, **how)
        module = context.module
        if there is None or module.scope is None or not module.is_initializing():
            return result
        leaves = module.variables.get("params", {}).values()
        own = sum(a.size * a.dtype.itemsize for a in leaves if isinstance(a, jax.Array))
        bytes_of[id(module.scope.root), module.path] = own
        parameters = sum(bytes_of.values())
        gradient = parameters * np.dtype(gradient_dtype).itemsize // 4
        needs = (parameters + gradient) // devices
        if own and needs > there:
            raise _too_large(f"more than {_gib(needs)}", there)
        return result

    with nn.intercept_methods(count):
        yield


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
