"""Needles and questions in text."""

from __future__ import annotations

import numpy as np
import pytest

from transformer.data.text import associative_recall

VOCABULARY = associative_recall.NeedleVocabulary(
    first=50, keys=3, values=4, questions=5
)


def test_every_key_has_one_needle_and_its_questions_follow() -> None:
    """An answer is a target only: it is no token of the row."""
    rng, length = np.random.default_rng(0), 40
    for _ in range(20):
        ids = rng.integers(0, 50, associative_recall.text_length(VOCABULARY, length))
        row = associative_recall.insert_needles(ids, rng, VOCABULARY)
        tokens, targets = row["ids_BL"], row["targets_BL"]
        assert tokens.shape == targets.shape == (length,)
        question = row["question_BL"] > 0
        assert question.sum() == VOCABULARY.keys * VOCABULARY.questions
        np.testing.assert_array_equal(
            targets[:-1][~question[:-1]], tokens[1:][~question[:-1]]
        )
        np.testing.assert_array_equal(tokens[tokens < 50], ids[:-1])
        answers = [VOCABULARY.answer(value) for value in range(VOCABULARY.values)]
        assert not np.isin(tokens, answers).any()
        for place in np.flatnonzero(question):
            key = tokens[place] - VOCABULARY.question(0)
            needle = tokens[place - row["distance_BL"][place]] - VOCABULARY.needle(0, 0)
            value = targets[place] - VOCABULARY.answer(0)
            assert (key, value) == divmod(needle, VOCABULARY.values)
        needles = tokens[tokens >= VOCABULARY.needle(0, 0)] - VOCABULARY.needle(0, 0)
        assert sorted(needles // VOCABULARY.values) == [0, 1, 2]
        np.testing.assert_array_equal(row["text_weight_BL"], targets < 50)
    with pytest.raises(ValueError, match="at least 19, got 18"):
        associative_recall.text_length(VOCABULARY, 18)
