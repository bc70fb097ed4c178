"""Floating-point operations of a training step, counted in its program."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.extend.core as core

from transformer.training.experiment import Experiment

# What `network/kernels/onednn` calls, whose products are no part of the program.
ONEDNN_PRODUCT = "__onednn$matmul"


def per_row(experiment: Experiment) -> float:
    """Floating-point operations of one row's forward and backward pass: three times the
    matrix products of the loss, once forward and once for the gradient of each operand
    (Kaplan et al. 2020, arXiv 2001.08361, section 2.1)."""
    key = jax.random.key(0)
    params = jax.eval_shape(experiment.init, key)
    # A whole batch: losses may depend on its size (meshes, contrastive pairs).
    rows = experiment.batch_size
    batch = experiment.batch(0, range(rows))
    program = jax.make_jaxpr(experiment.loss)(params, batch, key)
    return 3 * matmul_flops(program.jaxpr) / rows


def matmul_flops(program: Any) -> float:
    """Floating-point operations of a jaxpr's matrix products, two per multiplication: a
    scan's times its length, of branches the largest, of a loop of unknown length once.
    Opaque kernels are not counted."""
    total = 0.0
    for equation in program.eqns:
        name, settings = equation.primitive.name, equation.params
        if name == "dot_general":
            (contracted, _), _ = settings["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            pairs = math.prod(shape[i] for i in contracted)
            total += 2.0 * pairs * math.prod(equation.outvars[0].aval.shape)
            continue
        if name == "ffi_call" and settings["target_name"] == ONEDNN_PRODUCT:
            # (..., L, K) x (..., K, M) in any layout: two for each of L K M.
            columns = equation.outvars[0].aval.shape[-1]
            total += 2.0 * columns * math.prod(equation.invars[0].aval.shape)
            continue
        inner = [matmul_flops(part) for part in _programs(settings)]
        if name == "cond":
            total += max(inner, default=0.0)
        else:
            total += (settings["length"] if name == "scan" else 1) * sum(inner)
    return total


def _programs(settings: dict[str, Any]) -> Iterator[Any]:
    for value in settings.values():
        for one in value if isinstance(value, (tuple, list)) else (value,):
            # Its place among the public names differs between versions of JAX.
            if isinstance(one, core.ClosedJaxpr):  # pyright: ignore
                yield one.jaxpr
            elif isinstance(one, core.Jaxpr):
                yield one
