"""Rounding to bfloat16 by integers is XLA's rounding, to the bit; what is exponentiated
without a maximum is tame."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import close

from transformer.network import attention, masks, precision
from transformer.network.kernels import row_attention as fast_attention


def bits_of(x: Any) -> np.ndarray:
    return np.asarray(jax.lax.bitcast_convert_type(x, jnp.uint16))


def test_narrowed_is_astype_to_the_bit() -> None:
    """Of every exponent and sign, ties and their neighbours, infinities, subnormals."""
    high = np.arange(2**16, dtype=np.uint32) << 16
    low = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    x = jnp.asarray((high[:, None] | low).view(np.float32))
    got = jax.jit(partial(precision.to_bfloat16, dtype=jnp.bfloat16))(x)
    number = ~np.isnan(np.asarray(x))
    expected = bits_of(x.astype(jnp.bfloat16))
    np.testing.assert_array_equal(bits_of(got)[number], expected[number])
    assert np.isnan(np.asarray(got, np.float32)[~number]).all()


def test_narrowing_lets_slopes_through() -> None:
    x = jnp.linspace(-2.0, 2.0, 9)
    slope = jax.grad(lambda x: (precision.to_bfloat16(x, jnp.bfloat16) * 3).sum())(x)
    np.testing.assert_array_equal(slope, jnp.full(9, 3.0))
    assert slope.dtype == jnp.float32
    assert precision.to_bfloat16(x, jnp.float32).dtype == jnp.float32


@pytest.mark.parametrize("scale", [0.3, 10.0, 100.0])
def test_wild_scores_are_attended_to_as_tame_ones(scale: float) -> None:
    """Scores up to about 6, 200 and 2,000: exp overflows float32 beyond 88."""
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.normal(size=(2, 40, 2, 8)), jnp.float32) for _ in "qkv")
    tokens = masks.single_document(40)
    how = dict(mask=masks.causal(), queries=tokens, keys=tokens, scale=scale)

    def run(attend: Any) -> Any:
        y, pull = jax.vjp(partial(attend, **how), q, k, v)
        return y, pull(jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape))

    rows = partial(fast_attention.row_blocked_attention, block=16)
    expected, got = (
        jax.jit(partial(run, a))() for a in (attention.dot_product_attention, rows)
    )
    # Slopes of queries are differences of numbers `scale` times as large.
    close(expected, got, 1e-5 * max(1.0, scale / 10))
