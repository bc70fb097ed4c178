"""Every kernel equals the plain formula: values and gradients, under remat, vmap and
scan, in float32 tightly and in bfloat16 as its rounding allows."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import close, name_of

from transformer.network import mlp, norms, precision
from transformer.network.kernels import activations as kernel_activations
from transformer.network.kernels import norms as kernel_norms

DTYPES = {"float32": 1e-5, "bfloat16": 3e-2}
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


class Pair(NamedTuple):
    """A plain function, its kernel, and the shapes of their arguments."""

    name: str
    plain: Callable[..., jax.Array]
    kernel: Callable[..., jax.Array]
    shapes: tuple[tuple[int, ...], ...]


def einsum(x: jax.Array, w: jax.Array) -> jax.Array:
    wide = jnp.einsum("BLD,DHK->BLHK", x.astype(jnp.float32), w.astype(jnp.float32))
    return wide.astype(x.dtype)


PAIRS = [
    Pair("gelu", mlp.gelu, kernel_activations.gelu, ((2, 8, 16),)),
    Pair("gelu_recompute", mlp.gelu, kernel_activations.gelu_recompute, ((2, 8, 16),)),
    Pair("relu^2", mlp.relu_squared, kernel_activations.relu_squared, ((2, 8, 16),)),
    Pair(
        "layer_norm",
        partial(norms.layer_norm, epsilon=1e-5),
        partial(kernel_norms.layer_norm, epsilon=1e-5),
        ((2, 8, 16), (16,), (16,)),
    ),
    Pair(
        "rms_norm",
        partial(norms.rms_norm, epsilon=1e-6),
        partial(kernel_norms.rms_norm, epsilon=1e-6),
        ((2, 8, 16), (16,)),
    ),
    Pair(
        "head_rms_norm",
        partial(norms.rms_norm, epsilon=1e-6),
        partial(kernel_norms.rms_norm, epsilon=1e-6),
        ((2, 8, 2, 16), (16,)),
    ),
    Pair(
        "linear",
        einsum,
        partial(precision.linear, "BLD,DHK->BLHK"),
        ((2, 8, 16), (16, 2, 4)),
    ),
]
every_pair = pytest.mark.parametrize("pair", PAIRS, ids=name_of)


def random_arguments(pair: Pair, dtype: str = "float32") -> list[np.ndarray]:
    """Arguments; gains and biases stay float32, as in a model."""
    rng = np.random.default_rng(0)
    return [
        rng.normal(size=s).astype(np.float32 if len(s) == 1 else jnp.dtype(dtype))
        for s in pair.shapes
    ]


def with_gradients(function: Callable[..., jax.Array]) -> Callable[..., Any]:
    """Values, and the gradient of a projection with a different weight per element."""

    def run(*arguments: jax.Array) -> Any:
        y, vjp = jax.vjp(function, *arguments)
        gradient = jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape)
        return y, vjp(gradient.astype(y.dtype))

    return run


def wide(tree: Any) -> Any:
    return jax.tree.map(lambda a: np.asarray(a, np.float32), tree)


@every_dtype
@every_pair
def test_kernel_equals_plain_formula(pair: Pair, dtype: str) -> None:
    arguments = random_arguments(pair, dtype)
    expected = jax.jit(with_gradients(pair.plain))(*wide(arguments))
    got = jax.jit(with_gradients(pair.kernel))(*arguments)
    assert got[0].dtype == jnp.dtype(dtype)
    assert [g.dtype for g in got[1]] == [a.dtype for a in arguments]
    close(expected, wide(got), DTYPES[dtype])


@every_pair
def test_kernels_under_remat_vmap_and_scan(pair: Pair) -> None:
    """remat changes nothing; vmap and scan over rows equal all rows at once."""
    x, *rest = random_arguments(pair)
    expected = jax.jit(with_gradients(pair.plain))(x, *rest)
    close(expected, jax.jit(with_gradients(jax.checkpoint(pair.kernel)))(x, *rest))
    one = partial(lambda *a: pair.kernel(a[-1][None], *a[:-1])[0], *rest)
    close(expected[0], jax.jit(jax.vmap(one))(x))
    scanned = jax.jit(lambda x: jax.lax.scan(lambda _, row: (None, one(row)), None, x))
    close(expected[0], scanned(x)[1])


@pytest.mark.parametrize("x", [-1e4, -30.0, 0.0, 30.0, 1e4])
def test_gelu_is_finite_for_large_inputs(x: float) -> None:
    value, gradient = jax.jit(jax.value_and_grad(kernel_activations.gelu))(x)
    assert float(value) == pytest.approx(max(x, 0.0), abs=1e-6)
    assert float(gradient) == pytest.approx({0.0: 0.5}.get(x, float(x > 0)), abs=1e-6)


def test_linear_has_bfloat16_backward_products() -> None:
    """bfloat16 operands in all three products: float32 ones run at half the speed."""
    x, w = random_arguments(PAIRS[-1], "bfloat16")
    text = str(jax.make_jaxpr(with_gradients(PAIRS[-1].kernel))(x, w))
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert len(products) == 3
    assert text.count("preferred_element_type=float32") == 3
    assert "convert_element_type[new_dtype=float32" not in text
