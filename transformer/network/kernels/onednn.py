"""Matrix products by oneDNN, which jaxlib contains for the CPU and XLA does not use.

XLA's own bfloat16 products write float32, which needs another pass to round, and are
slow with transposed operands. oneDNN's products round while they write, accept either
operand transposed (though not always as fast), and use the matrix tiles (AMX) of CPUs
that have them. The call uses the name of XLA's runtime, which is not a public
interface: `einsum_if_available` tests it. One device only: no partitioner supports the
call. A program with such calls is not in the compilation cache: XLA cannot serialize
it.
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

from transformer import cpu_tuning
from transformer.network.precision import Einsum

TARGET = "__onednn$matmul"


def einsum(
    subscripts: str, a: jax.Array, b: jax.Array, *, dtype: Any = jnp.float32
) -> jax.Array:
    """`precision.einsum_f32` of two operands: accumulated in float32, returned in
    `dtype`. Each letter must stand in two or three of the three parts of `subscripts`.

    ValueError for bfloat16 on a CPU without AVX-512, where oneDNN has no such product
    and XLA ends the process.
    """
    if jnp.bfloat16 in (a.dtype, b.dtype, dtype) and not multiplies_bfloat16():
        raise ValueError(
            "products by oneDNN: expected float32 on a CPU without AVX-512, got "
            "bfloat16; use XLA's instead"
        )
    operands, result = subscripts.split("->")
    first, second = operands.split(",")
    sizes = dict(zip(first + second, a.shape + b.shape, strict=True))
    batch = "".join(c for c in first if c in second and c in result)
    summed = "".join(c for c in first if c in second and c not in result)
    rows = "".join(c for c in first if c not in second)
    columns = "".join(c for c in second if c not in first)
    if rows and [c for c in result if c not in batch][: len(columns)] == [*columns]:
        # Swap the operands, or the result would need a transpose.
        a, b, first, second, rows, columns = b, a, second, first, columns, rows
    left, left_transposed = _matrices(a, first, batch, rows, summed)
    right, right_transposed = _matrices(b, second, batch, summed, columns)
    narrow = left.dtype == jnp.bfloat16
    if narrow and left_transposed and not batch and 2 * left.size <= right.size:
        # oneDNN reads a transposed bfloat16 operand at half the speed.
        left, left_transposed = jax.lax.optimization_barrier(left.T), False
    y = _matmul(left, right, (left_transposed, right_transposed), dtype)
    letters = batch + rows + columns
    y = y.reshape([sizes[c] for c in letters])
    return y.transpose([letters.index(c) for c in result])


def multiplies_bfloat16() -> bool:
    """Whether oneDNN has products of bfloat16 on this CPU."""
    return "avx512bw" in cpu_tuning.cpu_features()


def _matrices(
    x: jax.Array, letters: str, batch: str, down: str, across: str
) -> tuple[jax.Array, bool]:
    """`x` as a batch of matrices, and whether they are stored transposed."""
    sizes = dict(zip(letters, x.shape, strict=True))
    lead = [sizes[c] for c in batch]
    height, width = (math.prod(sizes[c] for c in part) for part in (down, across))
    # The last letter stays last: the cheapest transpose.
    transposed = letters[-1] in down
    wanted = batch + (across + down if transposed else down + across)
    x = x.transpose([letters.index(c) for c in wanted])
    shape = (width, height) if transposed else (height, width)
    return x.reshape(*lead, *shape), transposed


def _matmul(
    a: jax.Array, b: jax.Array, transposed: tuple[bool, bool], dtype: Any
) -> jax.Array:
    """a b over the last two dimensions; transposed: which operand is stored so."""
    rows = a.shape[-1 if transposed[0] else -2]
    columns = b.shape[-2 if transposed[1] else -1]
    how = {"transpose_a": transposed[0], "transpose_b": transposed[1]}
    call: Any = jax.ffi.ffi_call(
        TARGET,
        jax.ShapeDtypeStruct((*a.shape[:-2], rows, columns), dtype),
        vmap_method="broadcast_all",
        custom_call_api_version=1,
        legacy_backend_config=json.dumps({"onednn_matmul_config": how}),
    )
    return call(a, b)


def einsum_if_available() -> Einsum:
    """`einsum` where it works; ValueError on another machine, with another jaxlib, or
    with several devices."""
    missing = _missing()
    if missing:
        raise ValueError(f"products by oneDNN: expected {missing}; use XLA's instead")
    return einsum


def _missing() -> str:
    """The requirement that is not met, or ""."""
    if jax.default_backend() != "cpu":
        return f"a CPU, got {jax.default_backend()}"
    if jax.device_count() > 1:
        return f"one device, got {jax.device_count()}"
    return _wrong()


@functools.cache
def _wrong() -> str:
    """What is wrong with a test product, or ""."""
    numbers = np.arange(64 * 64, dtype=np.float32).reshape(64, 64) % 7
    try:
        with warnings.catch_warnings():
            # The warning that the program is not cached: see above.
            warnings.simplefilter("ignore")
            got = jax.jit(functools.partial(einsum, "LK,MK->LM"))(numbers, numbers)
        right = np.array_equal(np.asarray(got), numbers @ numbers.T)
    except (jax.errors.JaxRuntimeError, TypeError, ValueError) as error:
        return f"a jaxlib that has them, got {str(error).splitlines()[0]}"
    return "" if right else "their results to be right, got others"
