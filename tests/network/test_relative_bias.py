"""T5's relative bias: its buckets drawn, its values, one for all layers."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import close

from transformer.network import attention, block, masks, mlp, norms, relative_bias
from transformer.network import stack as stack_


def test_buckets_are_those_of_the_paper() -> None:
    """8 buckets: single distances up to half of them, then equal ratios."""
    causal = relative_bias.bucket_of_distance(8, 16, bidirectional=False)
    # From 16 tokens back to the token itself; all behind it are 0.
    #        16 15 14 13 12 11 10  9  8  7  6  5  4  3  2  1  0
    before = [7, 7, 7, 7, 7, 6, 6, 6, 6, 5, 5, 4, 4, 3, 2, 1, 0]
    np.testing.assert_array_equal(causal, before + 16 * [0])
    both = relative_bias.bucket_of_distance(8, 16, bidirectional=True)
    #        16 15 14 13 12 11 10  9  8  7  6  5  4  3  2  1  0
    before = [3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 2, 2, 2, 2, 1, 0]
    behind = [x + 4 for x in before[-2::-1]]
    np.testing.assert_array_equal(both, before + behind)


@pytest.mark.parametrize("bidirectional", [True, False])
def test_bias_is_the_table_at_the_bucket(bidirectional: bool) -> None:
    """Also beyond the largest distance, and by positions, not by places in the row."""
    module = relative_bias.RelativeBias(3, 8, 16, bidirectional=bidirectional)
    table_CH = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    position_BL = np.array([[0, 1, 5, 30, 60], [0, 1, 0, 1, 2]])
    index_BL = np.arange(5)[None]
    tokens = masks.TokenPositions(index_BL, position_BL, np.ones((2, 5), np.int32))
    apply = jax.jit(module.apply)
    got = np.asarray(apply({"params": {"bias_CH": table_CH}}, tokens, tokens))
    bucket = relative_bias.bucket_of_distance(8, 16, bidirectional=bidirectional)
    for b, q, k in np.ndindex(2, 5, 5):
        distance = int(position_BL[b, k] - position_BL[b, q])
        expected = table_CH[bucket[max(-16, min(16, distance)) + 16]]
        np.testing.assert_array_equal(got[b, :, q, k], expected)


def make_block(kind: Any, layer: int, *, bias: Any) -> Any:
    make_attention = partial(
        attention.Attention,
        width=16,
        heads=2,
        kv_heads=2,
        head_features=8,
        mask=masks.causal(),
        make_mixer=partial(attention.SoftmaxAttention, bias=bias),
    )
    make_mlp = partial(mlp.MLP, width=16, hidden_features=24)
    return kind(make_attention, make_mlp, norms.RMSNorm)


X = np.random.default_rng(1).normal(size=(2, 9, 16)).astype(np.float32)
TOKENS = masks.single_document(9)


@pytest.fixture(scope="module")
def stack() -> Any:
    """(stack of two layers, its parameters)."""
    make_bias = partial(relative_bias.RelativeBias, 2, 8, 8, bidirectional=False)
    net = relative_bias.SharedBiasStack(2, make_block, make_bias=make_bias)
    params = jax.jit(net.init)(jax.random.key(0), X, TOKENS)["params"]
    rng = np.random.default_rng(2)
    return net, jax.tree.map(
        lambda a: np.float32(a + rng.normal(size=a.shape) / 4), jax.device_get(params)
    )


def test_the_shared_gradient_is_the_sum_over_layers(stack: Any) -> None:
    """Of two blocks with a table each."""
    net, params = stack

    def shared(bias_CH: jax.Array) -> jax.Array:
        weights = {**params, "bias": {"bias_CH": bias_CH}}
        return jnp.sin(net.apply({"params": weights}, X, TOKENS)).sum()

    def apart(*tables: jax.Array) -> jax.Array:
        x_BLD = X
        module = relative_bias.RelativeBias(2, 8, 8, bidirectional=False)
        for i, bias_CH in enumerate(tables):
            bias = partial(module.apply, {"params": {"bias_CH": bias_CH}})
            layer = make_block(block.Block, i, bias=bias)
            x_BLD = layer.apply({"params": params[f"layers_{i}"]}, x_BLD, TOKENS)
        return jnp.sin(x_BLD).sum()

    bias_CH = params["bias"]["bias_CH"]
    value, grad = jax.jit(jax.value_and_grad(shared))(bias_CH)
    one, grads = jax.jit(jax.value_and_grad(apart, argnums=(0, 1)))(bias_CH, bias_CH)
    close(one, value)
    close(np.add(*jax.device_get(grads)), grad)
    assert all(np.abs(np.asarray(g)).max() > 1e-2 for g in grads)


def test_cached_decoding_equals_whole_rows(stack: Any) -> None:
    net, params = stack
    expected = np.asarray(jax.jit(net.apply)({"params": params}, X, TOKENS))
    caches = net.empty_cache(2, 9, 1, jnp.float32)

    @jax.jit
    def step(params: Any, x_BLD: jax.Array, caches: Any, t: jax.Array) -> Any:
        tokens = masks.TokenPositions(*(jnp.full((2, 1), n) for n in (t, t, 1)))
        arguments = x_BLD, caches, tokens
        return net.apply({"params": params}, *arguments, method="decode")

    for t in range(9):
        y_BLD, caches = step(params, X[:, t : t + 1], caches, np.int32(t))
        close(expected[:, t : t + 1], y_BLD, 1e-5)


def test_a_stack_without_a_bias_raises() -> None:
    net = relative_bias.SharedBiasStack(1, make_block)
    with pytest.raises(ValueError, match="expected make_bias, got None"):
        net.init(jax.random.key(0), X, TOKENS)


def test_remat_is_refused() -> None:
    make_bias = partial(relative_bias.RelativeBias, 2, 8, 8)
    options: Any = {"make_bias": make_bias, "remat": stack_.REMAT["all"]}
    net = relative_bias.SharedBiasStack(1, make_block, **options)
    with pytest.raises(ValueError, match="expected remat none"):
        net.init(jax.random.key(0), X, TOKENS)
