"""Captions by cached decoding from patches."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import random_params

from transformer.data.text import tokenizers
from transformer.generation import captioning
from transformer.models import decoder, encoder_decoder
from transformer.network import masks

RNG = np.random.default_rng(0)
TOKENIZER = tokenizers.bytes_()
NET = encoder_decoder.image_to_text(
    grid=(2, 2),
    patch_features=6,
    depth=1,
    decoder_depth=1,
    width=32,
    # One more than the tokenizer has: a mask token.
    vocab_size=TOKENIZER.vocab_size + 1,
)
RAW_BLP = RNG.normal(size=(3, 4, 6)).astype(np.float32)


def init_params(net: Any, key: jax.Array) -> Any:
    ids = jnp.zeros((1, 1), jnp.int32)
    row = masks.single_document(4), ids, masks.single_document(1)
    return net.init(key, RAW_BLP[:1], *row)["params"]


@pytest.fixture(scope="module")
def captioner() -> tuple[captioning.Captioner, Any]:
    model = captioning.from_net(NET, TOKENIZER, max_tokens=6, compute_dtype="float32")
    return model, random_params(NET, init_params=init_params)


def test_greedy_captions_are_the_argmax_of_the_full_forward_pass(
    captioner: Any,
) -> None:
    model, params = captioner
    assert len(captioning.greedy_captions(model, params, RAW_BLP, batch_size=4)) == 3
    run = jax.jit(partial(captioning.decode_captions, model))
    ids_BL = np.asarray(run(params, RAW_BLP, jax.random.key(0)).ids_BL)
    assert (ids_BL[:, 0] == TOKENIZER.end).all() and len(np.unique(ids_BL)) > 3
    inputs = RAW_BLP, masks.single_document(4), ids_BL[:, :-1], masks.single_document(6)
    readout = jax.jit(NET.apply)({"params": params}, *inputs)
    best_BL = np.asarray(decoder.logits(readout).argmax(-1))
    for row, best in zip(ids_BL, best_BL, strict=True):
        ends = np.flatnonzero(row[1:] == TOKENIZER.end)
        size = ends[0] + 1 if len(ends) else len(best)
        np.testing.assert_array_equal(row[1 : 1 + size], best[:size])


def test_a_mask_token_is_not_part_of_a_caption(captioner: Any) -> None:
    ids = np.array([104, TOKENIZER.vocab_size, 105])
    assert captioner[0].detokenize(ids) == "hi"


@pytest.mark.slow
def test_samples_depend_on_the_image_and_the_key_alone(captioner: Any) -> None:
    model, params = captioner
    sample = partial(
        captioning.sample_captions,
        model,
        params,
        key=jax.random.key(0),
        samples_per_image=4,
    )
    one, again = sample(RAW_BLP, batch_size=4), sample(RAW_BLP[:2], batch_size=4)
    assert one[:2] == again and [len(texts) for texts in one] == [4, 4, 4]
    assert len({text for texts in one for text in texts}) > 6
