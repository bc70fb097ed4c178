"""Translation by beam search."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
from cases import random_params

from transformer.data.text import tokenizers
from transformer.generation import translation
from transformer.models import encoder_decoder

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def translator() -> tuple[translation.Translator, Any]:
    """A random model of bytes, and its parameters."""
    tokenizer = tokenizers.bytes_()
    net = encoder_decoder.text_to_text(
        depth=1, width=64, vocab_size=tokenizer.vocab_size
    )
    params = random_params(net, init_params=encoder_decoder.init_params)
    return translation.from_net(net, tokenizer, compute_dtype="float32"), params


def test_source_padding_does_not_change_a_translation(translator: Any) -> None:
    model, params = translator
    search = jax.jit(
        lambda ids_BL, length_B: translation.search(
            model, params, ids_BL, length_B, beam_size=2, length_penalty=0.6
        )
    )
    length_B = np.array([3, 8, 5])
    ids_BL = RNG.integers(0, 256, (3, 8))
    padding_BL = np.arange(8) >= length_B[:, None]
    found = jax.device_get(search(ids_BL, length_B))
    other = jax.device_get(search(np.where(padding_BL, 7, ids_BL), length_B))
    for one, two in zip(found, other, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5)
    # The source does matter, up to its last token.
    ids_BL[np.arange(3), length_B - 1] += 1
    changed = jax.device_get(search(ids_BL, length_B))
    assert (changed.score_BI[:, 0] != found.score_BI[:, 0]).all()


@pytest.mark.slow
def test_a_translation_is_independent_of_the_other_texts(
    translator: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    model, params = translator
    texts = ["Save the file.", "OK"]
    both = translation.translate(model, params, texts, beam_size=2, batch_size=2)
    alone = translation.generate(
        model, params, jax.random.key(0), text="OK", beam_size=2
    )
    assert len(both) == 2 and both[1] == alone
    assert capsys.readouterr().out == f"{alone}\n"


def test_texts_are_bucketed_by_length_and_long_ones_are_refused() -> None:
    buckets = translation.bucket_by_length([40, 3, 32, 33])
    assert buckets[32] == [1, 2] and buckets[64] == [3, 0]
    with pytest.raises(ValueError, match="expected at most 4096 tokens, got 4097"):
        translation.bucket_by_length([1, 4097])


def test_texts_that_are_not_utf8_are_refused(translator: Any) -> None:
    with pytest.raises(ValueError, match="text: expected text in UTF-8, got '.udcff'"):
        translation.translate(*translator, ["OK", "a\udcff"])
