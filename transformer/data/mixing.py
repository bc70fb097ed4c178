"""Several supplies of rows as one, in stated shares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from transformer.data.text import packing


def mixture(
    parts: Sequence[tuple[packing.Rows, float]], *, batch_size: int
) -> packing.Rows:
    """Rows of all parts, each in proportion to its weight, as an index function.

    parts: (rows, weight) pairs of one length; weights need not sum to 1. Every part
        goes through its own shuffled epochs at its own pace.
    ValueError for no parts, a weight that is not positive, or unequal lengths.
    """
    import grain

    packing.check(batch_size=batch_size, parts=len(parts))
    supplies, weights = zip(*parts, strict=True)
    if not all(0 < weight < float("inf") for weight in weights):
        raise ValueError(f"expected weights above 0, got {weights}")
    lengths = sorted({rows.length for rows in supplies})
    if len(lengths) != 1:
        raise ValueError(f"expected parts of one length, got lengths {lengths}")

    def labelled(number: int) -> Any:
        return supplies[number].order.map(lambda address: (number, address))

    order = grain.MapDataset.mix(
        [labelled(number) for number in range(len(supplies))], weights=list(weights)
    )

    def read(addresses: Sequence[tuple[int, Any]]) -> packing.Batch:
        part = np.array([number for number, _ in addresses])
        read_parts, places = [], []
        for number in sorted(set(part.tolist())):
            mine = np.flatnonzero(part == number)
            chosen = [addresses[i][1] for i in mine.tolist()]
            read_parts.append(supplies[number].read(chosen))
            places.append(mine)
        back = np.argsort(np.concatenate(places))
        return {
            name: np.concatenate([batch[name] for batch in read_parts])[back]
            for name in read_parts[0]
        }

    return packing.Rows(
        batch=packing.supply(order, read, batch_size=batch_size),
        batch_size=batch_size,
        length=lengths[0],
        tokens=sum(rows.tokens for rows in supplies),
        rows_per_epoch=sum(rows.rows_per_epoch for rows in supplies),
        order=order,
        read=read,
    )
