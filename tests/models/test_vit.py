"""Pooling of the vision transformer, and the positions of its tokens."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import random_params

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


@pytest.mark.parametrize("pool", vit.POOLINGS)
def test_apply_gives_patches_their_positions(pool: str) -> None:
    """The same as the module with `token_positions` of its pooling."""
    pooling = vit.POOLINGS[pool]
    net = vit.classifier(
        grid=(2, 2), patch_features=3, classes=2, depth=1, width=32, pooling=pooling
    )
    assert vit.pooling_of(net) == pooling
    like = jax.ShapeDtypeStruct((1, 4, 3), jnp.float32)
    params = random_params(net, init_params=partial(vit.init_params, like=like))
    raw_BLP = jax.random.normal(jax.random.key(0), (2, 4, 3))
    tokens = vit.token_positions((2, 2), pooling)
    expected = jax.jit(net.apply)({"params": params}, raw_BLP, tokens)
    got = jax.jit(partial(vit.apply, net))(params, raw_BLP)
    np.testing.assert_array_equal(got, expected)
