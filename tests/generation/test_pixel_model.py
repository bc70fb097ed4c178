"""Cached decoding of images, pixel by pixel."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import random_params

from transformer.data.images import gray_levels
from transformer.generation import logit_filters, pixel_model, process_sampler
from transformer.models import image_gpt
from transformer.processes import autoregressive

SIDE, GRAYS, CLASSES = 4, 3, 2
TOKENIZER = gray_levels.QuantizedImages({}, {}, SIDE, SIDE, GRAYS, patch=1)
NET = image_gpt.image_gpt(side=SIDE, vocab_size=GRAYS + CLASSES, depth=1, width=32)
MODEL = pixel_model.from_net(NET, TOKENIZER, compute_dtype="float32")
LABEL_B = np.array([0, 1, 1], np.int32)


@pytest.fixture(scope="module")
def params() -> Any:
    return random_params(NET, seed=1)


def test_cached_decoding_is_the_autoregressive_process(params: Any) -> None:
    """Greedily, so that keys play no part."""

    def greedy(logits_BV: jax.Array, key: jax.Array) -> jax.Array:
        return logit_filters.greedy(logits_BV[:, :GRAYS], key)

    predict = partial(
        image_gpt.predict, NET, params, jnp.asarray(LABEL_B), pixel_tokens=GRAYS
    )
    like = jax.ShapeDtypeStruct((len(LABEL_B), SIDE**2), jnp.int32)
    process = autoregressive.process(choose=greedy)
    ids_BL = jax.jit(
        lambda key: process_sampler.sample(
            process, predict, key, like=like, steps=SIDE**2
        )
    )(jax.random.key(0))
    got = pixel_model.sample(
        MODEL._replace(choose=greedy), params, LABEL_B, jax.random.key(0)
    )
    np.testing.assert_array_equal(got, TOKENIZER.decode(np.asarray(ids_BL)))
    assert len(np.unique(got)) > 1


def test_tokens_of_classes_are_never_sampled() -> None:
    logits_BV = np.zeros((500, GRAYS + CLASSES), np.float32)
    logits_BV[:, GRAYS:] = 9.0
    got = jax.jit(MODEL.choose)(logits_BV, jax.random.key(0))
    assert set(np.unique(got)) == set(range(GRAYS))


def test_samples_continue_the_first_pixels(params: Any) -> None:
    ids = np.random.default_rng(0).integers(0, GRAYS, (3, SIDE**2)).astype(np.int32)
    true = TOKENIZER.decode(ids).reshape(3, -1)
    first, other = (
        pixel_model.sample(MODEL, params, LABEL_B, jax.random.key(k), ids[:, :8])
        for k in (0, 1)
    )
    np.testing.assert_array_equal(first.reshape(3, -1)[:, :8], true[:, :8])
    assert (first != other).any() and (first.reshape(3, -1) != true).any()
