"""Text to token ids and back: bytes, characters, and byte-level BPE.

A `Tokenizer` is a value: sizes, a table of each token's bytes, and two pure functions.
The last id of the vocabulary is `end`, which closes a document and encodes no text.
`to_bytes` and `from_bytes` store it in one JSON file with its own hash.
"""

from __future__ import annotations

import codecs
import functools
import importlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from transformer import checks, cpu_tuning, storage
from transformer.data.text import documents

FILE = "tokenizer.json"
VERSION = "3"
TRAINING_CHARACTERS = 200_000_000
# Of the pieces that one thread encodes at once: a call for each sentence would take
# longer than its encoding.
_GROUP_CHARACTERS = 2**16
_THREADS = min(8, os.cpu_count() or 1)


class Tokenizer(NamedTuple):
    """A map between text and ids below `vocab_size`.

    kind: "bytes", "characters" or "bpe".
    end: the token that closes every document.
    bytes_V: UTF-8 bytes of each token, 0 for `end`: those of a text's tokens sum to
        those of the text.
    table: the bytes themselves, for decoding.
    encode_pieces: strings -> one int32 array for each.
    data: the fields that `to_bytes` adds for this kind.
    """

    kind: str
    vocab_size: int
    end: int
    bytes_V: np.ndarray
    table: tuple[bytes, ...]
    encode_pieces: Callable[[Sequence[str]], list[np.ndarray]]
    data: dict[str, Any]

    def encode(self, text: str) -> np.ndarray:
        """The tokens of `text`, int32 [length]."""
        pieces = [piece.text for piece in documents.pieces_of([text])]
        return np.concatenate([np.zeros(0, np.int32), *self.encode_pieces(pieces)])

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of `tokens`; bytes that are not UTF-8 become U+FFFD."""
        return b"".join([self.table[token] for token in tokens]).decode(
            errors="replace"
        )

    def decode_stream(self) -> Callable[..., str]:
        """A decoder of one token at a time that holds back incomplete characters.

        Call it with each token; `final=True` (with or without a token) flushes.
        """
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

        def push(token: int | None = None, *, final: bool = False) -> str:
            piece = b"" if token is None else self.table[token]
            return decoder.decode(piece, final)

        return push

    def to_bytes(self) -> bytes:
        """The content of `tokenizer.json`."""
        body = {"kind": self.kind, "vocab_size": self.vocab_size, **self.data}
        return json.dumps(body | {"hash": _hash(body)}, ensure_ascii=False).encode()

    @property
    def stops(self) -> tuple[int, ...]:
        """The tokens that end a text that is generated: `end`, and others where a
        pretrained model has several."""
        return tuple(self.data.get("ends", (self.end,)))

    @property
    def starts(self) -> tuple[int, ...]:
        """The tokens before a text that is to be continued, where a pretrained model
        wants some (Llama, Gemma); `encode` does not add them."""
        return tuple(self.data.get("starts", ()))

    @property
    def hash(self) -> str:
        """16 hexadecimal digits that change with the encoding."""
        return _hash({"kind": self.kind, "vocab_size": self.vocab_size, **self.data})


def _hash(body: dict[str, Any]) -> str:
    text = json.dumps(body, ensure_ascii=False, sort_keys=True)
    return storage.sha256(text.encode())[:16]


def _make(
    kind: str,
    table: Sequence[bytes],
    encode_pieces: Callable[[Sequence[str]], list[np.ndarray]],
    *,
    sizes: Sequence[int],
    data: dict[str, Any],
) -> Tokenizer:
    """A tokenizer of the given table, with `end` appended."""
    end = len(table)
    return Tokenizer(
        kind=kind,
        vocab_size=end + 1,
        end=end,
        bytes_V=np.array([*sizes, 0], np.int32),
        table=(*table, b""),
        encode_pieces=encode_pieces,
        data=data,
    )


def bytes_() -> Tokenizer:
    """Each UTF-8 byte is a token; `vocab_size` 257."""

    def encode_pieces(pieces: Sequence[str]) -> list[np.ndarray]:
        return [np.frombuffer(p.encode(), np.uint8).astype(np.int32) for p in pieces]

    table = [bytes([value]) for value in range(256)]
    return _make("bytes", table, encode_pieces, sizes=[1] * 256, data={})


def _from_alphabet(alphabet: str) -> Tokenizer:
    """Each character of `alphabet` is a token; all others are their UTF-8 bytes, each
    byte a token, as SentencePiece encodes them with `byte_fallback`."""
    codes = np.array([ord(letter) for letter in alphabet], np.int64)
    lookup = np.full(0x110000, -1, np.int32)
    lookup[codes] = np.arange(len(alphabet))

    def by_bytes(tokens: np.ndarray, piece: str) -> np.ndarray:
        parts, begin = [], 0
        for place in np.flatnonzero(tokens < 0).tolist():
            raw = np.frombuffer(piece[place].encode(), np.uint8).astype(np.int32)
            parts += [tokens[begin:place], len(alphabet) + raw]
            begin = place + 1
        return np.concatenate([*parts, tokens[begin:]])

    def encode_pieces(pieces: Sequence[str]) -> list[np.ndarray]:
        wide = [np.frombuffer(p.encode("utf-32-le"), np.uint32) for p in pieces]
        found = [lookup[points] for points in wide]
        return [
            by_bytes(tokens, piece) if (tokens < 0).any() else tokens
            for tokens, piece in zip(found, pieces, strict=True)
        ]

    table = [letter.encode() for letter in alphabet]
    table += [bytes([value]) for value in range(256)]
    data = {"alphabet": alphabet}
    sizes = [len(entry) for entry in table]
    return _make("characters", table, encode_pieces, sizes=sizes, data=data)


def characters(text: documents.TextDataset) -> Tokenizer:
    """Each character of the train split is a token; others are bytes."""
    seen: set[str] = set()
    for piece in text.pieces("train"):
        seen.update(piece.text)
    return _from_alphabet("".join(sorted(seen)))


def library() -> Any:
    """The `tokenizers` library, with its own threads off.

    They do not survive a fork (the library warns); our own end with each call.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    return importlib.import_module("tokenizers")


