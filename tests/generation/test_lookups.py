"""Indices outside a table are refused in one line, before any compute: JAX would take
the nearest in range, in silence."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import LENGTH, MODELS, VOCAB_SIZE, random_params

from transformer import checks
from transformer.data.images import gray_levels
from transformer.data.text import span_corruption
from transformer.generation import (
    decoding,
    logit_filters,
    pixel_model,
    process_sampler,
    terminal_images,
    text_model,
)
from transformer.models import image_gpt
from transformer.processes import flow_matching

# Learned positions, `LENGTH` of them.
GPT2 = MODELS[0].make()
FNS = decoding.decode_fns(GPT2, "float32")
KEY = jax.random.key(0)


def stream(prompts: list[list[int]], new_tokens: int = 2, stop: Any = ()) -> Any:
    params = jax.eval_shape(lambda: random_params(GPT2))
    choose = logit_filters.greedy
    sampling: Any = {"choose": choose, "new_tokens": new_tokens, "stop": stop}
    return next(text_model.stream_tokens(FNS, params, prompts, KEY, **sampling))


def prefill(ids: Any, new_tokens: int) -> Any:
    ids_BL = jnp.asarray(ids)
    length_B = jnp.full(len(ids_BL), ids_BL.shape[1])
    weights = jax.eval_shape(lambda: random_params(GPT2))
    return decoding.prefill(FNS, weights, ids_BL, length_B, KEY, new_tokens=new_tokens)


def pixels(label: Any, prefix: Any = None) -> Any:
    tokenizer = gray_levels.QuantizedImages({}, {}, 4, 4, 3, patch=1)
    net = image_gpt.image_gpt(side=4, vocab_size=3 + 2, depth=1, width=32)
    model = pixel_model.from_net(net, tokenizer, compute_dtype="float32")
    return pixel_model.sample(model, None, label, KEY, prefix)


def classes(label: Any) -> Any:
    sample = process_sampler.class_sampler(
        flow_matching.process(),
        lambda *inputs: None,
        lambda rows: rows,
        like=jax.ShapeDtypeStruct((1, 2, 2), jnp.float32),
        null_label=10,
        scale=1.0,
    )
    return sample(None, label, KEY, steps=1)


def spans(length: int) -> Any:
    marks = {"sentinel": 100, "sentinels": 64, "end": 99}
    (corrupt,) = span_corruption.corruptions([0.4], length=length, **marks)
    return corrupt(np.zeros(length, np.int32), np.random.default_rng(0))


REFUSED = {
    "a cache longer than the positions": (
        partial(GPT2.empty_cache, 1, LENGTH + 1, 1, "float32"),
        f"positions: .* at most {LENGTH} tokens, got {LENGTH + 1}",
    ),
    "a prompt with its new tokens": (
        partial(prefill, [[1, 2, 3]], LENGTH - 2),
        f"at most {LENGTH} tokens, got {LENGTH + 1}",
    ),
    "a stream, before its first burst": (
        partial(stream, [[1, 2, 3]], LENGTH - 2),
        f"at most {LENGTH} tokens, got {LENGTH + 1}",
    ),
    "an unknown token": (
        partial(stream, [[1], [VOCAB_SIZE]]),
        f"token of a prompt: expected 0 to {VOCAB_SIZE - 1}, got {VOCAB_SIZE}",
    ),
    "a negative token": (partial(prefill, [[1, -1]], 1), "token of a prompt.* got -1"),
    "two documents": (
        partial(stream, [[1, 5, 2]], stop=(5,)),
        "prompts: expected one document each, got its end, token 5, in one",
    ),
    "a class of a pixel model": (
        partial(pixels, [0, 2]),
        "class: expected 0 to 1, got 2",
    ),
    "a gray level": (partial(pixels, [0], [[3]]), "prefix: expected 0 to 2, got 3"),
    "no class": (partial(classes, [10]), "class: expected 0 to 9, got 10"),
    "a negative class": (partial(classes, [3, -1]), "class: expected 0 to 9, got -1"),
    "letters": (partial(terminal_images.parse_digits, "1a"), "digits: .* got '1a'"),
    "no digits": (partial(terminal_images.parse_digits, ""), "digits: .* got ''"),
    "other digits": (
        partial(terminal_images.parse_digits, "\u0663"),
        "digits: .* got ",
    ),
    "more spans than sentinels": (partial(spans, 600), "at most 64 spans .* got 80 at"),
}


@pytest.mark.parametrize(("make", "words"), REFUSED.values(), ids=REFUSED)
def test_an_index_out_of_range_is_refused(make: Any, words: str) -> None:
    """The parameters are shapes only, so nothing can be computed."""
    with pytest.raises(ValueError, match=words) as refused:
        make()
    assert "\n" not in str(refused.value)


def test_the_last_index_is_taken() -> None:
    GPT2.empty_cache(1, LENGTH, 1, "float32")
    checks.check_indices("class", np.asarray([[0, 9]]), 10)
    assert terminal_images.parse_digits("2026").tolist() == [2, 0, 2, 6]
    assert len(spans(480)["ids_BL"]) == 192 + 64 + 1
    weights = jax.eval_shape(lambda: random_params(GPT2))
    assert decoding.vocab_size(FNS, weights, rows=2) == VOCAB_SIZE
