"""Data sets that fit in memory as aligned arrays, and batches out of them.

Text comes as documents (`documents.py`); every other kind of sequence comes as records:
row n of each array belongs to example n. `batch(step, rows)` is the same pure function
of the step as in `packing.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from transformer.data.text import packing

Arrays = Mapping[str, np.ndarray]
Prepare = Callable[[dict[str, np.ndarray], np.random.Generator], dict[str, np.ndarray]]


class Records(NamedTuple):
    """Examples in two splits, `train` and `validation`.

    name: what the user asked for, for messages. identity: changes when the data does.
    train, validation: name of an array -> array whose first dimension is the example.
    labels: what the whole numbers of the array `label` stand for, if there is one.
    """

    name: str
    identity: str
    train: Arrays
    validation: Arrays
    labels: tuple[str, ...] = ()


def size(arrays: Arrays) -> int:
    """The number of examples; ValueError unless all arrays agree."""
    sizes = {name: len(array) for name, array in arrays.items()}
    if len(set(sizes.values())) != 1:
        raise ValueError(f"expected arrays of one length, got {sizes}")
    return next(iter(sizes.values()))


def unprepared(
    rows: dict[str, np.ndarray], rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """The rows as they are."""
    return rows


class Shuffled(NamedTuple):
    """An endless, shuffled, random-access supply of examples."""

    batch: Callable[[int, Sequence[int]], dict[str, np.ndarray]]
    batch_size: int
    rows_per_epoch: int


def shuffled(
    arrays: Arrays,
    *,
    batch_size: int,
    seed: int = 0,
    prepare: Prepare = unprepared,
    name: str = "records",
) -> Shuffled:
    """Each epoch every example once, in an order of its own.

    prepare: from one example, its arrays without the first dimension, to what the model
        is given (augmented, cropped); its generator is a hash of (seed, step, row), so
        that a batch does not depend on what was asked for before it.
    ValueError where the examples are fewer than a batch.
    """
    packing.check(batch_size=batch_size)
    count = size(arrays)
    if count < batch_size:
        raise ValueError(
            f"{name}: expected examples for a batch of {batch_size}, got {count}"
        )
    order = packing.shuffled(count, lambda epoch, row: row, seed=seed)

    def one(element: int) -> dict[str, np.ndarray]:
        chosen = int(order[element])
        rng = np.random.default_rng([packing.fold("prepare", seed), element])
        return prepare({key: array[chosen] for key, array in arrays.items()}, rng)

    def batch(step: int, rows: Sequence[int]) -> dict[str, np.ndarray]:
        return stacked([one(step * batch_size + int(row)) for row in rows])

    return Shuffled(batch=batch, batch_size=batch_size, rows_per_epoch=count)


def stacked(rows: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Examples one above the other."""
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}


class Ordered(NamedTuple):
    """All examples once, in order: `batches` batches, the last one filled up with
    repetitions of the last example whose `weight_B` is 0."""

    batch: Callable[[int, Sequence[int]], dict[str, np.ndarray]]
    batch_size: int
    batches: int
    rows: int


def ordered(
    arrays: Arrays, *, batch_size: int, prepare: Prepare = unprepared
) -> Ordered:
    """`arrays` for evaluation, with a float32 `weight_B`: 1 for an example, 0 behind
    the last one. `prepare` as in `shuffled`, its generator a hash of the example."""
    packing.check(batch_size=batch_size)
    count = size(arrays)

    def one(number: int) -> dict[str, Any]:
        held = min(number, count - 1)
        rng = np.random.default_rng([packing.fold("ordered"), held])
        row = prepare({key: array[held] for key, array in arrays.items()}, rng)
        return {**row, "weight_B": np.float32(number < count)}

    def batch(step: int, rows: Sequence[int]) -> dict[str, np.ndarray]:
        return stacked([one(step * batch_size + int(row)) for row in rows])

    return Ordered(batch, batch_size, -(-count // batch_size), count)
