"""Products of a few rows with int8 or bfloat16 weights on a CPU, read as they are.

Such a product is bound by reading its weights. XLA widens a matrix before it multiplies
and so reads narrow weights no faster than float32. Here each weight is widened in a
register. Needs numba (the extra `narrow`); compiled when it is first called.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numba  # pyright: ignore[reportMissingImports]
import numpy as np
from llvmlite import ir  # pyright: ignore[reportMissingImports]
from numba import types  # pyright: ignore[reportMissingImports]

from transformer.network.kernels import ffi_handlers
from transformer.network.kernels.ffi_handlers import intrinsic, prefetch

# Outputs that are computed at once, and inputs that are added at once.
TILE, DEPTH, TOGETHER = 64, 8, 4
# Bytes that are asked for before they are read: the processor's own prefetch starts
# anew at the end of each row of a part and at each page.
AHEAD, LINE = 12288, 64
# Of fewer weights the threads take longer to start than to multiply.
SMALLEST = 100_000
# Sums in any order; NaN and infinity stay.
FAST = {"reassoc", "contract", "nsz"}

_floats = ffi_handlers.pointer_to(types.float32)


@intrinsic
def _widen_int8(typing: Any, value: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.sitofp(arguments[0], ir.FloatType())

    return types.float32(types.int8), code


@intrinsic
def _widen_bfloat16(typing: Any, value: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        bits = builder.zext(arguments[0], ir.IntType(32))
        bits = builder.shl(bits, ir.Constant(ir.IntType(32), 16))
        return builder.bitcast(bits, ir.FloatType())

    return types.float32(types.uint16), code


# dtype of the stored values: (bytes of one, pointer to them, one of them in float32).
STORED: dict[str, tuple[int, Any, Any]] = {
    "int8": (1, ffi_handlers.pointer_to(types.int8), _widen_int8),
    "uint16": (2, ffi_handlers.pointer_to(types.uint16), _widen_bfloat16),
}


def _inputs_first(size: int, pointer: Any, widen: Any) -> Any:
    """The kernel of weights [inputs, outputs]: adds rows of weights, a tile of outputs
    at a time."""

    @numba.njit(fastmath=FAST)
    def add(y: Any, w: Any, x: Any, at: int, outputs: int, count: int) -> None:
        at_1, at_2, at_3 = at + outputs, at + 2 * outputs, at + 3 * outputs
        at_4, at_5 = at + 4 * outputs, at + 5 * outputs
        at_6, at_7 = at + 6 * outputs, at + 7 * outputs
        x_0, x_1, x_2, x_3 = x[0], x[1], x[2], x[3]
        x_4, x_5, x_6, x_7 = x[4], x[5], x[6], x[7]
        for i in range(count):
            first = x_0 * widen(w[at + i]) + x_1 * widen(w[at_1 + i])
            second = x_2 * widen(w[at_2 + i]) + x_3 * widen(w[at_3 + i])
            third = x_4 * widen(w[at_4 + i]) + x_5 * widen(w[at_5 + i])
            fourth = x_6 * widen(w[at_6 + i]) + x_7 * widen(w[at_7 + i])
            y[i] += (first + second) + (third + fourth)

    @numba.njit(fastmath=FAST)
    def kernel(
        x: int,
        w: int,
        scale: int,
        y: int,
        rows: int,
        inputs: int,
        outputs: int,
        start: int,
        stop: int,
    ) -> None:
        values, factor = pointer(w), _floats(scale)
        row_bytes = outputs * size
        ahead = row_bytes * DEPTH * (1 + AHEAD // ((stop - start) * size * DEPTH))
        for row in range(rows):
            total = _floats(y + 4 * row * outputs)
            for i in range(start, stop):
                total[i] = 0.0
        for at in range(0, inputs - DEPTH + 1, DEPTH):
            for tile in range(start, stop, TILE):
                first = at * outputs + tile
                for line in range(0, TILE * size, LINE):
                    for step in range(DEPTH):
                        place = w + first * size + ahead + line + step * row_bytes
                        prefetch(place)
                for row in range(rows):
                    x_row = _floats(x + 4 * (row * inputs + at))
                    total = _floats(y + 4 * (row * outputs + tile))
                    # A constant number of outputs is compiled without a remainder.
                    if stop - tile >= TILE:
                        add(total, values, x_row, first, outputs, TILE)
                    else:
                        add(total, values, x_row, first, outputs, stop - tile)
        for row in range(rows):
            x_row = _floats(x + 4 * row * inputs)
            total = _floats(y + 4 * row * outputs)
            for at in range(inputs - inputs % DEPTH, inputs):
                for i in range(start, stop):
                    total[i] += x_row[at] * widen(values[at * outputs + i])
            for i in range(start, stop):
                total[i] *= factor[i]

    return kernel


def _outputs_first(size: int, pointer: Any, widen: Any) -> Any:
    """The kernel of weights [outputs, inputs]: inner products, four at a time."""

    @numba.njit(fastmath=FAST)
    def kernel(
        x: int,
        w: int,
        scale: int,
        y: int,
        rows: int,
        inputs: int,
        outputs: int,
        start: int,
        stop: int,
    ) -> None:
        values, factor = pointer(w), _floats(scale)
        last = stop - (stop - start) % TOGETHER
        for at in range(start, last, TOGETHER):
            place = w + (at + TOGETHER) * inputs * size + AHEAD
            for line in range(0, TOGETHER * inputs * size, LINE):
                prefetch(place + line)
            at_0, at_1 = at * inputs, (at + 1) * inputs
            at_2, at_3 = (at + 2) * inputs, (at + 3) * inputs
            for row in range(rows):
                x_row = _floats(x + 4 * row * inputs)
                y_row = _floats(y + 4 * row * outputs)
                sum_0, sum_1 = np.float32(0.0), np.float32(0.0)
                sum_2, sum_3 = np.float32(0.0), np.float32(0.0)
                for i in range(inputs):
                    sum_0 += x_row[i] * widen(values[at_0 + i])
                    sum_1 += x_row[i] * widen(values[at_1 + i])
                    sum_2 += x_row[i] * widen(values[at_2 + i])
                    sum_3 += x_row[i] * widen(values[at_3 + i])
                y_row[at] = sum_0 * factor[at]
                y_row[at + 1] = sum_1 * factor[at + 1]
                y_row[at + 2] = sum_2 * factor[at + 2]
                y_row[at + 3] = sum_3 * factor[at + 3]
        for row in range(rows):
            x_row = _floats(x + 4 * row * inputs)
            y_row = _floats(y + 4 * row * outputs)
            for at in range(last, stop):
                rest = np.float32(0.0)
                for i in range(inputs):
                    rest += x_row[i] * widen(values[at * inputs + i])
                y_row[at] = rest * factor[at]

    return kernel


@functools.cache
def _target(dtype: str, outputs_first: bool) -> str:
    """The name of the handler of a kernel, compiled and registered."""
    make = _outputs_first if outputs_first else _inputs_first
    handler, task = ffi_handlers.compile_product(
        make(*STORED[dtype]), tile=TILE, smallest=SMALLEST
    )
    name = f"transformer_{dtype}_{make.__name__.strip('_')}"
    ffi_handlers.register(name, handler)
    # XLA and the handler have their addresses only.
    _alive.append((handler, task))
    return name


_alive: list[Any] = []


def product(
    x_RD: jax.Array, w: jax.Array, scale_F: jax.Array, *, outputs_first: bool
) -> jax.Array:
    """x [rows, inputs] times w in float32, times the scale of each output: float32
    [rows, outputs].

    w: int8, or uint16, the bits of bfloat16; [outputs, inputs] if `outputs_first`, else
    [inputs, outputs]. x, scale: float32. ValueError for other dtypes.
    """
    dtypes = x_RD.dtype, w.dtype.name, scale_F.dtype
    if w.dtype.name not in STORED or (dtypes[0], dtypes[2]) != (jnp.float32,) * 2:
        raise ValueError(
            f"product: expected float32 features and scales and weights of "
            f"{', '.join(STORED)}, got {x_RD.dtype}, {scale_F.dtype} and {w.dtype}"
        )
    shape = jax.ShapeDtypeStruct((x_RD.shape[0], scale_F.shape[0]), jnp.float32)
    name = _target(w.dtype.name, outputs_first)
    return jax.ffi.ffi_call(name, shape)(x_RD, w, scale_F)
