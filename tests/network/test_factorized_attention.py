"""Attention along one axis of a sequence of frames against a mask over all tokens."""

from __future__ import annotations

from functools import partial

import jax
import numpy as np
import pytest

from transformer.models import defaults
from transformer.network import factorized_attention, masks

FRAMES, KEY = 5, jax.random.key(0)
SIZE = 6  # tokens of a frame

CASES = {
    "space": (
        factorized_attention.within_frames(FRAMES),
        masks.block_sparse(np.eye(FRAMES, dtype=int).tolist(), SIZE),
        masks.full(),
    ),
    "time": (
        factorized_attention.along_time(FRAMES),
        masks.causal() & masks.strided(SIZE),
        masks.causal(),
    ),
}


@pytest.mark.parametrize("axis", CASES)
def test_factorized_attention_is_masked_attention_over_all_tokens(axis: str) -> None:
    """The same parameters: within frames the mask is block-diagonal, in blocks of a
    frame; along time it is causal, in strides of a frame."""
    fold, mask, inner = CASES[axis]
    make = partial(
        defaults.attention, width=32, output_init=defaults.fan_in_init(in_axis=(0, 1))
    )
    full = make(mask=mask)()
    factorized = factorized_attention.FactorizedAttention(
        make(mask=inner), fold, FRAMES
    )
    x_BLD = jax.random.normal(KEY, (2, FRAMES * SIZE, 32))
    tokens = masks.single_document(FRAMES * SIZE)
    params = jax.jit(full.init)(KEY, x_BLD, tokens)["params"]
    (name,) = jax.eval_shape(factorized.init, KEY, x_BLD, tokens)["params"]
    got = jax.jit(factorized.apply)({"params": {name: params}}, x_BLD, tokens)
    expected = jax.jit(full.apply)({"params": params}, x_BLD, tokens)
    assert np.abs(np.asarray(expected)).max() > 0.1
    np.testing.assert_allclose(got, expected, atol=2e-5)
    with pytest.raises(ValueError, match="multiple of 5 frames' tokens, got 7"):
        factorized.apply(
            {"params": {name: params}}, x_BLD[:, :7], masks.single_document(7)
        )
