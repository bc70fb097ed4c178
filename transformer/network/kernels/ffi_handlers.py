"""Handlers of XLA's foreign function interface, compiled by numba: own kernels in a
program of the CPU, on the threads of XLA.

Needs numba (the extra `narrow`). The layouts are those of XLA's `xla/ffi/api/c_api.h`,
version 0.3 of the interface (jaxlib 0.10); those of 0.5 (jaxlib 0.12) are equal in all
that is read here. A handler says its version when it is registered, so that a jaxlib
that no longer supports it refuses the program.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, cast

import jax
import numba  # pyright: ignore[reportMissingImports]
from llvmlite import ir  # pyright: ignore[reportMissingImports]
from numba import extending, types  # pyright: ignore[reportMissingImports]
from numba.core import cgutils  # pyright: ignore[reportMissingImports]

MINOR_VERSION = 3
METADATA, EXECUTE = 1, 3
# Bytes from the start of a struct to a field.
EXTENSION, EXTENSION_TYPE, METADATA_OF_EXTENSION, VERSION_OF_METADATA = 8, 8, 24, 24
API, CONTEXT, STAGE, ARGUMENTS, RESULTS = 16, 24, 32, 72, 112
DATA, SIZES = 24, 40
SCHEDULE, NUM_THREADS = 48 + 8 * 11, 48 + 8 * 12

# Of the work of a call, which its threads share: words, then the kernel's arguments.
NEXT, DONE, OWNERS, CHUNK, PARTS, KERNEL_ARGUMENTS = 0, 8, 16, 24, 32, 40
WORDS, CALL_WORDS = 5 + 7, 5
# Spins before a waiting thread offers its core to others.
SPINS = 2000

_WORD, _INT32 = ir.IntType(64), ir.IntType(32)


def intrinsic(write: Callable[..., Any]) -> Any:
    """The function of compiled code whose instructions `write` writes."""
    return extending.intrinsic(write)


def _call(builder: Any, name: str, result: Any, *arguments: Any) -> Any:
    """A call of a function of the C library, or of LLVM."""
    kinds = [argument.type for argument in arguments]
    function = ir.FunctionType(result, kinds)
    found = cgutils.get_or_insert_function(builder.module, function, name)
    return builder.call(found, arguments)


@intrinsic
def load(typing: Any, address: Any) -> Any:
    """The word at an address."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(builder.inttoptr(arguments[0], _WORD.as_pointer()))

    return types.int64(types.int64), code


@intrinsic
def store(typing: Any, address: Any, value: Any) -> Any:
    """Write a word to an address."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = builder.inttoptr(arguments[0], _WORD.as_pointer())
        builder.store(arguments[1], place)
        return context.get_dummy_value()

    return types.none(types.int64, types.int64), code


@intrinsic
def fetch_add(typing: Any, address: Any, value: Any) -> Any:
    """Add to the word at an address in one atomic step; the word before."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = builder.inttoptr(arguments[0], _WORD.as_pointer())
        return builder.atomic_rmw("add", place, arguments[1], "seq_cst")

    return types.int64(types.int64, types.int64), code


@intrinsic
def prefetch(typing: Any, address: Any) -> Any:
    """Ask for the cache line of an address, which need not be mapped."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())
        read, all_levels, data = (ir.Constant(_INT32, value) for value in (0, 3, 1))
        _call(builder, "llvm.prefetch.p0", ir.VoidType(), place, read, all_levels, data)
        return context.get_dummy_value()

    return types.none(types.int64), code


@intrinsic
def _malloc(typing: Any, size: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _call(builder, "malloc", _WORD, *arguments)

    return types.int64(types.int64), code


@intrinsic
def _free(typing: Any, address: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _call(builder, "free", ir.VoidType(), *arguments)
        return context.get_dummy_value()

    return types.none(types.int64), code


@intrinsic
def _yield_core(typing: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _call(builder, "sched_yield", _INT32)
        return context.get_dummy_value()

    return types.none(), code


@intrinsic
def _call_address(typing: Any, function: Any, argument: Any) -> Any:
    """Call a function of XLA: from the address of its arguments to that of an error, or
    0."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(_WORD, [_WORD]).as_pointer()
        return builder.call(builder.inttoptr(arguments[0], kind), [arguments[1]])

    return types.int64(types.int64, types.int64), code


