"""Attention kernels with several blocks equal `dot_product_attention`: values,
gradients, on a mesh, under transformations. With every mask: test_attention.py."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import KERNELS as CASES
from cases import close

from transformer import axes
from transformer.network import attention, masks
from transformer.network.kernels import flash_attention, row_attention, scores

DTYPES = {"float32": 1e-5, "bfloat16": 3e-2}
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


def with_gradients(function: Callable[..., jax.Array]) -> Callable[..., Any]:
    """Values, and the gradient of a projection with a different weight per element."""

    def run(*arguments: jax.Array) -> Any:
        y, vjp = jax.vjp(function, *arguments)
        gradient = jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape)
        return y, vjp(gradient.astype(y.dtype))

    return run


def wide(tree: Any) -> Any:
    return jax.tree.map(lambda a: np.asarray(a, np.float32), tree)


KERNELS = {
    "row-blocked": partial(row_attention.row_blocked_attention, block=32),
    "flash": partial(flash_attention.flash_attention, block=32),
}
every_kernel = pytest.mark.parametrize("name", KERNELS)


def heads(length: int, dtype: str = "float32", rows: int = 2) -> tuple[Any, ...]:
    rng = np.random.default_rng(0)
    shapes = [(rows, length, 4, 8), (rows, length, 2, 8), (rows, length, 2, 8)]
    return tuple(rng.normal(size=s).astype(jnp.dtype(dtype)) for s in shapes)


def attention_with_gradients(
    attend: Callable[..., jax.Array], length: int, mask: masks.Mask
) -> Callable[..., Any]:
    tokens = masks.single_document(length)
    settings = {"mask": mask, "queries": tokens, "keys": tokens, "scale": 0.3}
    return with_gradients(partial(attend, **settings))


@every_dtype
@every_kernel
@pytest.mark.parametrize("length", [96, 100])
@pytest.mark.parametrize("lookback", [None, 20])
def test_kernel_equals_dot_product_attention(
    name: str, length: int, lookback: int | None, dtype: str
) -> None:
    mask = masks.causal() if lookback is None else masks.window(lookback)
    q, k, v = heads(length, dtype)
    expected = jax.jit(
        attention_with_gradients(attention.dot_product_attention, length, mask)
    )(*wide((q, k, v)))
    got = jax.jit(attention_with_gradients(KERNELS[name], length, mask))(q, k, v)
    assert got[0].dtype == jnp.dtype(dtype)
    close(expected, wide(got), DTYPES[dtype])


@every_kernel
def test_kernel_on_a_mesh_equals_one_device(name: str) -> None:
    q, k, v = heads(64, rows=4)
    run = attention_with_gradients(KERNELS[name], 64, masks.causal())
    expected = jax.jit(run)(q, k, v)
    mesh = axes.make_mesh(data=2, tensor=2, context=2)
    batch = {"q_BLHK": q, "k_BMGK": k, "v_BMGK": v}
    with jax.set_mesh(mesh):
        places = axes.shardings(mesh, batch, role="activation")
        spread = jax.device_put(batch, places)
        got = jax.jit(run)(*(spread[n] for n in ("q_BLHK", "k_BMGK", "v_BMGK")))
    close(expected, got)


@every_kernel
def test_kernel_under_vmap_and_remat(name: str) -> None:
    q, k, v = heads(64)
    expected = jax.jit(
        attention_with_gradients(attention.dot_product_attention, 64, masks.causal())
    )(q, k, v)
    tokens = masks.single_document(64)
    settings = {"queries": tokens, "keys": tokens, "scale": 0.3}

    def one(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return KERNELS[name](
            q[None], k[None], v[None], mask=masks.causal(), **settings
        )[0]

    remat = jax.checkpoint(jax.vmap(one))
    close(expected, jax.jit(with_gradients(remat))(q, k, v))


@every_kernel
def test_masked_blocks_are_not_computed(name: str) -> None:
    """A window is cheaper than a triangle, a triangle than the square."""
    q, k, v = heads(256, rows=1)
    costs = []
    for mask in (masks.window(31), masks.causal(), masks.full()):
        if name == "row-blocked":
            run = jax.jit(attention_with_gradients(KERNELS[name], 256, mask)).lower(
                q, k, v
            )
            costs.append(run.compile().cost_analysis()["flops"])
        else:
            size = 256, 256
            score = scores.ScoreConfig(mask, 0.3, None, None, 32)
            costs.append(len(flash_attention._block_pairs(score, size)[0]))
    assert costs[0] < 0.55 * costs[1] and costs[1] < 0.65 * costs[2]


def test_flash_attention_memory_is_linear_in_length() -> None:
    def temporaries(length: int) -> int:
        shape = jax.ShapeDtypeStruct((1, length, 2, 8), jnp.float32)
        run = jax.jit(
            attention_with_gradients(KERNELS["flash"], length, masks.causal())
        )
        compiled = run.lower(shape, shape, shape).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporaries(2048) < 2.5 * temporaries(1024)


@pytest.mark.parametrize("scale", [0.3, 10.0, 100.0])
def test_row_attention_is_exact_for_large_scores(scale: float) -> None:
    """Scores up to about 6, 200 and 2,000: exp overflows float32 beyond 88."""
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.normal(size=(2, 40, 2, 8)), jnp.float32) for _ in "qkv")
    tokens = masks.single_document(40)
    how = dict(mask=masks.causal(), queries=tokens, keys=tokens, scale=scale)

    def run(attend: Any) -> Any:
        y, vjp = jax.vjp(partial(attend, **how), q, k, v)
        return y, vjp(jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape))

    rows = partial(row_attention.row_blocked_attention, block=16)
    expected, got = (
        jax.jit(partial(run, a))() for a in (attention.dot_product_attention, rows)
    )
    # Gradients of queries are differences of numbers `scale` times as large.
    close(expected, got, 1e-5 * max(1.0, scale / 10))


@pytest.mark.parametrize(
    "kernel", [k.kernel for k in CASES], ids=[k.name for k in CASES]
)
def test_values_may_be_wider_than_keys(kernel: Any) -> None:
    """The values' features are independent: halves of them, one after the other."""
    q, k, _ = heads(40)
    v = np.random.default_rng(1).normal(size=(2, 40, 2, 16)).astype(np.float32)
    run = jax.jit(attention_with_gradients(kernel, 40, masks.causal()))
    plain = attention_with_gradients(
        attention.dot_product_attention, 40, masks.causal()
    )
    expected, got = jax.jit(plain)(q, k, v), run(q, k, v)
    assert got[0].shape == (2, 40, 4, 16)
    close(expected, got)
    halves = [np.asarray(run(q, k, part)[0]) for part in (v[..., :8], v[..., 8:])]
    close(np.concatenate(halves, -1), got[0])
