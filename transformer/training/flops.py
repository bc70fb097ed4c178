"""Floating-point operations of a training step, counted in its program."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import jax
import jax.extend.core as core
import jax.numpy as jnp
from jax.interpreters import partial_eval

from transformer.training.experiment import Experiment
from transformer.training.update import param_shapes

# What `network/kernels/onednn` calls, whose products are no part of the program.
ONEDNN_PRODUCT = "__onednn$matmul"
# Before the number of blocks of a head that `kernels/splash_attention` computes.
BLOCKS = "computed_blocks_"


def per_row(experiment: Experiment) -> float:
    """Floating-point operations of one row's forward and backward pass: three times the
    matrix products of the loss, once forward and once for the gradient of each operand
    (Kaplan et al. 2020, arXiv 2001.08361, section 2.1)."""
    key = jax.random.key(0)
    params = param_shapes(experiment)
    # A whole batch: losses may depend on its size (meshes, contrastive pairs).
    rows = experiment.batch_size
    batch = experiment.batch(0, range(rows))
    program = jax.make_jaxpr(experiment.loss)(params, batch, key)
    return 3 * matmul_flops(program.jaxpr) / rows


def matmul_flops(program: Any, *, kernels_alone: bool = False) -> float:
    """Floating-point operations of a jaxpr's matrix products, two per multiplication: a
    scan's times its length, of branches the largest, of a loop of unknown length once,
    a Pallas kernel's for each point of its grid. Other opaque kernels are not counted,
    but oneDNN's product is; nor is what no output needs, which no compiler computes.

    kernels_alone: only those of Pallas kernels.
    """
    used, _ = partial_eval.dce_jaxpr(program, [True] * len(program.outvars))
    return _matmul_flops(used, kernels_alone=kernels_alone, blocks=None)


def _matmul_flops(program: Any, *, kernels_alone: bool, blocks: int | None) -> float:
    """blocks: that an attention kernel, whose first array of numbers is (B, H, L, K),
    computes of a head; as `BLOCKS` names them."""
    total = 0.0
    for equation in program.eqns:
        name, settings = equation.primitive.name, equation.params
        found = re.findall(rf"{BLOCKS}(\d+)", str(equation.source_info.name_stack))
        inherited = int(found[-1]) if found else blocks
        times = 1
        if name == "pallas_call":
            times = math.prod(settings["grid_mapping"].grid)
            if inherited is not None:
                times = inherited * _heads(equation)
        elif name == "scan":
            times = settings["length"]
        alone = kernels_alone and name != "pallas_call"
        inner = [
            _matmul_flops(part, kernels_alone=alone, blocks=inherited)
            for part in programs_in(settings)
        ]
        own = 0.0 if kernels_alone else _product_flops(equation)
        inside = max(inner, default=0.0) if name == "cond" else sum(inner)
        total += own + times * inside
    return total


def _heads(call: Any) -> int:
    """Rows times heads of an attention kernel's queries; one row may have no axis."""
    arrays = (v.aval for v in call.invars)
    queries = next(
        a for a in arrays if a.ndim > 2 and jnp.issubdtype(a.dtype, jnp.floating)
    )
    return math.prod(queries.shape[:-2])


def _product_flops(equation: Any) -> float:
    name, settings = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = settings["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        pairs = math.prod(shape[i] for i in contracted)
        return 2.0 * pairs * math.prod(equation.outvars[0].aval.shape)
    if name == "ffi_call" and settings["target_name"] == ONEDNN_PRODUCT:
        # (..., L, K) x (..., K, M) in any layout: two for each of L K M.
        columns = equation.outvars[0].aval.shape[-1]
        return 2.0 * columns * math.prod(equation.invars[0].aval.shape)
    return 0.0


def programs_in(settings: dict[str, Any]) -> Iterator[Any]:
    """The jaxprs among the parameters of an equation."""
    for value in settings.values():
        for one in value if isinstance(value, (tuple, list)) else (value,):
            # Its place among the public names differs between versions of JAX.
            if isinstance(one, core.ClosedJaxpr):  # pyright: ignore
                yield one.jaxpr
            elif isinstance(one, core.Jaxpr):
                yield one
