"""Several training splits as one, in given proportions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from transformer.data import shuffling
from transformer.data.shuffling import Batch, TrainingSplit


def mixture(
    parts: Sequence[tuple[TrainingSplit, float]], *, batch_size: int
) -> TrainingSplit:
    """Rows of all parts, each in proportion to its weight; an address is (index of the
    part, address in the part).

    parts: (split, weight) pairs with rows of one shape; weights need not sum to 1.
        Each part goes through its own shuffled epochs.
    ValueError for no parts, a weight that is not positive, or unequal shapes.
    """
    import grain

    shuffling.require_positive(batch_size=batch_size, parts=len(parts))
    splits, weights = zip(*parts, strict=True)
    if not all(0 < weight < float("inf") for weight in weights):
        raise ValueError(f"expected weights above 0, got {weights}")
    shapes = [_row_shapes(split) for split in splits]
    for other in shapes[1:]:
        if other != shapes[0]:
            raise ValueError(
                f"expected parts of one shape, got {shapes[0]} and {other}"
            )

    def with_number(number: int) -> Any:
        return splits[number].order.map(lambda address: (number, address))

    order = grain.MapDataset.mix(
        [with_number(number) for number in range(len(splits))], weights=list(weights)
    )

    def read(addresses: Sequence[tuple[int, Any]]) -> Batch:
        part = np.array([number for number, _ in addresses])
        batches, places = [], []
        for number in sorted(set(part.tolist())):
            mine = np.flatnonzero(part == number)
            chosen = [addresses[i][1] for i in mine.tolist()]
            batches.append(splits[number].read(chosen))
            places.append(mine)
        back = np.argsort(np.concatenate(places))
        return {
            name: np.concatenate([batch[name] for batch in batches])[back]
            for name in batches[0]
        }

    return shuffling.training_split(
        order,
        read,
        batch_size=batch_size,
        rows_per_epoch=sum(split.rows_per_epoch for split in splits),
    )


def _row_shapes(split: TrainingSplit) -> dict[str, tuple[int, ...]]:
    row = split.read([split.order[0]])
    return {name: array.shape[1:] for name, array in row.items()}
