"""N-gram baselines of fill-in."""

from __future__ import annotations

import numpy as np

from transformer.evaluation.baselines import ngram

RNG = np.random.default_rng(0)


def test_the_most_frequent_token_of_a_context_is_predicted() -> None:
    """Two tokens determine the third; unknown contexts back off."""
    ids = np.array([0, 1, 2, 0, 1, 2, 0, 1, 3, 3, 3, 3, 0, 1, 2, 0])
    near, zero = ids[1:-2], np.zeros(13, int)
    contexts = [ids[:-3] * 4 + near, near, zero]
    tables = [ngram.count_ngrams(c, ids[2:-1], vocab_size=4) for c in contexts]
    queries = [np.array([0 * 4 + 1, 2 * 4 + 2]), np.array([1, 2]), np.array([0, 0])]
    assert ngram.backoff_predict(tables, queries).tolist() == [2, 0]
    assert ngram.backoff_predict(tables, queries, min_count=99).tolist() == [3, 3]


def test_contexts_are_equal_where_their_tokens_are() -> None:
    documents = [RNG.integers(0, 3, 40), RNG.integers(0, 3, 9)]
    for offsets in ngram.OFFSETS["four_neighbors"]:
        got = ngram.contexts(documents, offsets, vocab_size=2**20)
        tokens = [
            tuple(ids[place + offset] for offset in offsets)
            for ids in documents
            for place in range(2, len(ids) - 2)
        ]
        same = [[a == b for b in tokens] for a in tokens]
        np.testing.assert_array_equal(got[:, None] == got[None], same)


def test_what_neighbors_determine_is_predicted_and_coins_are_not() -> None:
    cycle = [np.tile(np.arange(4), 50)]
    accuracy = ngram.ngram_accuracies(cycle, cycle, vocab_size=4)
    names = "trigram", "both_neighbors", "four_neighbors", "visible_neighbors"
    assert accuracy == {f"accuracy/{name}": 1.0 for name in names}
    coins = [RNG.integers(0, 4, 20_000) for _ in range(2)]
    random = ngram.ngram_accuracies(coins[:1], coins[1:], vocab_size=4)
    assert all(0.22 < value < 0.28 for value in random.values())


def test_masked_tokens_are_not_read_by_the_baseline_that_says_so() -> None:
    """Four neighbors determine a token of this text; three of five tokens are 1."""
    text = [np.tile([0, 0, 1, 1, 1], 2000)]
    masked = ngram.ngram_accuracies(text, text, vocab_size=2, mask_ratio=1.0)
    assert abs(masked.pop("accuracy/visible_neighbors") - 0.6) < 1e-3
    assert set(masked) == {f"accuracy/{name}" for name in ngram.OFFSETS}
    whole = ngram.ngram_accuracies(text, text, vocab_size=2)
    assert whole.pop("accuracy/visible_neighbors") == 1.0
    assert whole == masked


def test_contexts_are_read_where_all_their_tokens_are_visible() -> None:
    """In a cycle one of the two nearest neighbors is enough, and each context has one;
    without them a fourth is hit."""
    cycle = [np.tile(np.arange(4), 5000)]
    accuracy = ngram.ngram_accuracies(cycle, cycle, vocab_size=4, mask_ratio=0.8)
    blind = 0.8**2
    expected = 1 - blind + blind / 4
    assert abs(accuracy["accuracy/visible_neighbors"] - expected) < 0.01
