"""Text in, text out, with a model that counts."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer.generation import decoding, logit_filters, text_model

P = np.array([0.1, 0.4, 0.2, 0.3])


def test_a_sampler_composes_its_filters_in_order() -> None:
    logits_BV = np.broadcast_to(np.log(P).astype(np.float32), (500, 4))
    key = jax.random.key(3)
    flags = {"temperature": 0.5, "top_k": 3, "top_p": 0.9, "min_p": 0.01}
    by_hand = logit_filters.categorical(
        logit_filters.temperature(0.5),
        logit_filters.top_k(3),
        logit_filters.top_p(0.9),
        logit_filters.min_p(0.01),
    )
    choose = text_model.sampler_from_flags(**flags)
    np.testing.assert_array_equal(
        jax.jit(choose)(logits_BV, key), jax.jit(by_hand)(logits_BV, key)
    )
    assert text_model.sampler_from_flags(temperature=0) is logit_filters.greedy


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            partial(text_model.sampler_from_flags, temperature=-2.0),
            r"temperature: expected a number in \[0.001, 1000\] or 0, got -2",
        ),
        (partial(text_model.sampler_from_flags, temperature=1e-38), "got 1e-38"),
        (partial(text_model.sampler_from_flags, temperature=1e38), "got 1e"),
        (
            partial(text_model.sampler_from_flags, top_k=-1),
            "top_k: expected at least 1, got -1",
        ),
    ],
)
def test_flags_out_of_range_are_refused(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def counter() -> decoding.DecodeFns:
    """A model whose next token is the current one plus 1, by one-hot features."""

    def decode(weights: Any, ids_BL: Any, cache: Any, tokens: Any) -> Any:
        x_BLD = jax.nn.one_hot(ids_BL + 1, 256)
        return (x_BLD, jnp.eye(256)), cache

    return decoding.DecodeFns(decode, lambda rows, length, chunk: jnp.zeros(rows))


class Characters(NamedTuple):
    """A tokenizer of one token a character; h ends a text."""

    stops: tuple[int, ...] = (ord("h"),)
    vocab_size: int = 256

    def encode(self, text: str) -> list[int]:
        return [ord(c) for c in text]

    def decode_stream(self) -> Any:
        return lambda *token, final=False: "" if final else chr(*token)


MODEL = text_model.TextModel(counter(), Characters(), sequence_length=16)


def test_prompts_are_completed_until_they_end() -> None:
    texts = text_model.complete(
        MODEL,
        {},
        ["abc", "e", "x"],
        jax.random.key(0),
        choose=logit_filters.greedy,
        new_tokens=9,
    )
    assert [text.rstrip("h") for text in texts] == [
        "abcdefg",
        "efg",
        "xyz{|}~\x7f\x80\x81",
    ]


def test_generate_prints_the_text_that_it_returns(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = text_model.generate(
        MODEL, {}, jax.random.key(0), prompt="abc", new_tokens=3, temperature=0
    )
    assert text == "abcdef" and capsys.readouterr().out == "abcdef\n"
    with pytest.raises(ValueError, match="top_k: expected at most 256, .* got 257"):
        text_model.generate(MODEL, {}, jax.random.key(0), top_k=257)


@pytest.mark.parametrize(
    ("prompts", "new_tokens", "words"),
    [
        (
            ["abcd"],
            13,
            "prompt too long: expected at most 16 tokens.*got a prompt of 4",
        ),
        (["a" * 17], 1, "got a prompt of 17"),
        ([""], 4, "expected at least one token each"),
        ([], 4, "expected at least one token each"),
        (["a"], 0, "new_tokens: expected at least 1, got 0"),
        (["a", "b\udcff"], 4, "prompt: expected text in UTF-8, got '.udcff' at char"),
    ],
)
def test_prompts_that_do_not_fit_are_refused(
    prompts: list[str], new_tokens: int, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        text_model.stream_text(
            MODEL,
            {},
            prompts,
            jax.random.key(0),
            choose=logit_filters.greedy,
            new_tokens=new_tokens,
        )
