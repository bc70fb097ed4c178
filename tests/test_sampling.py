"""Samplers against literal distributions, texts against a language that counts."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer.generation import decoding, logit_filters, text_model

P = np.array([0.1, 0.4, 0.2, 0.3])

FILTERED = {
    "temperature 1": (logit_filters.temperature(1.0), P),
    "temperature 1/2": (logit_filters.temperature(0.5), P**2 / (P**2).sum()),
    "temperature 2": (logit_filters.temperature(2.0), P**0.5 / (P**0.5).sum()),
    "top-k 1": (logit_filters.top_k(1), [0, 1, 0, 0]),
    "top-k 2": (logit_filters.top_k(2), [0, 4 / 7, 0, 3 / 7]),
    "top-k of more than all": (logit_filters.top_k(9), P),
    "top-p below the likeliest": (logit_filters.top_p(0.39), [0, 1, 0, 0]),
    "top-p 0.5": (logit_filters.top_p(0.5), [0, 4 / 7, 0, 3 / 7]),
    "top-p 0.8": (logit_filters.top_p(0.8), [0, 4 / 9, 2 / 9, 3 / 9]),
    "top-p 1": (logit_filters.top_p(1.0), P),
    "min-p 0.6": (logit_filters.min_p(0.6), [0, 4 / 7, 0, 3 / 7]),
    "min-p 0.4": (logit_filters.min_p(0.4), [0, 4 / 9, 2 / 9, 3 / 9]),
    "min-p 1": (logit_filters.min_p(1.0), [0, 1, 0, 0]),
    "min-p 0.01": (logit_filters.min_p(0.01), P),
}


@pytest.mark.parametrize(("keep", "expected"), FILTERED.values(), ids=FILTERED)
def test_filters_leave_their_distributions(keep: Any, expected: Any) -> None:
    """Two rows, the second in another order and shifted: neither matters."""
    order = np.array([2, 0, 3, 1])
    logits_BV = jnp.stack([jnp.log(P), jnp.log(P[order]) + 3.0]).astype(jnp.float32)
    got = jax.nn.softmax(jax.jit(keep)(logits_BV), axis=-1)
    np.testing.assert_allclose(got, [expected, np.asarray(expected)[order]], atol=1e-6)


def test_ties_are_kept_together_by_top_k_and_min_p() -> None:
    logits_BV = jnp.zeros((1, 4))
    for keep in (logit_filters.top_k(2), logit_filters.min_p(1.0)):
        assert np.isfinite(keep(logits_BV)).all()


def test_draws_follow_the_filtered_distribution() -> None:
    rows = 20_000
    choose = logit_filters.categorical(
        logit_filters.temperature(0.5), logit_filters.top_k(3)
    )
    logits_BV = jnp.broadcast_to(jnp.log(P).astype(jnp.float32), (rows, 4))
    ids_B = jax.jit(choose)(logits_BV, jax.random.key(0))
    assert ids_B.dtype == jnp.int32
    share = np.bincount(ids_B, minlength=4) / rows
    expected = np.array([0, 16, 4, 9]) / 29
    assert np.abs(share - expected).max() < 4 * np.sqrt(0.25 / rows)
    again_B = jax.jit(choose)(logits_BV, jax.random.key(1))
    assert (np.asarray(again_B) != np.asarray(ids_B)).any()


def test_a_draw_does_not_depend_on_the_rows_beside_it() -> None:
    logits_BV = jax.random.normal(jax.random.key(0), (64, 50))
    choose = jax.jit(logit_filters.categorical())
    key = jax.random.key(1)
    together_B = np.asarray(choose(logits_BV, key))
    np.testing.assert_array_equal(together_B[:8], choose(logits_BV[:8], key))
    others_BV = logits_BV.at[8:].multiply(-3.0)
    np.testing.assert_array_equal(together_B[:8], choose(others_BV, key)[:8])
    assert len(set(np.asarray(choose(jnp.zeros((64, 50)), key)).tolist())) > 20


def test_greedy_takes_the_likeliest() -> None:
    logits_BV = jnp.log(jnp.asarray([P, P[::-1]], jnp.float32))
    ids_B = logit_filters.greedy(logits_BV, jax.random.key(0))
    assert ids_B.dtype == jnp.int32 and ids_B.tolist() == [1, 2]


def test_greedy_takes_the_first_of_equals_and_always_an_id() -> None:
    logits_BV = jnp.asarray(
        [[0, 2, 2.0], [-jnp.inf, -jnp.inf, -jnp.inf], [0, jnp.nan, 1]]
    )
    assert logit_filters.greedy(logits_BV, jax.random.key(0)).tolist() == [1, 0, 2]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            partial(logit_filters.temperature, 0.0),
            "temperature: expected more than 0, got 0",
        ),
        (partial(logit_filters.temperature, -1.0), "expected more than 0, got -1"),
        (partial(logit_filters.temperature, float("nan")), "more than 0, got nan"),
        (partial(logit_filters.top_k, 0), "top_k: expected at least 1, got 0"),
        (
            partial(logit_filters.top_p, 0.0),
            "top_p: expected more than 0 and at most 1, got",
        ),
        (partial(logit_filters.top_p, 1.5), "at most 1, got 1.5"),
        (
            partial(logit_filters.min_p, -0.1),
            "min_p: expected more than 0 and at most 1, got",
        ),
        (
            partial(text_model.sampler_from_flags, temperature=-2.0),
            "expected more than 0, got -2",
        ),
        (
            partial(text_model.sampler_from_flags, top_k=-1),
            "top_k: expected at least 1, got -1",
        ),
    ],
)
def test_impossible_dials_are_named(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def test_choice_composes_its_dials_in_order() -> None:
    logits_BV = jnp.broadcast_to(jnp.log(P).astype(jnp.float32), (500, 4))
    key = jax.random.key(3)
    dials = {"temperature": 0.5, "top_k": 3, "top_p": 0.9, "min_p": 0.01}
    by_hand = logit_filters.categorical(
        logit_filters.temperature(0.5),
        logit_filters.top_k(3),
        logit_filters.top_p(0.9),
        logit_filters.min_p(0.01),
    )
    np.testing.assert_array_equal(
        text_model.sampler_from_flags(**dials)(logits_BV, key), by_hand(logits_BV, key)
    )
    assert text_model.sampler_from_flags(temperature=0) is logit_filters.greedy


def counting() -> decoding.DecodeFns:
    """A language whose next token is always the one after: its features are one-hot."""

    def extend(weights: Any, ids_BL: Any, cache: Any, tokens: Any) -> Any:
        x_BLD = jax.nn.one_hot(ids_BL + 1, 256)
        return (x_BLD, jnp.eye(256)), cache

    return decoding.DecodeFns(extend, lambda rows, length, chunk: jnp.zeros(rows))


def speech(length: int = 16) -> text_model.TextModel:
    def stream() -> Any:
        return lambda *token, final=False: "" if final else chr(*token)

    return text_model.TextModel(
        language=counting(),
        encode=lambda text: [ord(c) for c in text],
        stream=stream,
        end=ord("h"),
        length=length,
    )


def test_texts_are_continued_until_they_end() -> None:
    said = text_model.complete(
        speech(),
        {},
        ["abc", "e", "x"],
        jax.random.key(0),
        choose=logit_filters.greedy,
        new_tokens=9,
    )
    assert [text.rstrip("h") for text in said] == [
        "abcdefg",
        "efg",
        "xyz{|}~\x7f\x80\x81",
    ]


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
    ],
)
def test_impossible_requests_are_named(
    prompts: list[str], new_tokens: int, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        text_model.stream_text(
            speech(),
            {},
            prompts,
            jax.random.key(0),
            choose=logit_filters.greedy,
            new_tokens=new_tokens,
        )
