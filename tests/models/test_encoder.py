"""Parts of the encoder models."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from cases import close, random_params

from transformer.models import bert, encoder
from transformer.network import masks

RNG = np.random.default_rng(0)
X = RNG.normal(2.0, 3.0, size=(2, 5, 8)).astype(np.float32)
POSITIONS = jnp.asarray([[0, 1, 2, 3, 4], [0, 1, 0, 1, 2]])


def test_mean_pooling_excludes_padding() -> None:
    segment_BL = jnp.asarray([[1, 1, 1, 0, 0], [1, 1, 2, 2, 2]])
    tokens = masks.packed(segment_BL, POSITIONS)
    got = encoder.mean_pooling(jnp.asarray(X), tokens)
    close(np.stack([X[0, :3].mean(0), X[1].mean(0)]), got)


def test_text_logits_depend_on_the_text_and_not_on_its_padding() -> None:
    net = encoder.text_classifier(classes=3, vocab_size=16, depth=1)
    params = random_params(net, init_params=encoder.init_params)
    logits = jax.jit(encoder.logits(net))
    ids_BL = RNG.integers(0, 16, (2, 8)).astype(np.int32)
    segment_BL = (np.arange(8) < np.array([[8], [5]])).astype(np.int32)
    got = logits(params, {"ids_BL": ids_BL, "segment_BL": segment_BL})
    assert got.shape == (2, 3)
    short = {"ids_BL": ids_BL[1:, :5], "segment_BL": segment_BL[1:, :5]}
    close(got[1:], logits(params, short))
    ids_BL[1] = (ids_BL[1] + 1) % 16
    other = logits(params, {"ids_BL": ids_BL, "segment_BL": segment_BL})
    assert np.abs(other[1] - got[1]).max() > 1e-3


def test_masked_lm_features_do_not_depend_on_padding() -> None:
    net = bert.bert(vocab_size=20, depth=1, width=64)
    params = random_params(net, init_params=bert.init_params)
    ids_BL = jax.random.randint(jax.random.key(1), (2, 5), 0, 20)
    features = jax.jit(lambda *arrays: bert.apply(net, params, *arrays)[0])
    alone_BLD = features(ids_BL)
    segment_BL = jnp.pad(jnp.ones_like(ids_BL), ((0, 0), (0, 3)))
    for padding in (0, 7):
        longer_BL = jnp.pad(ids_BL, ((0, 0), (0, 3)), constant_values=padding)
        padded_BLD = features(longer_BL, segment_BL)
        np.testing.assert_allclose(padded_BLD[:, :5], alone_BLD, atol=1e-5)
