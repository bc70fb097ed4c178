"""Logit filters and samplers against literal distributions."""

from __future__ import annotations

from fractions import Fraction
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
    logits_BV = np.stack([np.log(P), np.log(P[order]) + 3.0]).astype(np.float32)
    got = jax.jit(lambda logits_BV: jax.nn.softmax(keep(logits_BV)))(logits_BV)
    np.testing.assert_allclose(got, [expected, np.asarray(expected)[order]], atol=1e-6)


def kept_exactly(weight_V: list[int], name: str, limit: Fraction) -> list[bool]:
    """What a filter keeps of probabilities in the ratio of these whole numbers, by
    exact arithmetic. Of equals the first is the more likely."""
    total, largest = sum(weight_V), max(weight_V)
    order = sorted(range(len(weight_V)), key=lambda v: (-weight_V[v], v))
    rank = {token: place for place, token in enumerate(order)}
    before = {v: sum(weight_V[o] for o in order[: rank[v]]) for v in rank}
    rules = {
        "top_k": lambda v: rank[v] < limit,
        "top_p": lambda v: limit == 1 or Fraction(before[v], total) < limit,
        "min_p": lambda v: Fraction(weight_V[v], largest) >= limit,
    }
    return [rules[name](v) for v in range(len(weight_V))]


