"""Scores of texts."""

from __future__ import annotations

import numpy as np
import pytest

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