def pointer_to(kind: Any) -> Any:
    """A function of an address: the pointer to numbers of this kind."""

    @intrinsic
    def pointer(typing: Any, address: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            value_type = context.get_value_type(types.CPointer(kind))
            return builder.inttoptr(arguments[0], value_type)

        return types.CPointer(kind)(types.int64), code

    return pointer


@numba.njit
def _num_threads(frame: int) -> int:
    """Of XLA's thread pool; 1 where there is none."""
    call = _malloc(8 * CALL_WORDS)
    store(call, 32)
    store(call + 8, 0)
    store(call + 16, load(frame + CONTEXT))
    store(call + 24, call + 32)
    store(call + 32, 1)
    error = _call_address(load(load(frame + API) + NUM_THREADS), call)
    threads = load(call + 32) if error == 0 else 1
    _free(call)
    return threads


@numba.njit
def _schedule(frame: int, task: int, work: int) -> int:
    """Have a thread of XLA run `task(work)`; an error, or 0."""
    call = _malloc(8 * CALL_WORDS)
    store(call, 40)
    store(call + 8, 0)
    store(call + 16, load(frame + CONTEXT))
    store(call + 24, task)
    store(call + 32, work)
    error = _call_address(load(load(frame + API) + SCHEDULE), call)
    _free(call)
    return error


@numba.njit
def _divide(frame: int, tile: int, smallest: int) -> int:
    """The work of a call, in some more parts than threads, one of which may be late."""
    arguments = load(frame + ARGUMENTS)
    x, w, scale = load(arguments), load(arguments + 8), load(arguments + 16)
    y = load(load(frame + RESULTS))
    rows, inputs = load(load(x + SIZES)), load(load(x + SIZES) + 8)
    outputs = load(load(y + SIZES) + 8)
    threads, chunk = 1, outputs
    if inputs * outputs >= smallest:
        threads = _num_threads(frame)
        tiles = (outputs + tile - 1) // tile
        chunk = tile * ((tiles + 4 * threads - 1) // (4 * threads))
    work = _malloc(8 * WORDS)
    store(work + NEXT, 0)
    store(work + DONE, 0)
    store(work + OWNERS, threads)
    store(work + CHUNK, chunk)
    store(work + PARTS, (outputs + chunk - 1) // chunk)
    store(work + KERNEL_ARGUMENTS, load(x + DATA))
    store(work + KERNEL_ARGUMENTS + 8, load(w + DATA))
    store(work + KERNEL_ARGUMENTS + 16, load(scale + DATA))
    store(work + KERNEL_ARGUMENTS + 24, load(y + DATA))
    store(work + KERNEL_ARGUMENTS + 32, rows)
    store(work + KERNEL_ARGUMENTS + 40, inputs)
    store(work + KERNEL_ARGUMENTS + 48, outputs)
    return work


def compile_product(kernel: Any, *, tile: int, smallest: int) -> tuple[Any, Any]:
    """A handler of products, and the task of its threads, which must live as long.

    kernel(x, w, scale, y, rows, inputs, outputs, start, stop): computes the outputs
    from start to stop of all rows, from the addresses of x [rows, inputs], w, scale
    [outputs] and y [rows, outputs]. Outputs are divided between threads in multiples of
    `tile`; products of fewer than `smallest` weights are computed by one thread.

    The caller and every thread take parts until none is left, then the caller waits for
    those that another thread has begun. So a pool that runs no task blocks nothing. The
    last one to leave frees the work.
    """

    @numba.njit
    def take_parts(work: int) -> None:
        x, w, scale, y = (
            load(work + KERNEL_ARGUMENTS),
            load(work + KERNEL_ARGUMENTS + 8),
            load(work + KERNEL_ARGUMENTS + 16),
            load(work + KERNEL_ARGUMENTS + 24),
        )
        rows, inputs, outputs = (
            load(work + KERNEL_ARGUMENTS + 32),
            load(work + KERNEL_ARGUMENTS + 40),
            load(work + KERNEL_ARGUMENTS + 48),
        )
        parts, chunk = load(work + PARTS), load(work + CHUNK)
        part = fetch_add(work + NEXT, 1)
        while part < parts:
            stop = min(outputs, (part + 1) * chunk)
            kernel(x, w, scale, y, rows, inputs, outputs, part * chunk, stop)
            fetch_add(work + DONE, 1)
            part = fetch_add(work + NEXT, 1)

    @numba.njit
    def leave(work: int) -> None:
        if fetch_add(work + OWNERS, -1) == 1:
            _free(work)

    @numba.cfunc(types.void(types.int64))
    def task(work: int) -> None:
        take_parts(work)
        leave(work)

    task_address = cast(int, task.address)

    @numba.cfunc(types.int64(types.int64))
    def handler(frame: int) -> int:
        extension = load(frame + EXTENSION)
        if extension != 0 and load(extension + EXTENSION_TYPE) & 0xFFFF == METADATA:
            metadata = load(extension + METADATA_OF_EXTENSION)
            store(metadata + VERSION_OF_METADATA, MINOR_VERSION << 32)
            return 0
        if load(frame + STAGE) & 0xFFFF != EXECUTE:
            return 0
        work = _divide(frame, tile, smallest)
        for _ in range(load(work + OWNERS) - 1):
            if _schedule(frame, task_address, work) != 0:
                leave(work)
        take_parts(work)
        spins = 0
        while fetch_add(work + DONE, 0) < load(work + PARTS):
            spins += 1
            if spins > SPINS:
                _yield_core()
        leave(work)
        return 0

    return handler, task


def register(name: str, handler: Any) -> None:
    """Give XLA's programs for the CPU a compiled handler by this name."""
    new_capsule: Callable[..., Any] = ctypes.pythonapi.PyCapsule_New
    new_capsule.restype = ctypes.py_object
    new_capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    capsule = new_capsule(handler.address, None, None)
    jax.ffi.register_ffi_target(name, capsule, platform="cpu")