@pytest.mark.parametrize("name", ["top_k", "top_p", "min_p"])
def test_filters_are_exact_at_ties_and_ends(name: str) -> None:
    """Few distinct weights, so that most cases have ties; limits that are met exactly,
    the ends of their range, and any others."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        weight_V = rng.integers(1, 5, 8).tolist()
        # One in five with logits that are far apart.
        weight_V = weight_V if rng.random() < 0.8 else [10 ** (w - 1) for w in weight_V]
        some = sum(rng.choice(weight_V, rng.integers(1, 8), replace=False).tolist())
        limit = {
            "top_k": Fraction(int(rng.integers(1, 11))),
            "top_p": Fraction(some, sum(weight_V)),
            "min_p": Fraction(int(rng.choice(weight_V)), max(weight_V)),
        }[name]
        if name != "top_k" and rng.random() < 0.3:
            limit = Fraction(int(rng.integers(1, 21)), 20)
        keep = getattr(logit_filters, name)
        keep = keep(int(limit) if name == "top_k" else float(limit))
        logits_BV = np.float32(np.log(weight_V) + rng.normal())[None]
        got_BV = np.asarray(keep(jnp.asarray(logits_BV)))
        expected = kept_exactly(weight_V, name, limit)
        assert np.isfinite(got_BV[0]).tolist() == expected, (weight_V, limit)
        np.testing.assert_array_equal(got_BV[0][expected], logits_BV[0][expected])


def test_filters_of_a_large_vocabulary() -> None:
    """Of 50,304 tokens top-p 1 drops none, top-k of equal logits keeps k, and the top-p
    of equal logits its share to within one token."""
    rng = np.random.default_rng(0)
    logits_BV = np.float32(5 * rng.normal(size=(1, 50_304)))

    def kept(keep: Any, logits_BV: np.ndarray) -> np.ndarray:
        return np.isfinite(jax.jit(keep)(logits_BV))[0]

    for keep in (logit_filters.top_p(1.0), logit_filters.min_p(0.0)):
        np.testing.assert_array_equal(jax.jit(keep)(logits_BV), logits_BV)
    p_V = np.asarray(logits_BV, np.float64)[0]
    p_V = np.sort(np.exp(p_V - p_V.max()))[::-1]
    before_V = np.cumsum(p_V / p_V.sum()) - p_V / p_V.sum()
    for mass in (0.3, 0.9, 0.999):
        count = kept(logit_filters.top_p(mass), logits_BV).sum()
        # The reference where the limit is within float32's rounding of it.
        near = [int((before_V < mass - e).sum()) for e in (2e-5 * (1 - mass), -1e-6)]
        assert near[0] <= count <= near[1] and near[1] - near[0] < 60
    equal_BV = np.zeros_like(logits_BV)
    first_V = np.flatnonzero(kept(logit_filters.top_k(7), equal_BV))
    assert first_V.tolist() == [*range(7)]
    assert kept(logit_filters.min_p(1.0), equal_BV).all()
    assert abs(kept(logit_filters.top_p(0.5), equal_BV).sum() - 25_152) <= 1


@pytest.mark.parametrize("value", [1e-45, 1e-38, 1e-6, 1.0, 1e6, 3e38])
def test_no_temperature_favors_an_unlikely_token(value: float) -> None:
    """From one-hot at the most likely tokens to uniform; float64 by hand."""
    logits_BV = np.float32([[1.0, 3.0, 3.0, -2.0, -np.inf], [300, -1e4, 0, 0, 0]])
    scale = logit_filters.temperature(value)
    got = jax.jit(lambda logits_BV: jax.nn.softmax(scale(logits_BV)))(logits_BV)
    behind = np.asarray(logits_BV, np.float64)
    behind = behind - behind.max(1, keepdims=True)
    expected = np.exp(behind / value)
    expected /= expected.sum(1, keepdims=True)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)


def test_samples_follow_the_filtered_distribution() -> None:
    rows = 20_000
    choose = logit_filters.categorical(
        logit_filters.temperature(0.5), logit_filters.top_k(3)
    )
    choose = jax.jit(choose)
    logits_BV = np.broadcast_to(np.log(P).astype(np.float32), (rows, 4))
    ids_B = choose(logits_BV, jax.random.key(0))
    assert ids_B.dtype == jnp.int32
    fraction = np.bincount(ids_B, minlength=4) / rows
    expected = np.array([0, 16, 4, 9]) / 29
    assert np.abs(fraction - expected).max() < 4 * np.sqrt(0.25 / rows)
    again_B = choose(logits_BV, jax.random.key(1))
    assert (np.asarray(again_B) != np.asarray(ids_B)).any()


def test_a_sample_is_independent_of_the_other_rows() -> None:
    logits_BV = np.float32(np.random.default_rng(0).normal(size=(64, 50)))
    choose = jax.jit(logit_filters.categorical())
    key = jax.random.key(1)
    together_B = np.asarray(choose(logits_BV, key))
    np.testing.assert_array_equal(together_B[:8], choose(logits_BV[:8], key))
    others_BV = np.concatenate([logits_BV[:8], -3 * logits_BV[8:]])
    np.testing.assert_array_equal(
        together_B[:8], np.asarray(choose(others_BV, key))[:8]
    )
    uniform_BV = np.zeros((64, 50), np.float32)
    assert len(np.unique(choose(uniform_BV, key))) > 20


def test_greedy_takes_the_most_likely() -> None:
    logits_BV = np.log([P, P[::-1]])
    ids_B = jax.jit(logit_filters.greedy)(logits_BV, jax.random.key(0))
    assert ids_B.dtype == jnp.int32 and ids_B.tolist() == [1, 2]


def test_greedy_takes_the_first_of_equals_and_always_an_id() -> None:
    logits_BV = np.array([[0, 2, 2.0], [-np.inf, -np.inf, -np.inf], [0, np.nan, 1]])
    ids_B = jax.jit(logit_filters.greedy)(logits_BV, jax.random.key(0))
    assert ids_B.tolist() == [1, 0, 2]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            partial(logit_filters.temperature, 0.0),
            "temperature: expected a finite number more than 0, got 0",
        ),
        (partial(logit_filters.temperature, -1.0), "more than 0, got -1"),
        (partial(logit_filters.temperature, float("nan")), "more than 0, got nan"),
        (partial(logit_filters.temperature, float("inf")), "more than 0, got inf"),
        (partial(logit_filters.top_k, 0), "top_k: expected at least 1, got 0"),
        (
            partial(logit_filters.top_p, 0.0),
            "top_p: expected more than 0 and at most 1, got",
        ),
        (partial(logit_filters.top_p, 1.5), "at most 1, got 1.5"),
        (
            partial(logit_filters.min_p, -0.1),
            "min_p: expected 0 to 1, got",
        ),
    ],
)
def test_values_out_of_range_are_refused(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
