"""Texts that belong to one image each: as rows of tokens, and as words.

Names are short and combine few words, so that what a model can know of one that it has
not read is told by how near the names are that it has: `alone` and `kin`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from transformer.data import cache, records, sources
from transformer.data.images import patches
from transformer.data.text import documents, tokenizers
from transformer.data.text.tokenizers import Tokenizer

Texts = Sequence[str] | np.ndarray


def text(captions: records.Records) -> documents.Text:
    """Every text as a document, for a tokenizer."""

    def pieces(split: str) -> Iterator[documents.Piece]:
        documents.check_split(split)
        for one in getattr(captions, split)["text"]:
            yield from documents.cut([one])

    identity = cache.digest("captions", captions.identity)
    return documents.Text(captions.name, identity, pieces)


def written(tokenizer: Tokenizer, texts: Texts, length: int) -> dict[str, np.ndarray]:
    """A row for each text that is to be written: `ids_BL` between what closes the
    text before it and its last token, `targets_BL` one further, int32, `segment_BL` 1
    where there is text, and `weight_BL` the same in float32.

    ValueError for a text of more than `length` tokens, its end included.
    """
    rows = closed(tokenizer, texts, length)
    ids_BL, segment_BL = rows["ids_BL"], rows["segment_BL"]
    first_B1 = np.full((len(ids_BL), 1), tokenizer.end)
    before_BL = np.concatenate([first_B1, ids_BL[:, :-1]], 1)
    return {
        "ids_BL": (before_BL * segment_BL).astype(np.int32),
        "targets_BL": ids_BL,
        "segment_BL": segment_BL,
        "weight_BL": segment_BL.astype(np.float32),
    }


def closed(tokenizer: Tokenizer, texts: Texts, length: int) -> dict[str, np.ndarray]:
    """A row for each text that is to be read: `ids_BL`, the text and what closes it,
    and `segment_BL`, 1 where there is any; int32, 0 behind. ValueError as `written`."""
    ids_BL = np.zeros((len(texts), length), np.int32)
    segment_BL = np.zeros_like(ids_BL)
    for row, codes in enumerate(tokenizer.encode_pieces(list(texts))):
        size = len(codes) + 1
        if size > length:
            raise ValueError(
                f"{texts[row]!r}: expected at most {length} tokens with its end, "
                f"got {size}"
            )
        ids_BL[row, :size] = [*codes, tokenizer.end]
        segment_BL[row, :size] = 1
    return {"ids_BL": ids_BL, "segment_BL": segment_BL}


class Pictured(NamedTuple):
    """Images with a text each, and how both become tokens.

    size: of a patch. places: patches down and across. features: of a raw patch.
    length: tokens of the longest text, its end included.
    """

    data: records.Records
    symbols: Tokenizer
    size: tuple[int, int]
    places: tuple[int, ...]
    features: int
    length: int

    def raw(self, images: np.ndarray) -> np.ndarray:
        """8-bit images [..., rows, columns, channels] as raw patches [..., L, P]."""
        return patches.of_images(images, self.size)

    def images(self, raw: Any) -> np.ndarray:
        """The 8-bit images nearest to raw patches."""
        return patches.to_images(raw, self.data.train["image"].shape[1:3], self.size)

    def closed(self, texts: Texts) -> dict[str, np.ndarray]:
        """Texts that are read, as `closed`."""
        return closed(self.symbols, texts, self.length)

    def read(self, arrays: records.Arrays) -> dict[str, np.ndarray]:
        """Images of a split, and their texts, which are read."""
        return {"image": arrays["image"], **self.closed(arrays["text"])}

    def written(self, texts: Texts) -> dict[str, np.ndarray]:
        """Texts that are written, as `written`."""
        return written(self.symbols, texts, self.length)


def pictured(
    source: str,
    *,
    tongue: str,
    patch: int,
    vocabulary: int,
    workdir: Path | None,
) -> Pictured:
    """The captions of `source` in the language `tongue`, with a BPE of `vocabulary`
    symbols trained on them and kept in `workdir`, if there is one. ValueError where
    patches of `patch` x `patch` pixels do not fill the images."""
    data = sources.captions(source, language=tongue)
    make = partial(tokenizers.bpe, text(data), vocabulary=vocabulary)
    symbols = tokenizers.kept(workdir, make, kind="bpe", vocabulary=vocabulary)
    rows, columns, channels = data.train["image"].shape[1:]
    coded = [
        len(codes)
        for arrays in (data.train, data.validation)
        for codes in symbols.encode_pieces(list(arrays["text"]))
    ]
    return Pictured(
        data=data,
        symbols=symbols,
        size=(patch, patch),
        places=patches.grid((rows, columns), (patch, patch)),
        features=patch * patch * channels,
        length=1 + max(coded),
    )
