"""Token rows for training and validation: a pure function of the step.

A row covers L + 1 consecutive tokens of the concatenated documents; token t predicts
token t + 1. Segments number the documents within the row from 1 (0 is padding) and
positions restart with each, so that a model that masks by segment sees each document
alone. A target has weight 1 where it belongs to the same document as its token.

Training rows are shuffled; each epoch has another offset of the windows and another
order. The tokens of a split are encoded once per machine, into a memory-mapped file of
the cache: it is written in pieces and may be larger than memory.
"""

from __future__ import annotations

import array
import functools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from transformer import storage
from transformer.data import shuffling
from transformer.data.shuffling import Batch, EvaluationSplit, TrainingSplit
from transformer.data.text import documents, tokenizers

if TYPE_CHECKING:
    from transformer.data.text.joint_array import JointArray

VERSION = "1"
BATCH_CHARACTERS = 1 << 21


class TokenizedSplit(NamedTuple):
    """The token ids of a split.

    tokens: uint16 or uint32 [tokens], memory-mapped; every document ends in `end`.
    read_offsets: reads `offsets`. key: changes with the tokens.
    groups: training rows are shuffled within so many parts of the tokens, or fewer.
    """

    tokens: np.ndarray | JointArray
    read_offsets: Callable[[], np.ndarray]
    end: int
    name: str
    key: str
    groups: int = 1

    @property
    def offsets(self) -> np.ndarray:
        """int64 [documents + 1], the first token of each document, and the total."""
        return self.read_offsets()


def _batches(pieces: Iterator[documents.Piece]) -> Iterator[list[documents.Piece]]:
    batch, size = [], 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece.text)
        if size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _print_rate(
    name: str, batches: Iterator[list[documents.Piece]], *, seconds: float = 15.0
) -> Iterator[list[documents.Piece]]:
    """The batches; every `seconds` a line says how much of them is encoded, as a large
    text takes long, once."""
    start = last = time.monotonic()
    total = 0
    for batch in batches:
        yield batch
        total += sum(len(piece.text) for piece in batch)
        now = time.monotonic()
        if now - last >= seconds:
            last, rate = now, total / (now - start)
            print(
                f"{name}: {total / 1e6:.0f} M characters encoded, "
                f"{rate / 1e6:.1f} M a second",
                flush=True,
            )


def _write_tokens(
    folder: Path,
    text: documents.TextDataset,
    tokenizer: tokenizers.Tokenizer,
    split: str,
) -> None:
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)
    offsets, total = array.array("q", [0]), 0
    batches = _print_rate(f"{text.name} ({split})", _batches(text.pieces(split)))
    with open(folder / "tokens.bin", "wb") as file:
        for batch in batches:
            encoded = tokenizer.encode_pieces([piece.text for piece in batch])
            for piece, ids in zip(batch, encoded, strict=True):
                end = [tokenizer.end] if piece.last else []
                file.write(np.append(ids, end).astype(dtype).tobytes())
                total += len(ids) + len(end)
                offsets.extend([total] if piece.last else [])
    np.save(folder / "offsets.npy", np.array(offsets, np.int64))
    facts = {"dtype": dtype.name, "tokens": total, "text": text.name, "split": split}
    (folder / "facts.json").write_text(json.dumps(facts))


def _join(name: str, parts: Sequence[TokenizedSplit]) -> TokenizedSplit:
    """The documents of several splits, one after the other."""
    from transformer.data.text import joint_array

    tokens = [part.tokens for part in parts]

    def offsets() -> np.ndarray:
        return joint_array.join_offsets([part.offsets for part in parts])

    sizes = [len(one) for one in tokens]
    joint = joint_array.JointArray(sizes, tokens.__getitem__, tokens[0].dtype)
    key = storage.short_hash(*(part.key for part in parts))
    return TokenizedSplit(joint, offsets, parts[0].end, name, key)


def tokenize_split(
    text: documents.TextDataset, tokenizer: tokenizers.Tokenizer, *, split: str
) -> TokenizedSplit:
    """The `TokenizedSplit` of `split`, from the cache or encoded now; that of prepared
    text, and of a mixture with such, is in its shards. ValueError where these are of
    another tokenizer."""
    documents.check_split(split)
    if text.tokens is not None:
        from transformer.data.text import prepared_tokenizer  # As of mixing, below.

        prepared_tokenizer.require_hash(text.name, text.tokens.hash, tokenizer)
        return text.tokens.split(split)
    if any(part.tokens is not None for part, _ in text.parts):
        parts = [tokenize_split(p, tokenizer, split=split) for p, _ in text.parts]
        return _join(f"{text.name} ({split})", parts)
    key = storage.short_hash(VERSION, text.fingerprint, tokenizer.hash, split)
    folder = storage.cached_folder(
        f"tokens/{key}", lambda empty: _write_tokens(empty, text, tokenizer, split)
    )
    facts = json.loads((folder / "facts.json").read_text())
    if not facts["tokens"]:
        raise ValueError(f"{text.name}: expected text in split {split}, got none")
    return TokenizedSplit(
        tokens=np.memmap(folder / "tokens.bin", facts["dtype"], "r"),
        read_offsets=functools.partial(np.load, folder / "offsets.npy"),
        end=tokenizer.end,
        name=f"{text.name} ({split})",
        key=key,
    )


