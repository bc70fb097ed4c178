"""Programs as StableHLO: one file for CPU, CUDA and TPU, with any number of rows and,
up to the model's length, of tokens.

A file holds a function of the exported safetensors, by their own names, and of inputs
(`interchange/programs.py`); docs/exports.md calls it without this library.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.export
import jax.numpy as jnp

from transformer import storage
from transformer.interchange import programs
from transformer.interchange.folder import PretrainedFolder
from transformer.interchange.programs import Program, WrittenProgram

SUFFIX = ".stablehlo"
PLATFORMS = ("cpu", "cuda", "tpu")


def left_out(program: Program) -> str | None:
    """Why this program is not written; None where it is."""
    is_part = program.name in programs.PARTS
    return "the program of generation has its loop inside" if is_part else None


def require() -> None:
    """ValueError where the package is missing that files need."""
    try:
        importlib.import_module("flatbuffers")
    except ImportError:
        raise ValueError(
            "--format=stablehlo: expected the package flatbuffers, got none; "
            "pip install flatbuffers"
        ) from None


def lower(opened: PretrainedFolder, program: Program) -> jax.export.Exported:
    """The function (tensors by name, *inputs) -> the output, or a tuple of several."""

    def function(tensors: Mapping[str, jax.Array], *inputs: jax.Array) -> Any:
        params = programs.params_of(opened.bindings, tensors)
        outputs: Any = program.apply(params, *inputs)
        return outputs if len(outputs) > 1 else outputs[0]

    letters = programs.open_letters(program)
    symbols = jax.export.symbolic_shape(", ".join(letters), constraints=program.limits)
    sizes = dict(zip(letters, symbols, strict=True))
    tensors = {
        binding.name: jax.ShapeDtypeStruct(binding.shape, jnp.float32)
        for binding in opened.bindings
    }
    inputs = [
        jax.ShapeDtypeStruct(one.sizes(**sizes), one.dtype) for one in program.inputs
    ]
    return jax.export.export(jax.jit(function), platforms=PLATFORMS)(tensors, *inputs)


def write(opened: PretrainedFolder, program: Program) -> WrittenProgram:
    """Write the program beside the tensors, read it back and call it. RuntimeError
    where it differs from the net by more than rounding."""
    data = lower(opened, program).serialize()
    tensors = {name: tensor.read() for name, tensor in opened.tensors.items()}
    loaded = jax.export.deserialize(bytearray(data))

    def call(*inputs: Any) -> Any:
        outputs = loaded.call(tensors, *inputs)
        return outputs if isinstance(outputs, tuple | list) else (outputs,)

    file = opened.folder / f"{program.name}{SUFFIX}"
    difference = programs.check(program, call, opened.read_params(), file.name)
    storage.commit(file, bytes(data))
    return WrittenProgram(file, difference, "any " + program.open_sizes())
