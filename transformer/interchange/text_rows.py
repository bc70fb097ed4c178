"""Texts as rows of ids for encoders of other libraries, special tokens included.

Encoders mark no end of a text in their configuration (WordPiece), so their tokenizers
are no `data.text.tokenizers.Tokenizer`: `tokenizer.json` says by itself which tokens it
puts around a text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from transformer.checks import utf8
from transformer.data.notices import print_once
from transformer.interchange import tensor_files
from transformer.interchange.tokenizer import FILE, read_library

SENTENCE_CONFIG = "sentence_bert_config.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
TOKEN_FILES = TOKENIZER_CONFIG, "special_tokens_map.json"
BATCH_SIZE = 32
# Rows have a power of two of tokens from here on, so that few programs are compiled.
SHORTEST = 16


class TextRows(NamedTuple):
    """Ids of texts. encode_pieces(texts): the ids of each, at most `length` of them.
    padding: the id after a text."""

    encode_pieces: Callable[[Sequence[str]], list[np.ndarray]]
    length: int
    padding: int


def read_special_tokens(folder: Path, key: str) -> list[str]:
    """What the files of a folder say of a special token, such as `mask_token`."""
    said = [
        tensor_files.read_json_file(folder / name).get(key)
        for name in TOKEN_FILES
        if (folder / name).is_file()
    ]
    said = [one.get("content") if isinstance(one, dict) else one for one in said]
    return [one for one in said if isinstance(one, str)]


def read_text_rows(
    folder: Path, *, length: int, vocab_size: int, padding: int
) -> TextRows:
    """The tokenizer of an encoder's folder, which gets lower case where a folder of
    sentence-transformers says so. length: tokens of a text, if no file says fewer.
    ValueError where it has no tokenizer.json, or ids beyond `vocab_size`."""
    library, _ = read_library(folder)
    lower = False
    if (folder / SENTENCE_CONFIG).is_file():
        settings = tensor_files.read_json_file(folder / SENTENCE_CONFIG)
        lower = settings.get("do_lower_case") is True
    for name, key in (
        (SENTENCE_CONFIG, "max_seq_length"),
        (TOKENIZER_CONFIG, "model_max_length"),
    ):
        if (folder / name).is_file():
            limit = tensor_files.read_json_file(folder / name).get(key)
            if isinstance(limit, int) and limit > 0:
                length = min(length, limit)
    highest = max(library.get_vocab(with_added_tokens=True).values(), default=0)
    # JAX would take the last row of the embedding, in silence.
    if max(highest, padding) >= vocab_size:
        raise ValueError(
            f"{folder / FILE}: expected ids below {vocab_size}, the vocabulary of the "
            f"model, got {max(highest, padding)}"
        )
    library.no_padding()
    try:
        library.enable_truncation(length)
    except Exception as error:  # The library raises bare exceptions.
        raise ValueError(f"{folder / FILE}: {length} tokens: {error}") from None

    def encode(texts: Sequence[str]) -> list[np.ndarray]:
        texts = [utf8("text", text) for text in texts]
        found = library.encode_batch([t.lower() if lower else t for t in texts])
        cut = sum(bool(encoding.overflowing) for encoding in found)
        report_cut(cut, of=len(texts), length=length)
        return [np.array(encoding.ids, np.int32) for encoding in found]

    return TextRows(encode, length, padding)


def report_cut(cut: int, *, of: int, length: int) -> None:
    """Say in one line that some texts are longer than `length` tokens."""
    if cut:
        print_once(
            f"{cut} of {of} texts are longer than {length} tokens, of "
            f"which the first {length} are used"
        )


def batches(
    rows: TextRows, texts: Sequence[str], *, whole: bool = False
) -> Iterator[tuple[list[int], np.ndarray, np.ndarray]]:
    """The numbers of some texts, their ids and segments (B, L), 1 for a token and 0 for
    padding; texts of like length together, padded to the longest. whole: pad to the
    tokenizer's length instead, and count padding as tokens (SigLIP)."""
    encoded = rows.encode_pieces(texts)
    order = sorted(range(len(texts)), key=lambda i: len(encoded[i]))
    for start in range(0, len(order), BATCH_SIZE):
        numbers = order[start : start + BATCH_SIZE]
        longest, length = max(len(encoded[i]) for i in numbers), SHORTEST
        while length < longest:
            length *= 2
        length = rows.length if whole else min(length, rows.length)
        # Further rows are padding alone.
        count = len(numbers) if len(order) < BATCH_SIZE else BATCH_SIZE
        ids_BL = np.full((count, length), rows.padding, np.int32)
        segment_BL = np.full((count, length), int(whole), np.int32)
        for row, number in enumerate(numbers):
            ids_BL[row, : len(encoded[number])] = encoded[number]
            segment_BL[row, : len(encoded[number])] = 1
        yield numbers, ids_BL, segment_BL


def map_batches(
    rows: TextRows,
    texts: Sequence[str],
    apply: Callable[[Any, Any], Any],
    *,
    whole: bool = False,
) -> np.ndarray:
    """apply(ids_BL, segment_BL), a row for each text in their order, float32."""
    if not texts:
        raise ValueError("expected texts, got none")
    results: list[Any] = [None] * len(texts)
    for numbers, ids_BL, segment_BL in batches(rows, texts, whole=whole):
        found = np.asarray(apply(ids_BL, segment_BL), np.float32)
        for row, number in enumerate(numbers):
            results[number] = found[row]
    return np.stack(results)
