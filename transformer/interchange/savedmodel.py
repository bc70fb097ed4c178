"""Programs as SavedModels of TensorFlow, by jax2tf: the parameters are variables, and
rows and tokens are open as in StableHLO."""

from __future__ import annotations

import importlib
from typing import Any

import jax

from transformer.interchange import programs
from transformer.interchange.folder import PretrainedFolder
from transformer.interchange.programs import Program, WrittenProgram

SUFFIX = ".savedmodel"


def left_out(program: Program) -> str | None:
    """Why this program is not written; None where it is."""
    is_part = program.name in programs.PARTS
    return "the program of generation has its loop inside" if is_part else None


def require() -> Any:
    """TensorFlow. ValueError where it is missing."""
    try:
        return importlib.import_module("tensorflow")
    except ImportError as error:
        raise ValueError(
            "--format=savedmodel: expected the package tensorflow, got none "
            f"({error}); pip install tensorflow-cpu, in an environment of its own"
        ) from None


def write(opened: PretrainedFolder, program: Program) -> WrittenProgram:
    """Write the program with its parameters, load it again and call it. RuntimeError
    where it differs from the net by more than rounding."""
    tf = require()
    jax2tf = importlib.import_module("jax.experimental.jax2tf")
    params = opened.read_params()
    names = [one.name for one in program.inputs]
    shapes = [f"({', '.join(map(str, one.shape))},)" for one in program.inputs]
    convert = jax2tf.convert(
        program.apply,
        polymorphic_shapes=[None, *shapes],
        polymorphic_constraints=program.limits,
        with_gradient=False,
    )
    module = tf.Module()
    module.params = jax.tree.map(tf.Variable, jax.device_get(params))
    specs = [
        tf.TensorSpec(
            [size if isinstance(size, int) else None for size in one.shape],
            tf.int32 if one.below else tf.float32,
            name=one.name,
        )
        for one in program.inputs
    ]

    def function(*inputs: Any) -> dict[str, Any]:
        outputs = convert(module.params, *inputs)
        return dict(zip(program.outputs, outputs, strict=True))

    module.call = tf.function(function, input_signature=specs, autograph=False)
    path = opened.folder / f"{program.name}{SUFFIX}"
    signatures = {"serving_default": module.call}
    tf.saved_model.save(module, str(path), signatures=signatures)
    loaded = tf.saved_model.load(str(path)).signatures["serving_default"]

    def call(*inputs: Any) -> list[Any]:
        arguments = {n: tf.constant(a) for n, a in zip(names, inputs, strict=True)}
        outputs = loaded(**arguments)
        return [outputs[name].numpy() for name in program.outputs]

    try:
        difference = programs.check(program, call, params, path.name)
    except tf.errors.OpError as error:
        cause = str(error).splitlines()[0][:200]
        raise ValueError(
            f"{path}: expected versions of jax and tensorflow that understand each "
            "other, such as jax 0.10 and tensorflow 2.21, got "
            f"{jax.__version__} and {tf.__version__} ({cause})"
        ) from None
    return WrittenProgram(path, difference, "any " + program.open_sizes())
