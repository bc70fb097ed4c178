"""N-gram baselines of fill-in."""

from __future__ import annotations

import numpy as np

from transformer.evaluation.baselines import ngram

RNG = np.random.default_rng(0)


def test_the_most_frequent_token_of_a_context_is_predicted() -> None:
    """Two tokens determine the third; unknown contexts back off."""
    ids = np.array([0, 1, 2, 0, 1, 2, 0, 1, 3, 3, 3, 3, 0, 1, 2, 0])
    contexts = ngram.trigram_contexts(ids, vocab_size=4)
    tables = [ngram.count_ngrams(c, ids[2:-1], vocab_size=4) for c in contexts]
    queries = [np.array([0 * 4 + 1, 2 * 4 + 2]), np.array([1, 2]), np.array([0, 0])]
    assert ngram.backoff_predict(tables, queries).tolist() == [2, 0]
    assert ngram.backoff_predict(tables, queries, min_count=99).tolist() == [3, 3]
    cycle = [np.tile(np.arange(4), 50)]
    accuracy = ngram.ngram_accuracies(cycle, cycle, vocab_size=4)
    names = "trigram", "both_neighbors", "visible_neighbors"
    assert accuracy == {f"accuracy/{name}": 1.0 for name in names}
    coins = [RNG.integers(0, 4, 20_000) for _ in range(2)]
    random = ngram.ngram_accuracies(coins[:1], coins[1:], vocab_size=4)
    assert all(0.22 < value < 0.28 for value in random.values())


def test_masked_neighbors_are_not_read() -> None:
    """Each of the contexts, longest first, as if a masked token were any other."""
    ids = RNG.integers(0, 9, 40)
    is_masked = RNG.random(40) < 0.4
    other = np.where(is_masked, (ids + 1) % 9, ids)
    got = ngram.visible_contexts(ids, is_masked, vocab_size=9)
    for context, same in zip(
        got, ngram.visible_contexts(other, is_masked, vocab_size=9), strict=True
    ):
        np.testing.assert_array_equal(context, same)
    both, two, one, following, none = got
    seen = ~is_masked
    np.testing.assert_array_equal(both >= 0, seen[1:-2] & seen[3:])
    np.testing.assert_array_equal(two >= 0, seen[:-3] & seen[1:-2])
    np.testing.assert_array_equal(np.where(seen[1:-2], ids[1:-2], -1), one)
    np.testing.assert_array_equal(np.where(seen[3:], ids[3:], -1), following)
    np.testing.assert_array_equal(none, 0)


def test_a_baseline_with_masked_tokens_is_worse_and_the_others_are_not() -> None:
    cycle = [np.tile(np.arange(4), 5000)]
    accuracy = ngram.ngram_accuracies(cycle, cycle, vocab_size=4, mask_ratio=0.5)
    # A fourth has neither neighbor to read, and is a hit in one of four.
    assert 0.8 < accuracy.pop("accuracy/visible_neighbors") < 0.825
    assert set(accuracy.values()) == {1.0}
