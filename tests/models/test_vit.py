"""Pooling of the vision transformer, and the positions of its tokens."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer.models import vit
from transformer.network import masks


@pytest.mark.parametrize(
    "pooling", [vit.MEAN, vit.CLASS_TOKEN], ids=["mean", "class token"]
)
def test_pooling_and_patch_relevance_agree_on_the_extra_tokens(
    pooling: vit.Pooling,
) -> None:
    length = pooling.extra_tokens + 4
    x_BLD = jax.random.normal(jax.random.key(0), (2, length, 3))
    tokens = vit.token_positions((2, 2), pooling)
    patches_L = tokens.position_BL[0, pooling.extra_tokens :]
    np.testing.assert_array_equal(patches_L, range(4))
    pooled_BD = pooling.pool(x_BLD, masks.TokenPositions(*map(jnp.asarray, tokens)))
    expected_BD = x_BLD[:, 0] if pooling.extra_tokens else x_BLD.mean(1)
    np.testing.assert_allclose(pooled_BD, expected_BD, atol=1e-6)
    relevance_BLM = jnp.broadcast_to(jnp.full(length, 1 / length), (2, length, length))
    relevance_BS = pooling.patch_relevance(relevance_BLM)
    np.testing.assert_allclose(relevance_BS, np.full((2, 4), 1 / length))
