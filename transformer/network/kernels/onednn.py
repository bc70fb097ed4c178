"""Products by oneDNN, which jaxlib carries for the CPU and XLA does not choose itself.

XLA's own bfloat16 products write float32, which takes a pass of its own to narrow, and
want no operand lying transposed. oneDNN's narrow as they write, take either operand as
it lies (though not always as fast), and use the matrix tiles (AMX) of CPUs that have
them. They are called by the name under which XLA's runtime knows them, which is no
public interface: `found` asks whether it answers. One device only: no partitioner knows
them. And a program with them in it is not kept in the compilation cache: XLA cannot
write it down.
"""

from __future__ import annotations

import functools
import json
import math
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from transformer.network.precision import Product

TARGET = "__onednn$matmul"


def product(
    subscripts: str, a: jax.Array, b: jax.Array, *, dtype: Any = jnp.float32
) -> jax.Array:
    """`precision.product` of two operands: accumulated in float32, returned in `dtype`.

    Each letter must stand in two of the three parts of `subscripts`, or in all three.
    """
    operands, result = subscripts.split("->")
    first, second = operands.split(",")
    sizes = dict(zip(first + second, a.shape + b.shape, strict=True))
    batch = "".join(c for c in first if c in second and c in result)
    summed = "".join(c for c in first if c in second and c not in result)
    rows = "".join(c for c in first if c not in second)
    columns = "".join(c for c in second if c not in first)
    if rows and [c for c in result if c not in batch][: len(columns)] == [*columns]:
        # The other way round, or the result would have to be turned.
        a, b, first, second, rows, columns = b, a, second, first, columns, rows
    left, left_turned = _matrices(a, first, batch, rows, summed)
    right, right_turned = _matrices(b, second, batch, summed, columns)
    narrow = left.dtype == jnp.bfloat16
    if narrow and left_turned and not batch and 2 * left.size <= right.size:
        # A bfloat16 operand that lies transposed is read at half the speed.
        left, left_turned = jax.lax.optimization_barrier(left.T), False
    y = _multiplied(left, right, (left_turned, right_turned), dtype)
    made = batch + rows + columns
    y = y.reshape([sizes[c] for c in made])
    return y.transpose([made.index(c) for c in result])


def _matrices(
    x: jax.Array, letters: str, batch: str, down: str, across: str
) -> tuple[jax.Array, bool]:
    """`x` as a batch of matrices, and whether they lie transposed."""
    sizes = dict(zip(letters, x.shape, strict=True))
    lead = [sizes[c] for c in batch]
    height, width = (math.prod(sizes[c] for c in part) for part in (down, across))
    # The last letter stays the last: what must be laid out anew then costs least.
    turned = letters[-1] in down
    wanted = batch + (across + down if turned else down + across)
    x = x.transpose([letters.index(c) for c in wanted])
    shape = (width, height) if turned else (height, width)
    return x.reshape(*lead, *shape), turned


def _multiplied(
    a: jax.Array, b: jax.Array, turned: tuple[bool, bool], dtype: Any
) -> jax.Array:
    """a b over the last two dimensions; turned: which of them lies transposed."""
    rows = a.shape[-1 if turned[0] else -2]
    columns = b.shape[-2 if turned[1] else -1]
    how = {"transpose_a": turned[0], "transpose_b": turned[1]}
    call: Any = jax.ffi.ffi_call(
        TARGET,
        jax.ShapeDtypeStruct((*a.shape[:-2], rows, columns), dtype),
        vmap_method="broadcast_all",
        custom_call_api_version=1,
        legacy_backend_config=json.dumps({"onednn_matmul_config": how}),
    )
    return call(a, b)


def found() -> Product:
    """`product`, where it works. ValueError: not on this machine, or with this jaxlib,
    or with several devices."""
    why = _missing()
    if why:
        raise ValueError(f"products by oneDNN: expected {why}; use XLA's instead")
    return product


def _missing() -> str:
    """What is not as it must be, or ""."""
    if jax.default_backend() != "cpu":
        return f"a CPU, got {jax.default_backend()}"
    if jax.device_count() > 1:
        return f"one device, got {jax.device_count()}"
    return _wrong()


@functools.cache
def _wrong() -> str:
    """What is wrong with a first product, or ""."""
    numbers = np.arange(64 * 64, dtype=np.float32).reshape(64, 64) % 7
    try:
        with warnings.catch_warnings():
            # That the program is not kept is said above.
            warnings.simplefilter("ignore")
            got = jax.jit(functools.partial(product, "LK,MK->LM"))(numbers, numbers)
        right = np.array_equal(np.asarray(got), numbers @ numbers.T)
    except (jax.errors.JaxRuntimeError, TypeError, ValueError) as error:
        return f"a jaxlib that has them, got {str(error).splitlines()[0]}"
    return "" if right else "their results to be right, got others"
