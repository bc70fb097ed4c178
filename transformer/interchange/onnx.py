"""Programs as ONNX, by jax2onnx, for ONNX Runtime: the parameters are in the file, and
rows and tokens are open as in StableHLO. jax2onnx 0.17 converts no loop that reads a
cache, so greedy generation is a loop around the step that it converts, behind the
encoder where there is one (`onnx_loop.py`). It leaves no size open that depends on the
inputs, so all experts of a mixture compute all tokens (`Program.plain`).

jax2onnx 0.17 pins orbax-checkpoint below 0.11.37, so an environment that trains takes
it without its dependencies, or another one converts a folder that is exported already.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import jax.export

from transformer.interchange import onnx_loop, programs
from transformer.interchange.folder import PretrainedFolder
from transformer.interchange.programs import GreedyLoop, Program, WrittenProgram

SUFFIX = ".onnx"
PACKAGES = ("jax2onnx", "onnxruntime")
INSTALL = (
    "pip install onnxruntime onnx onnx-ir; pip install --no-deps jax2onnx; or both in "
    "an environment of their own"
)
# They warn of each size that is not known, and, with a traceback, of each library that
# is not there.
LOGGERS = "onnx_ir", "jax2onnx.plugins.plugin_system"
# Nodes that an equation becomes, at most, in nearly every case.
RECENT = 64
SLOW_PASS = "remove_redundant_casts"


def left_out(program: Program) -> str | None:
    """Why this program is not written; None where it is."""
    is_loop = program.name == "generate" and program.loop is None
    return "its layers are scanned, and their cache is one array" if is_loop else None


def require() -> tuple[Any, Any]:
    """jax2onnx and onnxruntime. ValueError where one is missing."""
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        jax2onnx, runtime = map(importlib.import_module, PACKAGES)
    except ImportError as error:
        raise ValueError(
            f"--format=onnx: expected the packages {' and '.join(PACKAGES)}, got "
            f"none ({error}); {INSTALL}"
        ) from None
    return jax2onnx, runtime


def write(opened: PretrainedFolder, program: Program) -> WrittenProgram:
    """Write the program with its parameters, and call it in ONNX Runtime. RuntimeError
    where it differs from the net by more than rounding."""
    jax2onnx, runtime = require()
    names = [one.name for one in program.inputs]
    params = opened.read_params()
    file = opened.folder / f"{program.name}{SUFFIX}"
    if program.loop is None:
        _convert(jax2onnx, program, params, file, names, program.outputs)
    else:
        _write_loop(jax2onnx, program, program.loop, params, file)
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


def _write_loop(
    jax2onnx: Any, program: Program, loop: GreedyLoop, params: Any, file: Path
) -> None:
    """The parts of a loop, and the program of them."""
    _convert(jax2onnx, loop.step, params, file, *onnx_loop.step_names(loop.step))
    if loop.encode is None:
        onnx_loop.wrap(file, program, loop)
        return
    part = file.with_name(f"{file.name}.encode{SUFFIX}")
    names = onnx_loop.encode_names(loop.encode)
    _convert(jax2onnx, loop.encode, params, part, *names)
    onnx_loop.wrap(file, program, loop, part)
    for one in part.parent.glob(f"{part.name}*"):
        one.unlink()


def _convert(
    jax2onnx: Any,
    program: Program,
    params: Any,
    file: Path,
    names: Sequence[str],
    outputs: Sequence[str],
) -> None:
    """Write the program, with these names of its inputs and outputs. ValueError where
    jax2onnx cannot."""
    letters = programs.open_letters(program)
    symbols = jax.export.symbolic_shape(", ".join(letters), constraints=program.limits)
    sizes = dict(zip(letters, symbols, strict=True))
    shapes = [
        jax.ShapeDtypeStruct(one.sizes(**sizes), one.dtype) for one in program.inputs
    ]
    try:
        with _linear_time():
            jax2onnx.to_onnx(
                partial(program.plain or program.apply, params),
                shapes,
                input_names=list(names),
                output_names=list(outputs),
                return_mode="file",
                output_path=str(file),
            )
    except Exception as error:  # Of any kind, where a converter meets what it lacks.
        cause = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{file}: expected a program that jax2onnx {version('jax2onnx')} "
            f"converts, got {type(error).__name__}: {cause}"
        ) from None


@contextmanager
def _linear_time() -> Iterator[None]:
    """Within it, jax2onnx looks for the value of an equation among the newest nodes
    first, and leaves redundant casts to ONNX Runtime, which removes them when it loads
    the file. Version 0.17 compares the value with all nodes from the first on, and
    begins with the first node again after each cast that it removes: times that grow
    with the square and the cube of the depth. A version without these is as it is."""
    try:
        binding: Any = importlib.import_module("jax2onnx.converter.output_binding")
        passes: Any = importlib.import_module("jax2onnx.converter.ir_optimizations")
        search, every = binding._value_is_graph_connected, passes._OPTIMIZER_PASSES
    except (ImportError, AttributeError):
        yield
        return

    def search_recent(context: Any, value: Any) -> bool:
        recent = islice(reversed(context.builder.nodes), RECENT)
        is_found = any(one is value for node in recent for one in node.outputs)
        return is_found or search(context, value)

    binding._value_is_graph_connected = search_recent
    passes._OPTIMIZER_PASSES = tuple(
        one for one in every if not one.name.startswith(SLOW_PASS)
    )
    try:
        yield
    finally:
        binding._value_is_graph_connected = search
        passes._OPTIMIZER_PASSES = every
