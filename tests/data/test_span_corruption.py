"""Span corruption: source and targets together are the text."""

from __future__ import annotations

import numpy as np
import pytest

from transformer.data.text import span_corruption

RNG = np.random.default_rng(0)
SENTINEL, END = 100, 99


@pytest.mark.parametrize("length", [2, 3, 20, 128])
@pytest.mark.parametrize("rate", [0.01, 0.15, 0.9])
def test_source_and_targets_together_are_the_text(length: int, rate: float) -> None:
    """Kept and lost pieces alternate, kept first; shapes depend only on the length."""
    lost, count = span_corruption.span_counts(
        length, corruption_rate=rate, mean_span=3.0
    )
    for _ in range(5):
        ids = RNG.integers(0, END, length)
        marks = {"sentinel": SENTINEL, "sentinels": length, "end": END}
        row = span_corruption.corrupt_spans(
            ids, RNG, corruption_rate=rate, mean_span=3.0, **marks
        )
        pieces = span_corruption.uncorrupted_pieces(row["source_BL"], SENTINEL)
        gone = span_corruption.predicted_spans(row["targets_BL"], SENTINEL, END)
        assert len(gone) == len(pieces) - 1 == count
        assert all(map(len, gone)) and sum(map(len, gone)) == lost
        turns = [part for pair in zip(pieces, gone, strict=False) for part in pair]
        np.testing.assert_array_equal(np.concatenate([*turns, pieces[-1]]), ids)
        assert row["source_BL"].shape == (length - lost + count,)
        assert row["targets_BL"].shape == (lost + count + 1,)
        assert row["ids_BL"].tolist() == [END, *row["targets_BL"][:-1]]
        assert row["span_weight_BL"].sum() == lost


def test_predicted_spans_are_parsed_from_any_output() -> None:
    written = np.array([7, 102, 1, 2, 100, 3, 99, 101, 4])
    found = span_corruption.predicted_spans(written, SENTINEL, END, count=3)
    assert [part.tolist() for part in found] == [[3], [], [1, 2]]
