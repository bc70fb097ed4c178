"""Minimum Bayes risk by hand."""

from __future__ import annotations

import numpy as np
import pytest

from transformer.generation import minimum_bayes_risk


def test_the_best_text_has_the_greatest_expected_similarity() -> None:
    samples = minimum_bayes_risk.from_samples(
        ["red cat", "red cat", "red hat", "blue car"]
    )
    assert samples == {"red cat": 0.5, "red hat": 0.25, "blue car": 0.25}
    near = minimum_bayes_risk.from_neighbors(
        ["a", "b", "a", "c"], np.array([3.0, 1.0, 2.0, 9.0]), neighbors=3, scale=0.5
    )
    weight = np.exp([-4.0, 0.0, -2.0])
    weight /= weight.sum()
    assert near == pytest.approx({"a": weight[0] + weight[2], "b": weight[1]})
    both = minimum_bayes_risk.interpolate(samples, {"blue car": 1.0}, fraction=0.25)
    assert both["blue car"] == pytest.approx(0.4375)
    assert sum(both.values()) == pytest.approx(1)

    def jaccard(one: str, other: str) -> float:
        return len(set(one) & set(other)) / len(set(one) | set(other))

    # Not the most likely text, but the one between the others.
    distribution = {"aaa": 0.4, "bcd": 0.3, "bce": 0.3}
    risk = {
        text: sum(p * jaccard(text, right) for right, p in distribution.items())
        for text in distribution
    }
    assert (
        minimum_bayes_risk.best_text(distribution, jaccard)
        == max(risk, key=risk.__getitem__)
        != "aaa"
    )
    with pytest.raises(ValueError, match="expected samples, got none"):
        minimum_bayes_risk.from_samples([])