@functools.cache
def byte_letters() -> dict[str, int]:
    """The letter of each byte in a byte-level BPE, as in GPT-2.

    Printable Latin-1 maps to itself, the other bytes, in order, to U+0100 and on.
    """
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [value for value in range(256) if value not in plain]
    letters = {chr(value): value for value in plain}
    return letters | {chr(0x100 + place): value for place, value in enumerate(others)}


def _groups(pieces: Sequence[str]) -> list[Sequence[str]]:
    """Consecutive pieces together up to `_GROUP_CHARACTERS`, and at least one."""
    ends = np.cumsum([len(piece) for piece in pieces])
    groups, start = [], 0
    while start < len(pieces):
        before = ends[start - 1] if start else 0
        stop = int(np.searchsorted(ends, before + _GROUP_CHARACTERS, side="right"))
        groups.append(pieces[start : max(stop, start + 1)])
        start = max(stop, start + 1)
    return groups


def _from_model(
    model: dict[str, Any], target_vocab_size: int, threads: int | None = None
) -> Tokenizer:
    """The tokenizer of a `tokenizers` model, given as JSON.

    target_vocab_size: what it was trained for; its text may have given fewer tokens.
    threads: that encode; as many as there are cores, up to 8, if not given, but one
        where they would wait for each other's memory.
    """
    made = library().Tokenizer.from_str(json.dumps(model))
    letters = byte_letters()
    ids = sorted(model["model"]["vocab"].values())
    if ids != list(range(len(ids))):
        raise ValueError("ids that do not count from 0")
    names = sorted(model["model"]["vocab"], key=model["model"]["vocab"].__getitem__)
    table = [bytes(letters[letter] for letter in name) for name in names]

    def encode_group(pieces: Sequence[str]) -> list[np.ndarray]:
        found = made.encode_batch_fast(list(pieces), add_special_tokens=False)
        return [np.array(encoding.ids, np.int32) for encoding in found]

    def encode_pieces(pieces: Sequence[str]) -> list[np.ndarray]:
        if len(pieces) < 2:
            return encode_group(pieces)
        groups = _groups(pieces)
        workers = threads or (1 if cpu_tuning.has_one_arena() else _THREADS)
        if workers == 1:
            return [array for group in groups for array in encode_group(group)]
        with ThreadPoolExecutor(workers) as pool:
            return [
                array for group in pool.map(encode_group, groups) for array in group
            ]

    sizes = [len(entry) for entry in table]
    data = {"model": model, "target_vocab_size": target_vocab_size}
    return _make("bpe", table, encode_pieces, sizes=sizes, data=data)


def _training_pieces(text: documents.TextDataset, limit: int) -> Iterator[str]:
    """The first `limit` characters of the train split; of a mixture, from each part its
    share of them."""
    for part, share in text.parts:
        yield from _training_pieces(part, round(limit * share))
    if text.parts:
        return
    for piece in text.pieces("train"):
        yield piece.text
        limit -= len(piece.text)
        if limit <= 0:
            return


