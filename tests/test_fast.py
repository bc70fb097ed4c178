"""Every fast path equals the plain formula beside it: values, gradients, on a mesh,
under remat, vmap and scan, in float32 tightly and in bfloat16 as its rounding allows.
Attention's stand in test_attention.py too, with every mask."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import close, name_of

from transformer import axes
from transformer.network import attention, masks, mlp, norms, precision
from transformer.network.kernels import activations as fast_activations
from transformer.network.kernels import flash_attention as fast_blockwise
from transformer.network.kernels import norms as fast_norms
from transformer.network.kernels import row_attention as fast_attention

DTYPES = {"float32": 1e-5, "bfloat16": 3e-2}
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


class Pair(NamedTuple):
    """A plain function, its fast equal, and the shapes of their arguments."""

    name: str
    plain: Callable[..., jax.Array]
    fast: Callable[..., jax.Array]
    shapes: tuple[tuple[int, ...], ...]


def einsum(x: jax.Array, w: jax.Array) -> jax.Array:
    wide = jnp.einsum("BLD,DHK->BLHK", x.astype(jnp.float32), w.astype(jnp.float32))
    return wide.astype(x.dtype)


PAIRS = [
    Pair("gelu", mlp.gelu, fast_activations.gelu, ((2, 8, 16),)),
    Pair("lean_gelu", mlp.gelu, fast_activations.gelu_recompute, ((2, 8, 16),)),
    Pair("relu^2", mlp.relu_squared, fast_activations.relu_squared, ((2, 8, 16),)),
    Pair(
        "layer_norm",
        partial(norms.layer_norm, epsilon=1e-5),
        partial(fast_norms.layer_norm, epsilon=1e-5),
        ((2, 8, 16), (16,), (16,)),
    ),
    Pair(
        "rms_norm",
        partial(norms.rms_norm, epsilon=1e-6),
        partial(fast_norms.rms_norm, epsilon=1e-6),
        ((2, 8, 16), (16,)),
    ),
    Pair(
        "head_rms_norm",
        partial(norms.rms_norm, epsilon=1e-6),
        partial(fast_norms.rms_norm, epsilon=1e-6),
        ((2, 8, 2, 16), (16,)),
    ),
    Pair(
        "contract",
        einsum,
        partial(precision.linear, "BLD,DHK->BLHK"),
        ((2, 8, 16), (16, 2, 4)),
    ),
]
every_pair = pytest.mark.parametrize("pair", PAIRS, ids=name_of)


def drawn(pair: Pair, dtype: str = "float32") -> list[jax.Array]:
    """Arguments; gains and biases stay float32, as in a model."""
    rng = np.random.default_rng(0)
    return [
        jnp.asarray(rng.normal(size=s), jnp.float32 if len(s) == 1 else dtype)
        for s in pair.shapes
    ]


def with_gradients(function: Callable[..., jax.Array]) -> Callable[..., Any]:
    """Values, and the gradient of a projection that treats no place like another."""

    def run(*arguments: jax.Array) -> Any:
        y, pull = jax.vjp(function, *arguments)
        slope = jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape)
        return y, pull(slope.astype(y.dtype))

    return run


def wide(tree: Any) -> Any:
    return jax.tree.map(lambda a: a.astype(jnp.float32), tree)


@every_dtype
@every_pair
def test_fast_equals_plain(pair: Pair, dtype: str) -> None:
    arguments = drawn(pair, dtype)
    expected = jax.jit(with_gradients(pair.plain))(*wide(arguments))
    got = jax.jit(with_gradients(pair.fast))(*arguments)
    assert got[0].dtype == jnp.dtype(dtype)
    assert [g.dtype for g in got[1]] == [a.dtype for a in arguments]
    close(expected, wide(got), DTYPES[dtype])


@every_pair
def test_fast_paths_transform_like_plain_ones(pair: Pair) -> None:
    """remat changes nothing; vmap and scan over rows equal all rows at once."""
    x, *rest = drawn(pair)
    expected = jax.jit(with_gradients(pair.plain))(x, *rest)
    close(expected, jax.jit(with_gradients(jax.checkpoint(pair.fast)))(x, *rest))
    one = partial(lambda *a: pair.fast(a[-1][None], *a[:-1])[0], *rest)
    close(expected[0], jax.jit(jax.vmap(one))(x))
    scanned = jax.jit(lambda x: jax.lax.scan(lambda _, row: (None, one(row)), None, x))
    close(expected[0], scanned(x)[1])


@pytest.mark.parametrize("x", [-1e4, -30.0, 0.0, 30.0, 1e4])
def test_gelu_is_finite_far_out(x: float) -> None:
    value, slope = jax.value_and_grad(fast_activations.gelu)(jnp.float32(x))
    assert float(value) == pytest.approx(max(x, 0.0), abs=1e-6)
    assert float(slope) == pytest.approx({0.0: 0.5}.get(x, float(x > 0)), abs=1e-6)


def test_contraction_keeps_the_backward_products_narrow() -> None:
    """bfloat16 operands in all three products: float32 ones run at half the speed."""
    x, w = drawn(PAIRS[-1], "bfloat16")
    text = str(jax.make_jaxpr(with_gradients(PAIRS[-1].fast))(x, w))
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert len(products) == 3
    assert text.count("preferred_element_type=float32") == 3
    assert "convert_element_type[new_dtype=float32" not in text


# Attention at the size of its blocks.

BLOCKED = {
    "rows": partial(fast_attention.row_blocked_attention, block=32),
    "blockwise": partial(fast_blockwise.flash_attention, block=32),
}
every_blocked = pytest.mark.parametrize("name", BLOCKED)


def heads(length: int, dtype: str = "float32", rows: int = 2) -> tuple[Any, ...]:
    rng = np.random.default_rng(0)
    shapes = [(rows, length, 4, 8), (rows, length, 2, 8), (rows, length, 2, 8)]
    return tuple(jnp.asarray(rng.normal(size=s), dtype) for s in shapes)


def attending(
    attend: Callable[..., jax.Array], length: int, mask: masks.Mask
) -> Callable[..., Any]:
    tokens = masks.single_document(length)
    settings = {"mask": mask, "queries": tokens, "keys": tokens, "scale": 0.3}
    return with_gradients(partial(attend, **settings))


@every_dtype
@every_blocked
@pytest.mark.parametrize("length", [96, 100])
@pytest.mark.parametrize("reach", [None, 20])
def test_blocked_attention_equals_plain(
    name: str, length: int, reach: int | None, dtype: str
) -> None:
    mask = masks.causal() if reach is None else masks.window(reach)
    q, k, v = heads(length, dtype)
    expected = jax.jit(attending(attention.dot_product_attention, length, mask))(
        *wide((q, k, v))
    )
    got = jax.jit(attending(BLOCKED[name], length, mask))(q, k, v)
    assert got[0].dtype == jnp.dtype(dtype)
    close(expected, wide(got), DTYPES[dtype])


@every_blocked
def test_blocked_attention_on_a_mesh_equals_one_device(name: str) -> None:
    q, k, v = heads(64, rows=4)
    run = attending(BLOCKED[name], 64, masks.causal())
    expected = jax.jit(run)(q, k, v)
    mesh = axes.mesh(data=2, tensor=2, context=2)
    batch = {"q_BLHK": q, "k_BMGK": k, "v_BMGK": v}
    with jax.set_mesh(mesh):
        places = axes.placement(mesh, batch, role="activation")
        spread = jax.device_put(batch, places)
        got = jax.jit(run)(*(spread[n] for n in ("q_BLHK", "k_BMGK", "v_BMGK")))
    close(expected, got)


@every_blocked
def test_blocked_attention_transforms_like_plain(name: str) -> None:
    q, k, v = heads(64)
    expected = jax.jit(attending(attention.dot_product_attention, 64, masks.causal()))(
        q, k, v
    )
    tokens = masks.single_document(64)
    settings = {"queries": tokens, "keys": tokens, "scale": 0.3}

    def one(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return BLOCKED[name](
            q[None], k[None], v[None], mask=masks.causal(), **settings
        )[0]

    remat = jax.checkpoint(jax.vmap(one))
    close(expected, jax.jit(with_gradients(remat))(q, k, v))


@every_blocked
def test_hidden_blocks_cost_nothing(name: str) -> None:
    """A window is cheaper than a triangle, a triangle than the square."""
    q, k, v = heads(256, rows=1)
    costs = []
    for mask in (masks.window(31), masks.causal(), masks.full()):
        if name == "rows":
            run = jax.jit(attending(BLOCKED[name], 256, mask)).lower(q, k, v)
            costs.append(run.compile().cost_analysis()["flops"])
        else:
            size = 256, 256
            score = fast_blockwise.Score(mask, 0.3, None, None, 32)
            costs.append(len(fast_blockwise._pairs(score, size)[0]))
    assert costs[0] < 0.55 * costs[1] and costs[1] < 0.65 * costs[2]


def test_blockwise_memory_grows_with_the_length_only() -> None:
    def temporaries(length: int) -> int:
        shape = jax.ShapeDtypeStruct((1, length, 2, 8), jnp.float32)
        run = jax.jit(attending(BLOCKED["blockwise"], length, masks.causal()))
        compiled = run.lower(shape, shape, shape).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporaries(2048) < 2.5 * temporaries(1024)
