"""Attention with sinks equals its formula, and keeps the contract of a mixer."""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from cases import close

from transformer.network import attention, contract, masks, positions, sink_attention

ROWS, LENGTH, HEADS, GROUPS, FEATURES = 2, 6, 4, 2, 8
MASK = masks.causal() & masks.segments()
SCALE = 0.3
RNG = np.random.default_rng(0)
Q = RNG.normal(2.0, 1.0, size=(ROWS, LENGTH, HEADS, FEATURES)).astype(np.float32)
K = RNG.normal(size=(ROWS, LENGTH, GROUPS, FEATURES)).astype(np.float32)
V = RNG.normal(size=(ROWS, LENGTH, GROUPS, FEATURES)).astype(np.float32)
SINK = np.asarray([-2.0, 0.0, 1.5, 40.0], np.float32)


def mix(module: Any, variables: Any, tokens: masks.TokenPositions) -> Any:
    where: Any = {"mask": MASK, "queries": tokens, "keys": tokens, "scale": SCALE}
    apply = partial(module.apply, variables)
    return jax.jit(lambda *arrays: apply(*arrays, in_order=True, **where))(Q, K, V)


def test_sinks_take_part_in_the_softmax() -> None:
    """One more score, whose value is 0, in float64."""
    tokens = masks.single_document(LENGTH)
    params = {"params": {"sink_H": jnp.asarray(SINK)}}
    got = mix(sink_attention.SinkAttention(), params, tokens)
    expected = np.zeros(Q.shape)
    for b, t, h in np.ndindex(ROWS, LENGTH, HEADS):
        k, v = (x[b, : t + 1, h // 2].astype(np.float64) for x in (K, V))
        weight = np.exp(SCALE * k @ Q[b, t, h])
        total = weight.sum() + np.exp(np.float64(SINK[h]))
        expected[b, t, h] = weight @ v / total
    close(expected, got)
    assert np.abs(got[:, :, 3]).max() < 1e-12


def test_a_sink_of_no_score_is_softmax_attention() -> None:
    """Queries without an allowed key, of padding, have the value 0 in both."""
    index_BL = jnp.arange(LENGTH)[None]
    segment_BL = jnp.asarray([[1, 1, 1, 2, 0, 0]])
    tokens = masks.TokenPositions(index_BL, index_BL, segment_BL)
    params = {"params": {"sink_H": jnp.full(HEADS, -1e30)}}
    expected = mix(attention.SoftmaxAttention(), {}, tokens)
    got = mix(sink_attention.SinkAttention(), params, tokens)
    close(expected, got)
    assert np.isfinite(np.asarray(got)).all()


def test_sink_attention_keeps_the_contract() -> None:
    make_mixer = partial(
        sink_attention.SinkAttention, sink_init=nn.initializers.normal(1.0)
    )
    make_attention = partial(
        attention.Attention,
        width=32,
        heads=4,
        kv_heads=2,
        head_features=8,
        mask=masks.causal(),
        rotate=positions.rotary(),
        make_mixer=make_mixer,
    )
    contract.check_attention(make_attention, width=32)
