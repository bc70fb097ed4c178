"""Text classification by character n-grams."""

from __future__ import annotations

import numpy as np

from transformer.evaluation.baselines import char_ngrams

EN = ["the house is big", "the dog sees the sea", "open this file", "she has a horse"]
PT = ["a casa é grande", "o cão não vê o mar", "abra este ficheiro", "ela não é má"]


def test_languages_are_told_apart_on_words_that_training_lacks() -> None:
    label = np.repeat([0, 1], 4)
    test = ["this thing there", "canção e coração"]
    accuracy = char_ngrams.ngram_classifier_accuracy(EN + PT, label, test, [0, 1])
    assert accuracy == 1.0
    swapped = char_ngrams.ngram_classifier_accuracy(EN + PT, label, test, [1, 1])
    assert swapped == 0.5
