"""Scores of texts."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transformer.evaluation import text_scores


def test_perfect_translations_have_full_scores() -> None:
    texts = ["O gato dorme no tapete grande.", "Abra o ficheiro agora, por favor."]
    full = text_scores.translation_scores(texts, texts)
    assert full == pytest.approx({"bleu": 100, "chrf": 100})
    assert text_scores.translation_scores(texts[::-1], texts)["bleu"] < 10


def test_a_score_table_has_each_metric_of_each_system_on_the_subset() -> None:
    references = np.array(["red cat", "blue car", "red hat"])
    systems = {"model": ["red cat", "x", "red hat"], "baseline": ["red hat"] * 3}
    table = text_scores.score_table(systems, references)
    assert table["exact_match/model"] == pytest.approx(2 / 3)
    assert table["exact_match/baseline"] == pytest.approx(1 / 3)
    half = text_scores.score_table(
        systems, references, subset=np.array([True, False, True]), name="near"
    )
    assert half["exact_match/model/near"] == 1 and half["chrf/model/near"] == 100
    assert set(half) == {f"{key}/near" for key in table}
    assert text_scores.sentence_chrf("red cat", "red cat") == 100


@given(st.text("abc", max_size=6), st.text("abc", max_size=6))
def test_the_edit_distance_is_that_of_its_definition(one: str, other: str) -> None:
    """The recursion that Levenshtein's distance is defined by."""

    @functools.cache
    def distance(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        changed = distance(i - 1, j - 1) + (one[i - 1] != other[j - 1])
        return min(changed, distance(i - 1, j) + 1, distance(i, j - 1) + 1)

    expected = distance(len(one), len(other))
    assert text_scores.edit_distance(one, other) == expected


def test_error_rates_are_edits_over_the_words_of_all_references() -> None:
    """Known distances, such as kitten to sitting; a longer text counts for more."""
    assert text_scores.edit_distance("kitten", "sitting") == 3
    assert text_scores.edit_distance("saturday", "sunday") == 3
    references = ["The hen sat, today.", "yes"]
    scores = text_scores.speech_scores(["the hen sat today", "no yes"], references)
    # the, sat, today; and no. Without case and points no alone.
    assert scores["wer"] == pytest.approx(4 / 5)
    assert scores["wer/plain"] == pytest.approx(1 / 5)
    assert scores["cer"] == pytest.approx((1 + 1 + 1 + 3) / (19 + 3))
    assert set(text_scores.speech_scores(references, references).values()) == {0}
    assert text_scores.plain_text("Pão-de-ló!") == "pão de ló "
