"""Logit filters and samplers against literal distributions."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer.generation import logit_filters

P = np.array([0.1, 0.4, 0.2, 0.3])

FILTERED = {
    "temperature 1": (logit_filters.temperature(1.0), P),
    "temperature 1/2": (logit_filters.temperature(0.5), P**2 / (P**2).sum()),
    "temperature 2": (logit_filters.temperature(2.0), P**0.5 / (P**0.5).sum()),
    "top-k 1": (logit_filters.top_k(1), [0, 1, 0, 0]),
    "top-k 2": (logit_filters.top_k(2), [0, 4 / 7, 0, 3 / 7]),
    "top-k above the vocabulary": (logit_filters.top_k(9), P),
    "top-p below the most likely": (logit_filters.top_p(0.39), [0, 1, 0, 0]),
    "top-p 0.5": (logit_filters.top_p(0.5), [0, 4 / 7, 0, 3 / 7]),
    "top-p 0.8": (logit_filters.top_p(0.8), [0, 4 / 9, 2 / 9, 3 / 9]),
    "top-p 1": (logit_filters.top_p(1.0), P),
    "min-p 0.6": (logit_filters.min_p(0.6), [0, 4 / 7, 0, 3 / 7]),
    "min-p 0.4": (logit_filters.min_p(0.4), [0, 4 / 9, 2 / 9, 3 / 9]),
    "min-p 1": (logit_filters.min_p(1.0), [0, 1, 0, 0]),
    "min-p 0.01": (logit_filters.min_p(0.01), P),
}


@pytest.mark.parametrize(("keep", "expected"), FILTERED.values(), ids=FILTERED)
def test_filters_give_their_distributions(keep: Any, expected: Any) -> None:
    """Two rows, the second permuted and shifted by a constant: neither matters."""
    order = np.array([2, 0, 3, 1])
    logits_BV = jnp.stack([jnp.log(P), jnp.log(P[order]) + 3.0]).astype(jnp.float32)
    got = jax.nn.softmax(jax.jit(keep)(logits_BV), axis=-1)
    np.testing.assert_allclose(got, [expected, np.asarray(expected)[order]], atol=1e-6)


def test_ties_are_kept_by_top_k_and_min_p() -> None:
    logits_BV = jnp.zeros((1, 4))
    for keep in (logit_filters.top_k(2), logit_filters.min_p(1.0)):
        assert np.isfinite(keep(logits_BV)).all()


def test_samples_follow_the_filtered_distribution() -> None:
    rows = 20_000
    choose = logit_filters.categorical(
        logit_filters.temperature(0.5), logit_filters.top_k(3)
    )
    logits_BV = jnp.broadcast_to(jnp.log(P).astype(jnp.float32), (rows, 4))
    ids_B = jax.jit(choose)(logits_BV, jax.random.key(0))
    assert ids_B.dtype == jnp.int32
    fraction = np.bincount(ids_B, minlength=4) / rows
    expected = np.array([0, 16, 4, 9]) / 29
    assert np.abs(fraction - expected).max() < 4 * np.sqrt(0.25 / rows)
    again_B = jax.jit(choose)(logits_BV, jax.random.key(1))
    assert (np.asarray(again_B) != np.asarray(ids_B)).any()


def test_a_sample_is_independent_of_the_other_rows() -> None:
    logits_BV = jax.random.normal(jax.random.key(0), (64, 50))
    choose = jax.jit(logit_filters.categorical())
    key = jax.random.key(1)
    together_B = np.asarray(choose(logits_BV, key))
    np.testing.assert_array_equal(together_B[:8], choose(logits_BV[:8], key))
    others_BV = logits_BV.at[8:].multiply(-3.0)
    np.testing.assert_array_equal(together_B[:8], choose(others_BV, key)[:8])
    assert len(set(np.asarray(choose(jnp.zeros((64, 50)), key)).tolist())) > 20


def test_greedy_takes_the_most_likely() -> None:
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
    ],
)
def test_values_out_of_range_are_refused(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
