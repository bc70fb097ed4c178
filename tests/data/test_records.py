"""Batches of records: each example once an epoch, each row independent of others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from transformer.data import records

COUNT, BATCH = 10, 4
ARRAYS = {
    "value": np.arange(COUNT, dtype=np.int32),
    "square": np.arange(COUNT, dtype=np.float32)[:, None] ** 2,
}


def add_noise(row: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    return {**row, "noise": rng.normal(size=2)}


def test_each_epoch_is_a_permutation_of_its_own() -> None:
    made = records.training(ARRAYS, batch_size=BATCH, seed=3)
    assert made.rows_per_epoch == COUNT
    values = [
        value
        for step in range(4 * COUNT // BATCH)
        for value in made.batch(step, range(BATCH))["value"].tolist()
    ]
    epochs = [tuple(values[i : i + COUNT]) for i in range(0, len(values), COUNT)]
    assert all(sorted(epoch) == list(range(COUNT)) for epoch in epochs)
    assert len(set(epochs)) == len(epochs)
    other = records.training(ARRAYS, batch_size=BATCH, seed=4)
    assert other.batch(0, range(BATCH))["value"].tolist() != values[:BATCH]


def test_a_row_does_not_depend_on_the_other_rows_of_its_batch() -> None:
    made = records.training(ARRAYS, batch_size=BATCH, prepare=add_noise)
    whole = made.batch(7, range(BATCH))
    np.testing.assert_array_equal(whole["square"][:, 0], whole["value"] ** 2.0)
    fresh = records.training(ARRAYS, batch_size=BATCH, prepare=add_noise)
    some = fresh.batch(7, [3, 1])
    for name, array in whole.items():
        np.testing.assert_array_equal(some[name], array[[3, 1]])
    assert len(np.unique(whole["noise"])) == 2 * BATCH
    assert whole["weight_B"].tolist() == [1.0] * BATCH
    # The same example is prepared with other noise in another epoch.
    again = [made.batch(step, range(BATCH)) for step in range(5)]
    noises = {
        tuple(noise)
        for batch in again
        for value, noise in zip(batch["value"], batch["noise"].tolist(), strict=True)
        if value == 0
    }
    assert len(noises) == 2


def test_an_ordered_split_has_every_example_once_and_padding_of_weight_0() -> None:
    made = records.evaluation(ARRAYS, batch_size=BATCH, prepare=add_noise)
    assert made.batches == 3
    batches = [made.batch(step, range(BATCH)) for step in range(made.batches)]
    joined = {name: np.concatenate([b[name] for b in batches]) for name in batches[0]}
    assert joined["weight_B"].tolist() == [1.0] * COUNT + [0.0] * 2
    assert joined["value"].tolist() == [*range(COUNT), COUNT - 1, COUNT - 1]
    again = made.batch(1, [2])
    np.testing.assert_array_equal(again["noise"][0], batches[1]["noise"][2])


def test_arrays_that_make_no_batch_are_refused() -> None:
    with pytest.raises(ValueError, match="digits: expected examples for a batch of 11"):
        records.training(ARRAYS, batch_size=11, name="digits")
    with pytest.raises(ValueError, match="batch_size: expected at least 1, got 0"):
        records.evaluation(ARRAYS, batch_size=0)
    uneven = {**ARRAYS, "value": np.arange(3)}
    with pytest.raises(ValueError, match="one length, got {'value': 3, 'square': 10}"):
        records.training(uneven, batch_size=2)
