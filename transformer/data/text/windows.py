"""Fixed windows of documents, for objectives that look both ways, numpy.

A row is a passage and not a stream: every window lies within one document, and each
epoch has other windows. A document's tail that is shorter than a window is a window of
its own, and is padded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from transformer.data import records
from transformer.data.notices import print_once
from transformer.data.records import Arrays
from transformer.data.shuffling import Batch, EvaluationSplit, TrainingSplit
from transformer.data.text import documents, mixing, packing
from transformer.data.text.tokenizers import Tokenizer

if TYPE_CHECKING:
    from transformer.data.text.joint_array import JointArray

EVALUATION_ROWS = 64
# (token ids of a window, rng) -> a row of the batch; the ids of a tail are fewer.
PrepareWindow = Callable[[np.ndarray, np.random.Generator], Batch]


class TokenizedDocuments(NamedTuple):
    """Documents as tokens: document n is ids[starts[n] : stops[n]].

    ids: of all documents, an array, memory-mapped, or shards as one.
    starts, stops: int64 [documents].
    """

    ids: np.ndarray | JointArray
    starts: np.ndarray
    stops: np.ndarray

    def arrays(self) -> Iterator[np.ndarray]:
        """The tokens of each document, int32."""
        for start, stop in zip(self.starts.tolist(), self.stops.tolist(), strict=True):
            yield np.asarray(self.ids[start:stop], np.int32)


def from_arrays(texts: Sequence[np.ndarray]) -> TokenizedDocuments:
    """The documents with the token ids `texts`."""
    edges = np.cumsum([0, *map(len, texts)])
    ids = np.concatenate([np.zeros(0, np.int32), *texts]).astype(np.int32)
    return TokenizedDocuments(ids, edges[:-1], edges[1:])


class Windows(NamedTuple):
    """The windows of at most `length` tokens of some documents.

    ids: of `TokenizedDocuments`. rows: for each window its `start` in `ids`, its
    `size`, and the `last` start that a window of its size and document can have.
    """

    ids: np.ndarray | JointArray
    rows: Arrays
    length: int

    def row(self, row: dict[str, np.ndarray]) -> np.ndarray:
        """The tokens of one of `rows`, int32 [size]."""
        start = int(row["start"])
        return np.asarray(self.ids[start : start + int(row["size"])], np.int32)

    def window(self, number: int) -> np.ndarray:
        """The tokens of window `number`, int32 [size]."""
        return self.row({name: array[number] for name, array in self.rows.items()})

    def random_window(
        self, row: dict[str, np.ndarray], rng: np.random.Generator
    ) -> np.ndarray:
        """A window up to `length` - 1 tokens further on, within the document."""
        start = int(row["start"]) + int(rng.integers(self.length))
        return self.row({**row, "start": np.minimum(start, row["last"])})


def cut_windows(texts: TokenizedDocuments, *, length: int) -> Windows:
    """Adjacent windows; the last one of a document may be shorter. Every token is in
    exactly one."""
    sizes = texts.stops - texts.starts
    counts = -(-sizes // length)
    document = np.repeat(np.arange(len(sizes)), counts)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    start = texts.starts[document] + within * length
    size = np.minimum(texts.stops[document] - start, length)
    last = texts.stops[document] - size
    rows = {"start": start, "size": size.astype(np.int32), "last": last}
    return Windows(texts.ids, rows, length)


def training_windows(texts: TokenizedDocuments, *, length: int) -> Windows:
    """`cut_windows` without the tails of documents longer than a window, which a
    `random_window` reaches; the shorter documents are there, to be padded."""
    cut = cut_windows(texts, length=length)
    size, start = cut.rows["size"], cut.rows["start"]
    is_first = np.isin(start, texts.starts)
    keep = (size == length) | is_first
    return cut._replace(rows={name: array[keep] for name, array in cut.rows.items()})


def full_windows(
    texts: TokenizedDocuments, *, length: int, name: str, moving: bool = False
) -> Windows:
    """`cut_windows` without those that are shorter, whose tokens are counted in a
    printed line. name: of the documents, in that line. moving: only the tokens of
    shorter documents are counted, since each `random_window` reaches the others.
    ValueError where none is left.
    """
    cut = cut_windows(texts, length=length)
    size = cut.rows["size"]
    total = int(size.sum())
    if not (size == length).any():
        longest = int((texts.stops - texts.starts).max(initial=0))
        raise ValueError(
            f"{name}: expected a document of at least {length} tokens, "
            f"got at most {longest}"
        )
    is_lost = (size < length) & (
        np.isin(cut.rows["start"], texts.starts) | (not moving)
    )
    lost = int(size[is_lost].sum())
    if lost:
        print_once(
            f"{name}: {lost} of {total} tokens are left out, in ends of documents that "
            f"fill no row of {length}"
        )
    keep = size == length
    return cut._replace(rows={key: array[keep] for key, array in cut.rows.items()})


def pad(values: np.ndarray, length: int) -> np.ndarray:
    """`values` [length], zeros at the end."""
    return np.pad(values, (0, length - len(values)))


def ids_only(ids: np.ndarray, rng: np.random.Generator, *, length: int) -> Batch:
    """The default `prepare`: `ids_BL`, padded, and `segment_BL`, 1 for a token and 0
    for padding, int32."""
    segment = pad(np.ones(len(ids), np.int32), length)
    return {"ids_BL": pad(ids, length), "segment_BL": segment}


class TextSplits(NamedTuple):
    """The documents of both splits as tokens.

    train: without their tails. validation: complete. train_tails, validation_tails: the
    last part of each document, to probe a model for the document. train_parts: of a
    mixture, the training documents of each part and its share of the rows.
    fingerprint: of the text.
    """

    train: TokenizedDocuments
    validation: TokenizedDocuments
    train_tails: TokenizedDocuments
    validation_tails: TokenizedDocuments
    train_parts: Sequence[tuple[TokenizedDocuments, float]] = ()
    fingerprint: str = ""


def _tokenize(
    text: documents.TextDataset, tokenizer: Tokenizer, split: str
) -> TokenizedDocuments:
    """The documents of a split, from the cache or encoded now, without `end`."""
    found = packing.tokenize_split(text, tokenizer, split=split)
    offsets = found.offsets
    return TokenizedDocuments(found.tokens, offsets[:-1], offsets[1:] - 1)


def _divide(
    texts: TokenizedDocuments, tail_fraction: float
) -> tuple[TokenizedDocuments, TokenizedDocuments]:
    """The documents without their tails, and the tails."""
    sizes = texts.stops - texts.starts
    middle = texts.starts + np.rint(sizes * (1 - tail_fraction)).astype(np.int64)
    return texts._replace(stops=middle), texts._replace(starts=middle)


def split_text(
    text: documents.TextDataset, tokenizer: Tokenizer, *, tail_fraction: float
) -> TextSplits:
    """The documents of both splits; the last `tail_fraction` of each is its tail, on
    which nothing is trained."""
    train, validation = (
        _tokenize(text, tokenizer, split) for split in documents.SPLITS
    )
    body, tails = _divide(train, tail_fraction)
    parts = [
        (_divide(_tokenize(part, tokenizer, "train"), tail_fraction)[0], share)
        for part, share in text.parts
    ]
    return TextSplits(
        body,
        validation,
        tails,
        _divide(validation, tail_fraction)[1],
        parts,
        text.fingerprint,
    )


def training(
    train: Windows,
    *,
    batch_size: int,
    seed: int,
    prepare: PrepareWindow,
    name: str,
) -> TrainingSplit:
    """Shuffled rows, each epoch a `random_window` near each of the windows. ValueError
    where they are fewer than a batch."""
    return records.training(
        train.rows,
        batch_size=batch_size,
        seed=seed,
        prepare=lambda row, rng: prepare(train.random_window(row, rng), rng),
        name=name,
    )


def mixed_training(
    split: TextSplits,
    cut: Callable[[TokenizedDocuments], Windows],
    *,
    batch_size: int,
    **options: Any,
) -> TrainingSplit:
    """The `training` rows of the windows that `cut` makes, or the mixture of those of
    all parts. options: of `training`."""
    if not split.train_parts:
        return training(cut(split.train), batch_size=batch_size, **options)
    parts = [
        (training(cut(texts), batch_size=1, **options), share)
        for texts, share in split.train_parts
    ]
    return mixing.mixture(parts, batch_size=batch_size)


def window_splits(
    split: TextSplits,
    *,
    length: int,
    batch_size: int,
    seed: int = 0,
    prepare: PrepareWindow | None = None,
    validation_prepare: PrepareWindow | None = None,
    name: str = "text",
) -> tuple[TrainingSplit, EvaluationSplit]:
    """The `mixed_training` rows; and all adjacent windows of the validation documents,
    once and in order.

    prepare makes a row of a window's tokens, `ids_only` if None; validation_prepare:
    `prepare` if None. ValueError where the windows are fewer than a batch.
    """
    prepare = prepare or partial(ids_only, length=length)
    train = mixed_training(
        split,
        partial(training_windows, length=length),
        batch_size=batch_size,
        seed=seed,
        prepare=prepare,
        name=name,
    )
    held_out = cut_windows(split.validation, length=length)
    prepare_held_out = validation_prepare or prepare
    return train, records.evaluation(
        held_out.rows,
        batch_size=EVALUATION_ROWS,
        prepare=lambda row, rng: prepare_held_out(held_out.row(row), rng),
    )
