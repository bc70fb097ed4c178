"""Sentence pairs in rows: complete, aligned by segment, pure in (seed, step, row)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from transformer.data.text import sentence_pairs

RNG = np.random.default_rng(0)
END = 50


def random_pairs(count: int) -> list[sentence_pairs.Pair]:
    """Pairs of random tokens, each side closed by its end."""
    sizes = RNG.integers(1, 12, (count, 2))
    return [
        sentence_pairs.Pair(
            *(np.append(RNG.integers(0, END, size), END) for size in both)
        )
        for both in sizes
    ]


def segments(batch: dict[str, np.ndarray]) -> list[tuple[Any, ...]]:
    """Source, ids and targets of each segment."""
    found = []
    for row in range(len(batch["segment_BL"])):
        for number in range(1, batch["segment_BL"][row].max() + 1):
            source = batch["source_segment_BL"][row] == number
            target = batch["segment_BL"][row] == number
            arrays = (
                ("source_BL", source),
                ("ids_BL", target),
                ("targets_BL", target),
            )
            found.append(tuple(tuple(batch[n][row][part]) for n, part in arrays))
    return found


def test_every_pair_is_complete_in_one_row() -> None:
    given = random_pairs(60)
    rows = sentence_pairs.validation(given, end=END, length=16, batch_size=4)
    found = []
    for step in range(rows.batches):
        batch = rows.batch(step, range(4))
        found += segments(batch)
        filled = batch["segment_BL"] > 0
        np.testing.assert_array_equal(batch["weight_BL"], filled)
        assert not batch["ids_BL"][~filled].any()
    expected = [
        (tuple(p.source), (END, *p.target[:-1]), tuple(p.target)) for p in given
    ]
    assert sorted(found) == sorted(expected)
    assert 4 * rows.batches < 60


def test_only_pairs_longer_than_a_row_are_left_out() -> None:
    given = random_pairs(60)
    packed = [pair for row in sentence_pairs.pack(given, 8) for pair in row]
    fitting = [pair for pair in given if max(map(len, pair)) <= 8]
    assert 0 < len(packed) < 60
    assert sorted(map(id, packed)) == sorted(map(id, fitting))


def test_training_rows_depend_only_on_seed_and_step() -> None:
    given = random_pairs(200)
    one, again, other = (
        sentence_pairs.training(given, end=END, length=16, batch_size=4, seed=seed)
        for seed in (0, 0, 1)
    )
    first = one.batch(3, range(4))
    for name, array in again.batch(3, range(4)).items():
        np.testing.assert_array_equal(first[name], array)
    part = one.batch(3, [2])
    np.testing.assert_array_equal(part["source_BL"][0], first["source_BL"][2])
    assert segments(other.batch(3, range(4))) != segments(first)


def test_only_directions_between_the_two_languages_are_accepted() -> None:
    assert sentence_pairs.sides("en-pt", ("en", "pt")) == ("first", "second")
    assert sentence_pairs.sides("pt-en", ("en", "pt")) == ("second", "first")
    with pytest.raises(ValueError, match="en-pt or pt-en, got 'en-de'"):
        sentence_pairs.sides("en-de", ("en", "pt"))
