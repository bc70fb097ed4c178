"""Data sets that fit in memory: aligned arrays in two splits, and batches of them.

Text comes as documents (`text/documents.py`), every other kind of sequence as records:
row n of each array belongs to example n.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from transformer.data import shuffling
from transformer.data.shuffling import EvaluationSplit, TrainingSplit

Arrays = Mapping[str, np.ndarray]
Prepare = Callable[[dict[str, np.ndarray], np.random.Generator], dict[str, np.ndarray]]


class Records(NamedTuple):
    """Examples in two splits, `train` and `validation`.

    name: the source as the user gave it, for messages. fingerprint: a hash of the data.
    train, validation: arrays by name; their first dimension is the example.
    labels: names of the classes that the array `label` counts from 0, if there is one.
    """

    name: str
    fingerprint: str
    train: Arrays
    validation: Arrays
    labels: tuple[str, ...] = ()


class Fields(NamedTuple):
    """A series of maps on a grid of latitudes and longitudes.

    name: the source as the user gave it, for messages. fingerprint: a hash of the data.
    values: float32 [time, variable, latitude, longitude], NaN where missing.
    latitude, longitude: float32, degrees north and east.
    time: datetime64[D], or [s] where steps are shorter than a day; cftime dates of a
    calendar that datetime64 does not have; or integers where the source has no dates.
    variables, units: one word for each variable of `values`.
    train_steps: the number of steps for training; all later steps are validation.
    """

    name: str
    fingerprint: str
    values: np.ndarray
    latitude: np.ndarray
    longitude: np.ndarray
    time: np.ndarray
    variables: tuple[str, ...]
    units: tuple[str, ...]
    train_steps: int


def size(arrays: Arrays) -> int:
    """The number of examples; ValueError unless all arrays have the same."""
    sizes = {name: len(array) for name, array in arrays.items()}
    if len(set(sizes.values())) != 1:
        raise ValueError(f"expected arrays of one length, got {sizes}")
    return next(iter(sizes.values()))


def identity(
    row: dict[str, np.ndarray], rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """The default `prepare`: no change."""
    return row


def training(
    arrays: Arrays,
    *,
    batch_size: int,
    seed: int = 0,
    prepare: Prepare = identity,
    name: str = "records",
) -> TrainingSplit:
    """Each epoch every example once, in another order, with a `weight_B` of 1.

    prepare: from one example, its arrays without the first dimension, to one row of the
        batch (augmented, cropped). Its generator is seeded by (seed, step, row) alone.
    ValueError where the examples are fewer than a batch.
    """
    shuffling.require_positive(batch_size=batch_size)
    count = size(arrays)
    if count < batch_size:
        raise ValueError(
            f"{name}: expected examples for a batch of {batch_size}, got {count}"
        )
    order = shuffling.shuffled_order(count, lambda epoch, row: row, seed=seed)

    def one(element: int, example: int) -> dict[str, Any]:
        rng = np.random.default_rng([shuffling.seed_from("prepare", seed), element])
        row = prepare({key: array[example] for key, array in arrays.items()}, rng)
        return {**row, "weight_B": np.float32(1)}

    return shuffling.training_split(
        order.map_with_index(lambda element, example: (element, int(example))),
        lambda addresses: shuffling.stack([one(*address) for address in addresses]),
        batch_size=batch_size,
        rows_per_epoch=count,
    )


def evaluation(
    arrays: Arrays, *, batch_size: int, prepare: Prepare = identity
) -> EvaluationSplit:
    """Every example once, in order. `weight_B`, float32, is 1 for an example and 0 for
    the repetitions of the last one that fill the last batch. `prepare` as in
    `training`; its generator is seeded by the example."""
    shuffling.require_positive(batch_size=batch_size)
    count = size(arrays)

    def one(number: int) -> dict[str, Any]:
        example = min(number, count - 1)
        rng = np.random.default_rng([shuffling.seed_from("ordered"), example])
        row = prepare({key: array[example] for key, array in arrays.items()}, rng)
        return {**row, "weight_B": np.float32(number < count)}

    def batch(step: int, rows: Sequence[int]) -> shuffling.Batch:
        return shuffling.stack([one(step * batch_size + int(row)) for row in rows])

    return EvaluationSplit(batch, batch_size, -(-count // batch_size))
