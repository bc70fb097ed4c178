"""The nearest sentence by tf-idf."""

from __future__ import annotations

import pytest

from transformer.evaluation.baselines import tfidf


def test_the_nearest_sentence_shares_rare_words() -> None:
    known = ["the cat sat on the mat", "the dog sat", "open the file", "the the the"]
    queries = ["Open a file, dog!", "a dog", "the cat sat on the mat"]
    near = tfidf.nearest(known, queries)
    assert near.index.tolist() == [2, 1, 0]
    assert near.cosine[2] == pytest.approx(1) and near.cosine[0] < 1
    # Of two equally rare words one is shared.
    half = tfidf.nearest(["red cat"], ["red"]).cosine[0]
    assert half == pytest.approx(0.5**0.5)
    # A word of every sentence counts less than a rare one.
    assert tfidf.nearest(known, ["the open"]).index == [2]
    buckets = tfidf.bucket_by_similarity(near, (0.0, 0.99, 1.01))
    assert buckets == {"0_to_0.99": [0, 1], "0.99_to_1.01": [2]}


def test_of_equal_sentences_the_first_is_found_and_none_is_refused() -> None:
    assert tfidf.nearest(["a b", "c", "a b"], ["a b", "z"]).index.tolist() == [0, 0]
    with pytest.raises(ValueError, match="expected sentences .* got none"):
        tfidf.nearest([], ["a"])
