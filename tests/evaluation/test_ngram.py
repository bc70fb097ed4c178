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
    assert accuracy == {"accuracy/trigram": 1.0, "accuracy/both_neighbors": 1.0}
    coins = [RNG.integers(0, 4, 20_000) for _ in range(2)]
    random = ngram.ngram_accuracies(coins[:1], coins[1:], vocab_size=4)
    assert all(0.22 < value < 0.28 for value in random.values())
