"""The encoder-decoder of span corruption."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from cases import random_params

from transformer.models import decoder, t5

FIRST = 10
NET = t5.t5(vocab_size=FIRST + t5.SENTINELS, depth=1, width=64)
SOURCE = jnp.asarray([[1, 2, FIRST, 3, FIRST + 1, 4]])
# `end`, then each sentinel and its span.
IDS = jnp.asarray([[9, FIRST, 5, 6, FIRST + 1, 7]])


def test_target_positions_count_from_the_sentinel_in_the_source() -> None:
    assert t5.SPACING == 8
    tokens = t5.target_positions(SOURCE, IDS, sentinel=FIRST)
    assert tokens.position_BL.tolist() == [[16, 16, 17, 18, 32, 33]]
    assert t5.source_positions(4).position_BL.tolist() == [[0, 8, 16, 24]]


def test_padding_of_the_source_changes_nothing() -> None:
    params = random_params(NET, init_params=t5.init_params)
    logits = jax.jit(
        lambda *arrays: decoder.logits(t5.apply(NET, params, *arrays, sentinel=FIRST))
    )
    expected = logits(SOURCE, IDS, jnp.ones_like(SOURCE))
    segment = jnp.pad(jnp.ones_like(SOURCE), ((0, 0), (0, 4)))
    for padding in (0, 3):
        source = jnp.pad(SOURCE, ((0, 0), (0, 4)), constant_values=padding)
        target = jnp.pad(IDS, ((0, 0), (0, 3)), constant_values=padding)
        got = logits(source, target, segment)
        np.testing.assert_allclose(got[:, :6], expected, atol=1e-5)


def test_encoder_and_decoder_share_one_embedding() -> None:
    """A decoder input's embedding is the encoder's: its gradient is not zero."""
    params = random_params(NET, init_params=t5.init_params)
    assert "embedding_VD" not in params["decoder"]

    def total(params: dict) -> jax.Array:
        return decoder.logits(t5.apply(NET, params, SOURCE, IDS, sentinel=FIRST)).sum()

    gradient_VD = jax.jit(jax.grad(total))(params)["encoder"]["embed"]["embedding_VD"]
    used = np.flatnonzero(np.abs(np.asarray(gradient_VD)).sum(1))
    assert used.tolist() == sorted({*SOURCE[0].tolist(), *IDS[0].tolist()})
    features_BD = jax.eval_shape(lambda p: t5.pooled_features(NET, p, SOURCE), params)
    assert features_BD.shape == (1, 64)
