"""Fixed windows of long documents, for objectives that look both ways, numpy.

A row is a passage and not a stream: every window lies within one document, and each
epoch has other windows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from transformer.data import records
from transformer.data.records import Arrays
from transformer.data.shuffling import Batch, EvaluationSplit, TrainingSplit
from transformer.data.text import documents

EVALUATION_ROWS = 64
# (token ids of a window, rng) -> a row of the batch.
PrepareWindow = Callable[[np.ndarray, np.random.Generator], Batch]


class Windows(NamedTuple):
    """The windows of `length` tokens of some documents.

    ids: all documents' tokens, concatenated, int32. rows: for each window its `start`
    in `ids`, the `last` start that a window of its document can have, and the number
    `document`.
    """

    ids: np.ndarray
    rows: Arrays
    length: int

    def at(self, start: int) -> np.ndarray:
        """The tokens of the window that begins at `start`, int32 [length]."""
        return self.ids[start : start + self.length]

    def random_window(
        self, row: dict[str, np.ndarray], rng: np.random.Generator
    ) -> np.ndarray:
        """A window up to `length` - 1 tokens further on, within the document."""
        start = int(row["start"]) + int(rng.integers(self.length))
        return self.at(min(start, int(row["last"])))


def cut_windows(texts: Sequence[np.ndarray], *, length: int) -> Windows:
    """Adjacent windows; the rest at a document's end is dropped. ValueError where no
    document is as long as a window."""
    starts, lasts, numbers, begin = [], [], [], 0
    for number, ids in enumerate(texts):
        here = begin + np.arange(0, len(ids) - length + 1, length)
        starts.append(here)
        lasts.append(np.full(len(here), begin + len(ids) - length))
        numbers.append(np.full(len(here), number))
        begin += len(ids)
    rows = {
        name: np.concatenate([np.zeros(0, int), *parts]).astype(np.int32)
        for name, parts in (("start", starts), ("last", lasts), ("document", numbers))
    }
    if not len(rows["start"]):
        longest = max((len(ids) for ids in texts), default=0)
        raise ValueError(
            f"expected a document of at least {length} tokens, got at most {longest}"
        )
    ids = np.concatenate([np.zeros(0, np.int32), *texts]).astype(np.int32)
    return Windows(ids, rows, length)


def ids_only(ids: np.ndarray, rng: np.random.Generator) -> Batch:
    """The default `prepare`: the array `ids_BL`."""
    return {"ids_BL": ids}


class TextSplits(NamedTuple):
    """Token ids of the documents of both splits, int32 [length] each.

    train: without their tails. validation: complete. tails: the last part of each
    document, first those of training, to probe a model for the document.
    """

    train: list[np.ndarray]
    validation: list[np.ndarray]
    tails: list[np.ndarray]


def split_text(
    text: documents.TextDataset,
    encode: Callable[[str], np.ndarray],
    *,
    tail_fraction: float,
) -> TextSplits:
    """The documents of both splits; the last `tail_fraction` of each is its tail, on
    which nothing is trained."""
    train, validation = (
        [encode(document) for document in documents.full_documents(text, split)]
        for split in documents.SPLITS
    )

    def tail_start(ids: np.ndarray) -> int:
        return round(len(ids) * (1 - tail_fraction))

    tails = [ids[tail_start(ids) :] for ids in (*train, *validation)]
    return TextSplits([ids[: tail_start(ids)] for ids in train], validation, tails)


def window_splits(
    split: TextSplits,
    *,
    length: int,
    batch_size: int,
    seed: int = 0,
    prepare: PrepareWindow = ids_only,
    validation_prepare: PrepareWindow | None = None,
    name: str = "text",
) -> tuple[TrainingSplit, EvaluationSplit]:
    """Training rows, each epoch a `random_window` near each adjacent window, shuffled;
    and all adjacent windows of the validation texts, once and in order.

    prepare makes a row of a window's tokens; validation_prepare: `prepare` if None.
    ValueError where no document is as long as a window, or the windows are fewer than a
    batch.
    """
    train, held_out = (
        cut_windows(texts, length=length) for texts in (split.train, split.validation)
    )
    prepare_held_out = validation_prepare or prepare
    # What `prepare` refuses is refused before training.
    for part, make in ((train, prepare), (held_out, prepare_held_out)):
        make(part.at(int(part.rows["start"][0])), np.random.default_rng(0))
    return (
        records.training(
            train.rows,
            batch_size=batch_size,
            seed=seed,
            prepare=lambda row, rng: prepare(train.random_window(row, rng), rng),
            name=name,
        ),
        records.evaluation(
            held_out.rows,
            batch_size=EVALUATION_ROWS,
            prepare=lambda row, rng: prepare_held_out(
                held_out.at(int(row["start"])), rng
            ),
        ),
    )
