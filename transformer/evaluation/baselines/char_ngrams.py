"""Text classification by character n-grams."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def ngram_classifier_accuracy(
    train_texts: Sequence[str],
    train_labels: Sequence[int] | np.ndarray,
    texts: Sequence[str],
    labels: Sequence[int] | np.ndarray,
) -> float:
    """Test accuracy of multinomial naive Bayes on counts of character 1- to 3-grams
    within words, the usual baseline of language identification (Lui and Baldwin 2012,
    "langid.py")."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.naive_bayes import MultinomialNB
    from sklearn.pipeline import make_pipeline

    counts = CountVectorizer(analyzer="char_wb", ngram_range=(1, 3))
    model: Any = make_pipeline(counts, MultinomialNB())
    predicted = model.fit(train_texts, train_labels).predict(texts)
    return float(np.mean(predicted == np.asarray(labels)))
