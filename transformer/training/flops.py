"""How much arithmetic a training step is, counted in the program itself."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.extend.core as core

from transformer.training.experiment import Experiment

# What `network/fast/onednn` calls, whose products are no part of the program.
ONEDNN_PRODUCT = "__onednn$matmul"


def per_row(experiment: Experiment) -> float:
    """Floating-point operations of one row's forward and backward pass: what the
    experiment says, else thrice the matrix products of its loss (as many again for
    the slope of either operand: Kaplan et al. 2020, arXiv 2001.08361, section 2.1)."""
    if experiment.flops_per_row:
        return experiment.flops_per_row
    key = jax.random.key(0)
    params = jax.eval_shape(experiment.init, key)
    # Of a whole batch, as a mesh may divide it, or rows be told from each other.
    rows = experiment.batch_size
    batch = experiment.batch(0, range(rows))
    program = jax.make_jaxpr(experiment.loss)(params, batch, key)
    return 3 * products(program.jaxpr) / rows


def products(program: Any) -> float:
    """Floating-point operations of a jaxpr's matrix products, two for each pair that is
    multiplied: those within a scan as often as it goes round, of branches the longest,
    of a loop of unknown length once. Fused kernels that are no program are not seen."""
    total = 0.0
    for equation in program.eqns:
        name, given = equation.primitive.name, equation.params
        if name == "dot_general":
            (contracted, _), _ = given["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            pairs = math.prod(shape[i] for i in contracted)
            total += 2.0 * pairs * math.prod(equation.outvars[0].aval.shape)
            continue
        if name == "ffi_call" and given["target_name"] == ONEDNN_PRODUCT:
            # (..., L, K) x (..., K, M), however they lie: two for each of L K M.
            columns = equation.outvars[0].aval.shape[-1]
            total += 2.0 * columns * math.prod(equation.invars[0].aval.shape)
            continue
        inner = [products(part) for part in _programs(given)]
        if name == "cond":
            total += max(inner, default=0.0)
        else:
            total += (given["length"] if name == "scan" else 1) * sum(inner)
    return total


def _programs(given: dict[str, Any]) -> Iterator[Any]:
    for value in given.values():
        for one in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(one, core.ClosedJaxpr):
                yield one.jaxpr
            elif isinstance(one, core.Jaxpr):
                yield one
