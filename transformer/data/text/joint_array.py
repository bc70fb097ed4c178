"""Several arrays as one, without a copy: the tokens of shards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


class JointArray:
    """Arrays of one dimension, one after the other, read as one: by a slice of step 1,
    or an integer or an array of integers, all from 0.

    sizes: of each. open: the array of a number, called when it is first read.
    """

    def __init__(
        self, sizes: Sequence[int], open: Callable[[int], Any], dtype: np.dtype
    ) -> None:
        self._edges = np.cumsum([0, *sizes])
        self._open = open
        self.dtype = np.dtype(dtype)

    def __len__(self) -> int:
        return int(self._edges[-1])

    def _pick(self, places: np.ndarray) -> np.ndarray:
        number = np.searchsorted(self._edges, places, side="right") - 1
        found = np.empty(places.shape, self.dtype)
        for one in np.unique(number).tolist():
            mine = number == one
            found[mine] = self._open(one)[places[mine] - self._edges[one]]
        return found

    def __getitem__(self, places: Any) -> Any:
        if isinstance(places, slice):
            start, stop, _ = places.indices(len(self))
            return self._pick(np.arange(start, stop))
        return self._pick(np.asarray(places, np.int64))


def join_offsets(parts: Sequence[np.ndarray]) -> np.ndarray:
    """The offsets of documents, int64 [documents + 1], from those of each part, which
    begin with 0 and end with the total."""
    found, total = [np.zeros(1, np.int64)], 0
    for offsets in parts:
        found.append(np.asarray(offsets[1:], np.int64) + total)
        total += int(offsets[-1])
    return np.concatenate(found)
