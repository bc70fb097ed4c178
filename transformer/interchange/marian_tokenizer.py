"""Tokenizers of Marian: two models of SentencePiece that cut sources and targets, and
one `vocab.json` with the ids of both.

No `tokenizer.json` expresses that: a piece may be one of the target only, and a
language code is one at the start of a text only. So the source's model is read as one
(`sentence_piece.py`), and its pieces are looked up.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from transformer.checks import utf8
from transformer.data.text import tokenizers
from transformer.interchange import (
    sentence_piece,
    tensor_files,
    text_rows,
    tokenizer_conversion,
)
from transformer.interchange.byte_level_bpe import AddedToken

SOURCE, TARGET, VOCAB = "source.spm", "target.spm", "vocab.json"
SETTINGS = tokenizer_conversion.SETTINGS
KINDS = ("", "Marian")
SPECIAL = {"unk": "<unk>", "eos": "</s>", "pad": "<pad>"}


class MarianTokenizer(NamedTuple):
    """library, target_library: of both models, with ids of their own. vocab: the ids
    of pieces. special: those that are no text, by their names in tokenizer_config.json.
    length: tokens of a text, at most."""

    library: Any
    target_library: Any
    vocab: dict[str, int]
    special: dict[str, int]
    length: int

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids of each source, its end included, `length` at most."""
        return self._encode_texts(self.library, texts)

    def encode_targets(self, texts: Sequence[str]) -> list[np.ndarray]:
        """As `encode`, of targets."""
        return self._encode_texts(self.target_library, texts)

    def _encode_texts(self, library: Any, texts: Sequence[str]) -> list[np.ndarray]:
        found = [self._encode(library, utf8("text", text)) for text in texts]
        room, end = self.length - 1, self.special["eos"]
        cut = sum(len(ids) > room for ids in found)
        text_rows.report_cut(cut, of=len(texts), length=self.length)
        return [np.array([*ids[:room], end], np.int32) for ids in found]

    def _encode(self, library: Any, text: str) -> list[int]:
        code, text = _cut_language_code(text)
        pieces = library.encode(text, add_special_tokens=False).tokens
        unknown = self.special["unk"]
        return [self.vocab.get(piece, unknown) for piece in (*code, *pieces)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; special ones are none."""
        special = set(self.special.values())
        texts = {number: piece for piece, number in self.vocab.items()}
        kept = [texts[int(one)] for one in ids if int(one) not in special]
        return "".join(kept).replace(sentence_piece.SPACE, " ").strip()


def _cut_language_code(text: str) -> tuple[list[str], str]:
    """The language of the target, such as >>fra<<, if a text begins with one."""
    end = text.find("<<")
    if not text.startswith(">>") or end < 0:
        return [], text
    return [text[: end + 2]], text[end + 2 :]


def applies(folder: Path) -> bool:
    """Whether a folder's tokenizer is one of Marian."""
    return any((folder / name).is_file() for name in (SOURCE, TARGET))


def read(folder: Path, *, vocab_size: int, length: int) -> MarianTokenizer:
    """The tokenizer of a folder. vocab_size: of the model; length: tokens of a text, if
    no file says fewer. ValueError where a file is missing, and for ids beyond the
    vocabulary, two vocabularies, or a model that falls back to bytes."""
    for name in (SOURCE, TARGET, VOCAB):
        if not (folder / name).is_file():
            raise ValueError(
                f"{folder}: expected {SOURCE}, {TARGET} and {VOCAB} of Marian, got no "
                f"{name}"
            )
    settings: dict[str, Any] = {}
    if (folder / SETTINGS).is_file():
        settings = tensor_files.read_json_file(folder / SETTINGS)
    tokenizer_conversion.read_kind(settings, folder / SETTINGS, KINDS)
    if settings.get("separate_vocabs"):
        raise ValueError(
            f"{folder / SETTINGS}: separate_vocabs: expected false, one vocabulary of "
            "sources and targets, got true"
        )
    vocab = _read_vocab(folder / VOCAB, vocab_size)
    tokens = {name: _content(settings, name) for name in SPECIAL}
    for name, token in tokens.items():
        if token not in vocab:
            raise ValueError(
                f"{folder / VOCAB}: expected {name}_token {token}, got none"
            )
    special = {name: vocab[token] for name, token in tokens.items()}
    limit = settings.get("model_max_length")
    if isinstance(limit, int) and limit > 1:
        length = min(length, limit)
    source, target = (_read_library(folder / name, tokens) for name in (SOURCE, TARGET))
    return MarianTokenizer(source, target, vocab, special, length)


def _content(settings: dict[str, Any], name: str) -> str:
    token = settings.get(f"{name}_token") or SPECIAL[name]
    return str(token.get("content") if isinstance(token, dict) else token)


def _read_vocab(file: Path, vocab_size: int) -> dict[str, int]:
    vocab = tokenizer_conversion.read_vocab(file)
    highest = max(vocab.values())
    # JAX would take the last row of the embedding, in silence.
    if highest >= vocab_size:
        raise ValueError(
            f"{file}: expected ids below {vocab_size}, the vocabulary of the model, "
            f"got {highest}"
        )
    missing = sorted(set(range(vocab_size)).difference(vocab.values()))
    if missing or len(vocab) != vocab_size:
        got = f"{len(vocab)} tokens" if not missing else f"none for {missing[0]}"
        raise ValueError(
            f"{file}: expected one token for each id below {vocab_size}, got {got}"
        )
    return vocab


def _read_library(file: Path, special: dict[str, str]) -> Any:
    """The library's tokenizer of a model, which finds the special tokens in text, as
    transformers does; only their texts are used."""
    model = sentence_piece.parse(tokenizer_conversion.read_bytes(file), str(file))
    if model.byte_fallback:
        raise ValueError(f"{file}: expected a model without bytes, got byte_fallback")
    texts = [piece.text for piece in model.pieces]
    others = [token for token in special.values() if token not in texts]
    added = [AddedToken(len(texts) + i, one, True) for i, one in enumerate(others)]
    text = sentence_piece.build(model, str(file), added=added)
    return tokenizers.library().Tokenizer.from_str(text)
