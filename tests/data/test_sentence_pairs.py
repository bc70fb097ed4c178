"""Sentence pairs in rows: complete, aligned by segment, pure in (seed, step, row)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from transformer.data.records import Records
from transformer.data.text import sentence_pairs, tokenizers

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


def test_pairs_longer_than_a_row_are_counted_and_left_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In both splits, on either side; what is left is the same pairs in the data."""
    sizes = {"train": [(3, 3), (9, 3), (3, 9), (7, 7)] * 8, "validation": [(2, 8)] * 3}
    arrays = {
        split: {
            side: np.array(["x" * pair[n] for pair in pairs], object)
            for n, side in enumerate(sentence_pairs.SIDES)
        }
        for split, pairs in sizes.items()
    }
    data = Records("probe", "0", **arrays, labels=("a", "b"))
    how: Any = {"batch_size": 2, "seed": 0}
    sides, tokenizer = sentence_pairs.SIDES, tokenizers.bytes_()
    kept, (train, held_out) = sentence_pairs.splits(
        data, sides, tokenizer, length=9, **how
    )
    assert capsys.readouterr().out == (
        "probe: 16 of 32 training and 0 of 3 held-out pairs are longer than a row of 9 "
        "tokens on a side, and left out\n"
    )
    assert sorted(set(map(len, kept.train["first"]))) == [3, 7]
    assert len(kept.train["second"]) == 16 and len(kept.validation["first"]) == 3
    batches = [held_out.batch(step, range(2)) for step in range(held_out.batches)]
    assert len([s for batch in batches for s in segments(batch)]) == 3
    whole = sentence_pairs.splits(data, sides, tokenizer, length=10, **how)
    assert capsys.readouterr().out == "" and len(whole[0].train["first"]) == 32
    for length, split in ((3, "train"), (8, "validation")):
        message = f"expected {split} pairs of at most {length} tokens a side, got none"
        with pytest.raises(ValueError, match=message):
            sentence_pairs.splits(data, sides, tokenizer, length=length, **how)


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
