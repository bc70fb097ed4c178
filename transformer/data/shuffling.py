"""Shuffled training splits and ordered evaluation splits: pure functions of the step.

`batch(step, rows)` gives any rows of the global batch of any step, so that hosts divide
a batch as they like and nothing but the step is saved.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from transformer import storage
from transformer.checks import at_least

Batch = dict[str, np.ndarray]
BatchFn = Callable[[int, Sequence[int]], Batch]
_CACHED_ROWS = 1024


class TrainingSplit(NamedTuple):
    """An endless shuffled order of rows, each once per epoch.

    batch: (step, rows of the global batch) -> those rows.
    order: grain.MapDataset of row addresses. read: addresses -> rows.
    """

    batch: BatchFn
    batch_size: int
    rows_per_epoch: int
    order: Any
    read: Callable[[Sequence[Any]], Batch]


class EvaluationSplit(NamedTuple):
    """All rows once, in order: `batches` batches, the last one padded with rows of
    weight 0."""

    batch: BatchFn
    batch_size: int
    batches: int


def seed_from(*parts: Any) -> int:
    """A 32-bit seed: a hash of the parts."""
    return int(storage.short_hash(*(repr(part) for part in parts))[:8], 16)


def require_positive(**sizes: int) -> None:
    """ValueError unless every size is at least 1."""
    for name, size in sizes.items():
        at_least(name, size, 1)


def shuffled_order(rows: int, address: Callable[[int, int], Any], *, seed: int) -> Any:
    """An endless grain.MapDataset with another permutation each epoch; its elements are
    `address(epoch, row)`."""
    import grain

    numbers = grain.MapDataset.range(rows).seed(seed_from("order", seed))
    numbers = numbers.shuffle().repeat()

    @functools.lru_cache(maxsize=4)
    def permutation(epoch: int) -> list[Any]:
        return [numbers[epoch * rows + place] for place in range(rows)]

    def from_cache(i: int, _: int) -> Any:
        return address(i // rows, permutation(i // rows)[i % rows])

    if rows <= _CACHED_ROWS:  # grain takes 1 ms an element to permute so few
        return grain.MapDataset.range(rows).repeat().map_with_index(from_cache)
    return numbers.map_with_index(lambda i, row: address(i // rows, int(row)))


def grouped_order(
    rows: int,
    address: Callable[[int, int], Any],
    *,
    groups: int,
    seed: int,
    batch_size: int,
) -> Any:
    """As `shuffled_order`, but each place of a batch takes its rows from one of at most
    `groups` parts of all rows, of adjacent rows: hosts that make other places of the
    batch read other parts of the data.

    The parts are as many as the largest divisor of `batch_size` allows; one part is
    `shuffled_order`. Each part is permuted anew each time that it was gone through.
    """
    import grain

    most = max(1, min(groups, batch_size, rows))
    count = next(n for n in range(most, 0, -1) if batch_size % n == 0)
    if count == 1:
        return shuffled_order(rows, address, seed=seed)
    places = batch_size // count
    edges = [number * rows // count for number in range(count + 1)]

    @functools.cache
    def part(number: int) -> Any:
        first = edges[number]

        def place_in_part(epoch: int, row: int) -> Any:
            return address(epoch, first + row)

        mixed = seed_from("part", seed, number)
        return shuffled_order(edges[number + 1] - first, place_in_part, seed=mixed)

    def element(i: int, _: int) -> Any:
        step, place = divmod(i, batch_size)
        number, within = divmod(place, places)
        return part(number)[step * places + within]

    return grain.MapDataset.range(rows).repeat().map_with_index(element)


def training_split(
    order: Any,
    read: Callable[[Sequence[Any]], Batch],
    *,
    batch_size: int,
    rows_per_epoch: int,
) -> TrainingSplit:
    """Row r of step s is element s * batch_size + r of `order`."""

    def batch(step: int, rows: Sequence[int]) -> Batch:
        return read([order[step * batch_size + int(row)] for row in rows])

    return TrainingSplit(batch, batch_size, rows_per_epoch, order, read)


def no_training(name: str, *, batch_size: int) -> TrainingSplit:
    """The training split of data that are only evaluated: every batch is refused."""

    def batch(step: int, rows: Sequence[int]) -> Batch:
        raise ValueError(f"{name}: expected training rows, got data for evaluation")

    return TrainingSplit(batch, batch_size, 0, None, lambda addresses: batch(0, []))


def stack(rows: Sequence[Mapping[str, Any]]) -> Batch:
    """Examples stacked along a new first dimension."""
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}
