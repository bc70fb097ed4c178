"""CLIP: two encoders into one embedding space."""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from cases import close, random_params

from transformer.models import clip
from transformer.network import biases, masks

RNG = np.random.default_rng(0)
NET = clip.clip(
    grid=(2, 2), patch_features=6, vocab_size=20, depth=1, text_depth=1, width=32
)
LIKE = jax.ShapeDtypeStruct((1, 4, 6), np.float32)


def test_embeddings_have_length_one_and_do_not_depend_on_padding() -> None:
    """Nor an image's on the text of its row, nor the text's on the image."""
    params = random_params(NET, init_params=partial(clip.init_params, like=LIKE))
    run = jax.jit(partial(clip.apply, NET))
    ids_BL = RNG.integers(1, 20, (3, 5))
    segment_BL = (np.arange(5) < np.array([[5], [2], [3]])).astype(np.int32)
    batch = {"raw_BLP": RNG.normal(size=(3, 4, 6)).astype(np.float32)}
    batch |= {"ids_BL": ids_BL, "segment_BL": segment_BL}
    image_BZ, text_BZ = run(params, batch)
    for x_BZ in (image_BZ, text_BZ):
        assert x_BZ.shape == (3, 32)
        np.testing.assert_allclose(np.linalg.norm(x_BZ, axis=1), 1, rtol=1e-4)
    other = {**batch, "ids_BL": np.where(segment_BL, ids_BL, 7)}
    close((image_BZ, text_BZ), run(params, other), 2e-5)
    image, text = run(params, {**other, "raw_BLP": batch["raw_BLP"][::-1]})
    close((image_BZ[::-1], text_BZ), (image, text), 2e-5)
    assert np.abs(image - image_BZ).max() > 1e-2
    image, text = run(params, {**batch, "ids_BL": np.where(segment_BL, 7, 0)})
    close(image_BZ, image, 2e-5)
    assert np.abs(text - text_BZ).max(1).min() > 1e-2


def test_scores_are_scaled_cosines_with_a_bias() -> None:
    class Vector(nn.Module):
        @nn.compact
        def __call__(self, inputs: jax.Array, tokens: masks.TokenPositions) -> Any:
            return inputs

    net = clip.ScoredDualEncoder(Vector, Vector, make_bias=biases.zero_init_bias)
    image_BZ, text_CZ = RNG.normal(size=(3, 4)), RNG.normal(size=(5, 4))
    tokens = masks.single_document(1)
    params = {"lambda_log_scale": jnp.log(3.0), "bias_score": jnp.asarray(-2.0)}
    inputs = image_BZ, tokens, text_CZ, tokens
    units = net.apply({"params": params}, *inputs)
    got = net.apply({"params": params}, *units, method="scores")
    norms = np.outer(*(np.linalg.norm(x, axis=1) for x in (image_BZ, text_CZ)))
    close(3 * image_BZ @ text_CZ.T / norms - 2, got)
    begun = net.init(jax.random.key(0), *inputs)["params"]
    close(np.log(1 / 0.07), begun["lambda_log_scale"])
