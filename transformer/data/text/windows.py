"""Windows of long documents that a model sees whole, numpy.

For objectives that look both ways, where a row is a passage and not a stream: every
window lies within one document, and each epoch has other windows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from transformer.data.records import Arrays
from transformer.data.text import documents


class Windows(NamedTuple):
    """The windows of `length` tokens of some documents.

    ids: all documents' tokens, one behind the other, int32. rows: for each window its
    place `start` in `ids`, the last place `last` at which a window of its document can
    start, and the number `document`.
    """

    ids: np.ndarray
    rows: Arrays
    length: int

    def at(self, start: int) -> np.ndarray:
        """The tokens of the window that starts there, int32 [length]."""
        return self.ids[start : start + self.length]

    def shifted(
        self, row: dict[str, np.ndarray], rng: np.random.Generator
    ) -> np.ndarray:
        """A window of up to `length` - 1 tokens further on, within the document."""
        start = int(row["start"]) + int(rng.integers(self.length))
        return self.at(min(start, int(row["last"])))


def cut(texts: Sequence[np.ndarray], *, length: int) -> Windows:
    """Windows one beside the other, what is left at a document's end dropped.
    ValueError where no document is as long as a window."""
    starts, lasts, numbers, begin = [], [], [], 0
    for number, ids in enumerate(texts):
        here = begin + np.arange(0, len(ids) - length + 1, length)
        starts.append(here)
        lasts.append(np.full(len(here), begin + len(ids) - length))
        numbers.append(np.full(len(here), number))
        begin += len(ids)
    rows = {"start": starts, "last": lasts, "document": numbers}
    joined = {
        name: np.concatenate([np.zeros(0, int), *parts]).astype(np.int32)
        for name, parts in rows.items()
    }
    if not len(joined["start"]):
        longest = max((len(ids) for ids in texts), default=0)
        raise ValueError(
            f"expected a document of at least {length} tokens, got at most {longest}"
        )
    ids = np.concatenate([np.zeros(0, np.int32), *texts]).astype(np.int32)
    return Windows(ids, joined, length)


class Parts(NamedTuple):
    """Tokens of documents: what is trained on, what is held out, and the end of each
    document of either, first those of training, by which it may be told apart."""

    train: list[np.ndarray]
    held_out: list[np.ndarray]
    ends: list[np.ndarray]


def parted(
    text: documents.Text, encode: Callable[[str], np.ndarray], *, kept: float
) -> Parts:
    """The documents of both splits. The last share `kept` of each is an end, on which
    nothing is trained."""
    train, held_out = (
        [encode(document) for document in documents.whole(text, part)]
        for part in documents.SPLITS
    )

    def cut_at(ids: np.ndarray) -> int:
        return round(len(ids) * (1 - kept))

    ends = [ids[cut_at(ids) :] for ids in (*train, *held_out)]
    return Parts([ids[: cut_at(ids)] for ids in train], held_out, ends)
