"""Programs as ONNX, by jax2onnx, for ONNX Runtime: the parameters are in the file, and
rows and tokens are open as in StableHLO. Greedy generation is one step: jax2onnx 0.17
converts no loop that reads a cache; mixtures of experts are refused.

jax2onnx 0.17 pins orbax-checkpoint below 0.11.37, so an environment that trains takes
it without its dependencies, or another one converts a folder that is exported already.
"""

from __future__ import annotations

import importlib
import logging
from functools import partial
from importlib.metadata import version
from typing import Any

import jax
import jax.export

from transformer.interchange import programs
from transformer.interchange.folder import PretrainedFolder
from transformer.interchange.programs import Program, WrittenProgram

SUFFIX = ".onnx"
LEFT_OUT = {"generate": "jax2onnx converts no loop that reads a cache"}
PACKAGES = ("jax2onnx", "onnxruntime")
INSTALL = (
    "pip install onnxruntime onnx onnx-ir; pip install --no-deps jax2onnx; or both in "
    "an environment of their own"
)


def require() -> tuple[Any, Any]:
    """jax2onnx and onnxruntime. ValueError where one is missing."""
    try:
        jax2onnx, runtime = map(importlib.import_module, PACKAGES)
    except ImportError as error:
        raise ValueError(
            f"--format=onnx: expected the packages {' and '.join(PACKAGES)}, got "
            f"none ({error}); {INSTALL}"
        ) from None
    # It warns of each size that it does not know.
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)
    return jax2onnx, runtime


def write(opened: PretrainedFolder, program: Program) -> WrittenProgram:
    """Write the program with its parameters, and call it in ONNX Runtime. RuntimeError
    where it differs from the net by more than rounding."""
    jax2onnx, runtime = require()
    letters = programs.open_letters(program)
    symbols = jax.export.symbolic_shape(", ".join(letters), constraints=program.limits)
    sizes = dict(zip(letters, symbols, strict=True))
    names = [one.name for one in program.inputs]
    params = opened.read_params()
    file = opened.folder / f"{program.name}{SUFFIX}"
    shapes = [
        jax.ShapeDtypeStruct(one.sizes(**sizes), one.dtype) for one in program.inputs
    ]
    try:
        jax2onnx.to_onnx(
            partial(program.apply, params),
            shapes,
            input_names=names,
            output_names=list(program.outputs),
            return_mode="file",
            output_path=str(file),
        )
    except Exception as error:  # Of any kind, where a converter meets what it lacks.
        cause = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{file}: expected a program that jax2onnx {version('jax2onnx')} "
            f"converts, got {type(error).__name__}: {cause}"
        ) from None
    session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])

    def call(*inputs: Any) -> list[Any]:
        return session.run(None, dict(zip(names, inputs, strict=True)))

    try:
        difference = programs.check(program, call, params, file.name)
    except RuntimeError:
        for part in opened.folder.glob(f"{file.name}*"):
            part.unlink()
        raise
    return WrittenProgram(file, difference, "any " + program.open_sizes())