def _train_bpe(library: Any, text: documents.TextDataset, vocab_size: int) -> Tokenizer:
    model = library.Tokenizer(library.models.BPE())
    model.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        show_progress=False,
        initial_alphabet=sorted(byte_letters()),
    )
    model.train_from_iterator(_training_pieces(text, TRAINING_CHARACTERS), trainer)
    return _from_model(json.loads(model.to_str()), vocab_size)


def from_bytes(
    content: bytes, *, name: str = FILE, threads: int | None = None
) -> Tokenizer:
    """The tokenizer of `to_bytes`; ValueError if its content or hash is wrong. threads:
    that encode with a BPE, as in `_from_model`."""
    try:
        body = storage.parse_json(content)
        stored = body.pop("hash")
        kind, vocab_size = body["kind"], body["vocab_size"]
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{name}: expected a tokenizer, got {error!r}") from None
    if stored != _hash(body):
        raise ValueError(
            f"{name}: expected hash {stored}, got {_hash(body)}: it has changed"
        )
    if kind not in ("bytes", "characters", "bpe"):
        raise ValueError(f"{name}: expected bytes, characters or bpe, got {kind!r}")
    try:
        if kind == "bpe":
            trained_for = body.get("target_vocab_size", vocab_size)
            made = _from_model(body["model"], trained_for, threads)
        else:
            made = _from_alphabet(body["alphabet"]) if "alphabet" in body else bytes_()
    except Exception as error:  # The library raises bare exceptions.
        reason = " ".join(str(error).split())
        raise ValueError(f"{name}: expected a {kind} tokenizer, got {reason}") from None
    if made.vocab_size != vocab_size:
        raise ValueError(
            f"{name}: expected vocab_size {vocab_size}, got {made.vocab_size}"
        )
    return made


def bpe(text: documents.TextDataset, *, vocab_size: int) -> Tokenizer:
    """Byte-level BPE trained on the training split (its first 200 M characters).

    vocab_size: all tokens, the 256 bytes and `end` included; there are fewer where the
    text has no more pairs to merge.
    """
    checks.at_least("vocab_size", vocab_size, 257)
    module = library()
    key = storage.short_hash(
        VERSION, module.__version__, text.fingerprint, str(vocab_size)
    )

    def train(folder: Path) -> None:
        (folder / FILE).write_bytes(_train_bpe(module, text, vocab_size).to_bytes())

    made = storage.cached_folder(f"tokenizers/{key}", train) / FILE
    return from_bytes(made.read_bytes(), name=str(made))


def load_or_train(
    folder: Path | None,
    make: Callable[[], Tokenizer],
    *,
    kind: str | None = None,
    vocab_size: int | None = None,
) -> Tokenizer:
    """The tokenizer in `folder`/tokenizer.json; where there is none, `make()`, written
    there. Without a folder, `make()`.

    kind, vocab_size: those of `make`; None where any are accepted. `vocab_size` is
        compared for a BPE only.
    ValueError, naming the file, if it is damaged or is another tokenizer.
    """
    if folder is None:
        return make()
    file = folder / FILE
    if checks.regular_file(file).exists():
        found = from_bytes(file.read_bytes(), name=str(file))
        trained_for = found.data.get("target_vocab_size", vocab_size)
        if kind not in (None, found.kind) or vocab_size not in (None, trained_for):
            size = f" of vocab_size {vocab_size}" if vocab_size else ""
            raise ValueError(
                f"{file}: expected {kind or 'a tokenizer'}{size}, got {found.kind} "
                f"of vocab_size {trained_for or found.vocab_size}"
            )
        return found
    made = make()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        storage.commit(file, made.to_bytes())
    except OSError as error:
        raise ValueError(f"cannot write {file}: {error.strerror or error}") from error
    return made


def for_text(
    kind: str,
    text: documents.TextDataset,
    *,
    vocab_size: int,
    folder: Path | None = None,
) -> Tokenizer:
    """The tokenizer in `folder`, or one of `kind` for `text`: "bpe" of `vocab_size`
    tokens, its "characters", or "bytes". Errors as `load_or_train`.

    Prepared text has its own, which is used. ValueError where that is not the one in
    `folder`, or is of another kind than one that was asked for, with both hashes.
    """
    if text.tokens is not None or any(part.tokens for part, _ in text.parts):
        from transformer.data.text import prepared_tokenizer

        return prepared_tokenizer.read(kind, text, folder)
    make = {
        "bpe": partial(bpe, text, vocab_size=vocab_size),
        "characters": partial(characters, text),
        "bytes": bytes_,
    }[kind]
    size = vocab_size if kind == "bpe" else None
    return load_or_train(folder, make, kind=kind, vocab_size=size)
