"""Retrieval metrics."""

from __future__ import annotations

import numpy as np
import pytest

from transformer.evaluation import retrieval

RNG = np.random.default_rng(0)


def test_a_rank_is_the_place_among_falling_scores() -> None:
    queries = np.array([[1.0, 0], [0, 1], [1, 1]])
    found = np.array([[2.0, 0], [3, 1], [3, 1]])
    assert retrieval.ranks(queries @ found.T).tolist() == [3, 1, 2]
    many = np.stack([queries @ found.T, np.eye(3)])
    assert retrieval.ranks(many).tolist() == [[3, 1, 2], [1, 1, 1]]
    chances = retrieval.recall_at_k(retrieval.ranks(many))["recall_at_1_over_chance"]
    assert chances == pytest.approx(2)
    images = RNG.integers(0, 256, (2, 3, 2, 2, 1)).astype(np.uint8)
    distance = np.square(images[0, 1] / 255 - images[1, 2] / 255).sum()
    np.testing.assert_allclose(
        retrieval.negative_squared_distance(*images)[1, 2], -distance, rtol=1e-6
    )
    recall = retrieval.recall_at_k(np.array([1, 1, 4, 20]))
    assert recall == {
        "recall_at_1": 0.5,
        "recall_at_10": 0.75,
        "median_rank": 2.5,
        "recall_at_1_over_chance": 2.0,
    }
