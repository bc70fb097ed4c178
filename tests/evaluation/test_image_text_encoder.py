"""The dual encoder as functions of images and of texts."""

from __future__ import annotations

from functools import partial

import jax
import numpy as np
from cases import random_params

from transformer.data import captioned_images, records
from transformer.data.text import tokenizers
from transformer.evaluation import image_text_encoder
from transformer.models import clip

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (5, 8, 8, 3)).astype(np.uint8)
TEXTS = np.array(["cat", "a", "dog"])
CAPTIONS = captioned_images.CaptionedImages(
    data=records.Records("noise", "0", {"image": IMAGES}, {"image": IMAGES}),
    tokenizer=tokenizers.bytes_(),
    patch=(4, 4),
    grid=(2, 2),
    patch_features=48,
    length=6,
)


def test_embeddings_are_those_of_the_model_for_any_number_of_rows() -> None:
    net = clip.clip(**CAPTIONS.sizes, depth=1, text_depth=1, width=32)
    init = partial(clip.init_params, like=CAPTIONS.abstract_row)
    params = random_params(net, init_params=init)
    # As a checkpoint gives them.
    encoder = image_text_encoder.from_net(net, CAPTIONS, jax.device_get(params))
    images, texts = encoder.images(IMAGES), encoder.texts(TEXTS)
    assert images.shape == (5, 32) and texts.shape == (3, 32)
    for embeddings in (images, texts):
        np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-4)
        assert np.abs(embeddings[0] - embeddings[1]).max() > 1e-2
    np.testing.assert_allclose(encoder.images(IMAGES[3:4]), images[3:4], atol=1e-6)
    np.testing.assert_allclose(encoder.texts(TEXTS[2:]), texts[2:], atol=1e-6)
    rows = CAPTIONS.encoder_rows(TEXTS)
    batch = {"raw_BLP": CAPTIONS.to_patches(IMAGES[:3]), **rows}
    expected = jax.jit(partial(clip.apply, net))(params, batch)
    np.testing.assert_allclose(images[:3], expected[0], atol=1e-5)
    np.testing.assert_allclose(texts, expected[1], atol=1e-5)
