"""The precision policy, and rounding to bfloat16 by integer arithmetic."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from cases import MODELS, random_params

from transformer.network import precision


def bits_of(x: Any) -> np.ndarray:
    return np.asarray(jax.lax.bitcast_convert_type(x, jnp.uint16))


def test_to_bfloat16_equals_astype_bit_for_bit() -> None:
    """Every exponent and sign, ties and their neighbors, infinities, subnormals."""
    high = np.arange(2**16, dtype=np.uint32) << 16
    low = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    x = (high[:, None] | low).view(np.float32)
    got = jax.jit(partial(precision.to_bfloat16, dtype=jnp.bfloat16))(x)
    number = ~np.isnan(x)
    expected = bits_of(jnp.asarray(x).astype(jnp.bfloat16))
    np.testing.assert_array_equal(bits_of(got)[number], expected[number])
    assert np.isnan(np.asarray(got, np.float32)[~number]).all()


def test_to_bfloat16_has_the_identity_gradient() -> None:
    x = jnp.asarray(np.linspace(-2.0, 2.0, 9, dtype=np.float32))
    total = lambda x: (precision.to_bfloat16(x, jnp.bfloat16) * 3).sum()  # noqa: E731
    gradient = jax.jit(jax.grad(total))(x)
    np.testing.assert_array_equal(gradient, np.full(9, 3.0))
    assert gradient.dtype == jnp.float32
    assert precision.to_bfloat16(x, jnp.float32).dtype == jnp.float32


def test_cast_weights_keeps_gains_and_biases_float32() -> None:
    params = random_params(MODELS[0].make())
    narrow = jax.eval_shape(lambda p: precision.cast_weights(p, jnp.bfloat16), params)
    for path, leaf in jax.tree_util.tree_flatten_with_path(narrow)[0]:
        wide = path[-1].key.startswith(precision.FLOAT32_PREFIXES)
        assert leaf.dtype == (jnp.float32 if wide else jnp.bfloat16), path
    x, w = np.ones((1, 2, 3), jnp.bfloat16), np.ones((3, 4), jnp.bfloat16)
    for product, dtype in (
        (precision.einsum_f32, jnp.float32),
        (precision.linear, jnp.bfloat16),
    ):
        y = jax.eval_shape(partial(product, "BLD,DF->BLF"), x, w)
        assert y.dtype == dtype


def test_the_prefix_of_a_name_decides_its_dtype() -> None:
    """The table of `precision`; another rule is an argument."""
    names = "w_in_DF", "b_in_F", "gain_D", "bias_D", "lambda_q_K", "unheard_of_D"
    params = {name: np.ones(3, np.float32) for name in names}
    narrow = precision.cast_weights(params, jnp.bfloat16)
    wide = {name for name, leaf in narrow.items() if leaf.dtype == jnp.float32}
    assert wide == {"gain_D", "bias_D", "lambda_q_K"}
    own = (*precision.FLOAT32_PREFIXES, "unheard_of_")
    narrow = precision.cast_weights(params, jnp.bfloat16, float32=own)
    assert narrow["unheard_of_D"].dtype == jnp.float32
