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
        marks = {"sentinel": SENTINEL, "end": END}
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


@pytest.mark.parametrize(("length", "rate"), [(32, 0.15), (32, 0.4), (33, 0.9), (2, 1)])
def test_every_token_of_short_windows_is_in_its_padded_row(
    length: int, rate: float
) -> None:
    """Windows of every size up to a row's are padded to one shape; what is not padding
    is source and spans, each token once, and has its weight."""
    (corrupt,) = span_corruption.corruptions(
        [rate], length=length, sentinel=SENTINEL, sentinels=64, end=END
    )
    shapes = set()
    for size in range(1, length + 1):
        ids = RNG.integers(1, END, size)
        row = corrupt(ids, RNG)
        shapes.add(tuple((name, len(array)) for name, array in sorted(row.items())))
        real = row["source_segment_BL"] > 0
        assert not row["source_BL"][~real].any()
        pieces = span_corruption.uncorrupted_pieces(row["source_BL"][real], SENTINEL)
        gone = span_corruption.predicted_spans(row["targets_BL"], SENTINEL, END)
        turns = [part for pair in zip(pieces, gone, strict=False) for part in pair]
        np.testing.assert_array_equal(np.concatenate([*turns, pieces[-1]]), ids)
        scored = row["targets_BL"][row["span_weight_BL"] > 0]
        np.testing.assert_array_equal(scored, np.concatenate(gone))
        assert row["weight_BL"].sum() == len(scored) + len(gone) + 1
        assert not row["targets_BL"][row["weight_BL"] == 0].any()
    assert len(shapes) == 1


def test_more_spans_than_sentinels_are_refused() -> None:
    with pytest.raises(
        ValueError, match="at most 64 spans in a row, got 68 at the rat"
    ):
        span_corruption.corruptions(
            [0.15, 0.4], length=512, sentinel=SENTINEL, sentinels=64, end=END
        )