def shift_targets(
    window: np.ndarray, *, end: int, sizes: np.ndarray | None = None
) -> Batch:
    """The batch of windows of L + 1 tokens.

    window: [B, L + 1]; sizes: [B], the number of real tokens at each start (all).
    """
    window = window.astype(np.int32)
    place = np.arange(window.shape[1], dtype=np.int32)
    starts = np.zeros(window.shape, bool)
    starts[:, 1:] = window[:, :-1] == end
    segment = 1 + np.cumsum(starts, axis=1, dtype=np.int32)
    position = place - np.maximum.accumulate(np.where(starts, place, 0), axis=1)
    if sizes is not None:
        real = place < sizes[:, None]
        window, segment, position = window * real, segment * real, position * real
    same = (segment[:, 1:] == segment[:, :-1]) & (segment[:, 1:] > 0)
    return {
        "ids_BL": window[:, :-1],
        "targets_BL": window[:, 1:] * same,
        "segment_BL": segment[:, :-1],
        "position_BL": position[:, :-1],
        "weight_BL": same.astype(np.float32),
    }


def require_rows(name: str, rows: int, *, batch_size: int, length: int) -> None:
    """ValueError unless there are rows for a batch."""
    if rows < batch_size:
        raise ValueError(
            f"{name}: expected text for a batch of {batch_size} rows of {length} "
            f"tokens, got {rows} rows"
        )


def require_text_targets(
    text: documents.TextDataset, tokenizer: tokenizers.Tokenizer
) -> None:
    """ValueError where no target of the validation split, or of that of a part of a
    mixture, has bytes, so that it has no bits per byte: documents of one token, each
    followed by `end` alone."""
    for part, _ in text.parts:
        require_text_targets(part, tokenizer)
    split = tokenize_split(text, tokenizer, split="validation")
    if np.diff(split.offsets).max() < 3:
        raise ValueError(
            f"{split.name}: expected a document of 2 tokens or more, to have bits "
            "per byte, got documents of 1"
        )


def training(
    text: documents.TextDataset,
    tokenizer: tokenizers.Tokenizer,
    *,
    length: int,
    batch_size: int,
    seed: int = 0,
) -> TrainingSplit:
    """Rows of `length` tokens of the train split; an address is a row's first token.
    Of a mixture, the rows of its parts, in proportion to their shares.

    The windows of epoch e start at an offset below `length`, a hash of (seed, e).
    ValueError where the text is shorter than a row or its rows fewer than a batch.
    """
    shuffling.require_positive(length=length, batch_size=batch_size)
    if text.evaluation_only:
        return shuffling.no_training(text.name, batch_size=batch_size)
    if text.parts:
        from transformer.data.text import mixing  # The default run has no use for it.

        rows_of = functools.partial(
            training, tokenizer=tokenizer, length=length, batch_size=1, seed=seed
        )
        parts = [(rows_of(part), share) for part, share in text.parts]
        return mixing.mixture(parts, batch_size=batch_size)
    split = tokenize_split(text, tokenizer, split="train")
    total = len(split.tokens)
    if total < length + 1:
        raise ValueError(
            f"{split.name}: expected more tokens than the sequence length {length}, "
            f"got {total}"
        )
    rows = max(1, (total - length) // length)
    offsets = min(length, total - rows * length)
    require_rows(split.name, rows, batch_size=batch_size, length=length)

    @functools.lru_cache(maxsize=4)
    def offset(epoch: int) -> int:
        return shuffling.seed_from("offset", seed, epoch) % offsets

    def address(epoch: int, row: int) -> int:
        return offset(epoch) + row * length

    def read(starts: Sequence[int]) -> Batch:
        place = np.asarray(starts, np.int64).reshape(-1, 1) + np.arange(length + 1)
        return shift_targets(split.tokens[place], end=split.end)

    groups = {"groups": split.groups, "batch_size": batch_size}
    order = shuffling.grouped_order(rows, address, seed=seed, **groups)
    return shuffling.training_split(
        order, read, batch_size=batch_size, rows_per_epoch=rows
    )


def part_validations(
    text: documents.TextDataset, tokenizer: tokenizers.Tokenizer, **rows: int
) -> dict[str, EvaluationSplit]:
    """Of a mixture, the `validation` rows of each part by `validation/name`: of a path,
    its last piece, where that is unique. rows: of `validation`."""
    short = {part.name: Path(part.name).name for part, _ in text.parts}
    if len(set(short.values())) < len(short):
        short = {name: name for name in short}
    return {
        f"validation/{short[part.name]}": validation(part, tokenizer, **rows)
        for part, _ in text.parts
    }


def validation(
    text: documents.TextDataset,
    tokenizer: tokenizers.Tokenizer,
    *,
    length: int,
    batch_size: int,
    overlap: int = 0,
) -> EvaluationSplit:
    """The validation split in fixed rows, in order, every target once.

    overlap: tokens at a row's start that only give context, having been targets of the
        row before (a score with longer context, length / (length - overlap) the cost).
    """
    shuffling.require_positive(length=length, batch_size=batch_size)
    if not 0 <= overlap < length:
        raise ValueError(f"overlap: expected 0 to {length - 1}, got {overlap}")
    split = tokenize_split(text, tokenizer, split="validation")
    total, stride = len(split.tokens), length - overlap
    count = 1 + max(0, -(-(total - 1 - length) // stride))
    place = np.arange(length + 1)

    def batch(step: int, rows: Sequence[int]) -> Batch:
        numbers = step * batch_size + np.asarray(rows, np.int64)
        starts = np.where(numbers < count, numbers * stride, total)
        window = split.tokens[np.minimum(starts[:, None] + place, total - 1)]
        made = shift_targets(window, end=split.end, sizes=total - starts)
        counted = (place[:-1] >= overlap) | (numbers[:, None] == 0)
        made["weight_BL"] *= counted
        made["targets_BL"] *= counted
        return made

    return EvaluationSplit(batch, batch_size, -(-count // batch_size))
