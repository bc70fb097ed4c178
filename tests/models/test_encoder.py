"""Parts of the encoder models."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from cases import close, random_params

from transformer.models import bert, decoder, encoder
from transformer.network import embeddings, masks, norms, stack

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


def test_a_tied_masked_lm_has_its_bias_in_the_pair() -> None:
    """Logits are features times the embedding table plus the bias, and gradients reach
    the table from both of its ends."""
    embed = partial(
        embeddings.PositionedEmbedding,
        make_content=partial(
            embeddings.AdditiveEmbedding, vocab_size=20, kinds=2, width=8
        ),
    )
    net = bert.TiedMaskedLM(
        vocab_size=20,
        make_encoder=partial(
            encoder.Encoder,
            make_embed=embed,
            make_stack=partial(
                stack.UnrolledStack, depth=0, make_block=lambda block, layer: block()
            ),
            make_norm=norms.Identity,
        ),
        make_transform=partial(bert.FeatureTransform, width=8),
    )
    params = random_params(net, init_params=bert.init_params)
    ids_BL = RNG.integers(0, 20, (2, 5)).astype(np.int32)
    tokens = masks.single_document(5)
    pair: Any = jax.jit(net.apply)({"params": params}, ids_BL, tokens)
    x_BLD, w_VD = pair
    assert x_BLD.shape == (2, 5, 9) and w_VD.shape == (20, 9)
    table_VD = params["encoder"]["embed"]["content"]["embedding_VD"]
    logits_BLV = x_BLD[..., :8] @ table_VD.T + params["b_V"][None, None]
    close(logits_BLV, decoder.logits(pair))

    def other_logits(table_VD):
        content = {**params["encoder"]["embed"]["content"], "embedding_VD": table_VD}
        inner = {**params, "encoder": {"embed": {"content": content}}}
        pair: Any = net.apply({"params": inner}, ids_BL, tokens)
        unread_V = np.setdiff1d(np.arange(20), ids_BL)
        return decoder.logits(pair)[..., unread_V].sum()

    grad_VD = np.asarray(jax.jit(jax.grad(other_logits))(table_VD))
    assert (np.abs(grad_VD).max(1) > 1e-6).all()
