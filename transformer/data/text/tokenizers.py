"""Text to token numbers and back: bytes, characters, and byte-level BPE.

A `Tokenizer` is a value: sizes, a table of the bytes behind each token, and two pure
functions. The last number of the vocabulary is `end`, which closes a document and is
never the code of any text. `to_bytes` and `from_bytes` carry it in one JSON file with
its own hash.
"""

from __future__ import annotations

import codecs
import hashlib
import importlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from transformer.data import cache
from transformer.data.text import documents

FILE = "tokenizer.json"
VERSION = "2"
TRAINING_CHARACTERS = 200_000_000
_GROUP = 4
_THREADS = min(8, os.cpu_count() or 1)


class Tokenizer(NamedTuple):
    """One way to write text as numbers below `vocabulary`.

    kind: "bytes", "characters" or "bpe".
    end: the token that closes every document.
    bytes_V: UTF-8 bytes behind each token, 0 for `end` (and for an unknown character).
    table: the bytes themselves, for decoding.
    encode_pieces: strings -> one int32 array for each.
    data: what `to_bytes` writes.
    """

    kind: str
    vocabulary: int
    end: int
    bytes_V: np.ndarray
    table: tuple[bytes, ...]
    encode_pieces: Callable[[Sequence[str]], list[np.ndarray]]
    data: dict[str, Any]

    def encode(self, text: str) -> np.ndarray:
        """The tokens of `text`, int32 [length]."""
        pieces = [piece.text for piece in documents.cut([text])]
        return np.concatenate([np.zeros(0, np.int32), *self.encode_pieces(pieces)])

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of `tokens`; bytes that are not UTF-8 become U+FFFD."""
        return b"".join([self.table[token] for token in tokens]).decode(
            errors="replace"
        )

    def stream(self) -> Callable[..., str]:
        """A decoder of one token at a time that holds back half a character.

        Call it with each token; `final=True` (with or without a token) flushes.
        """
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

        def push(token: int | None = None, *, final: bool = False) -> str:
            piece = b"" if token is None else self.table[token]
            return decoder.decode(piece, final)

        return push

    def to_bytes(self) -> bytes:
        """The content of `tokenizer.json`."""
        body = {"kind": self.kind, "vocabulary": self.vocabulary, **self.data}
        return json.dumps(body | {"hash": _hash(body)}, ensure_ascii=False).encode()

    @property
    def hash(self) -> str:
        """Sixteen hexadecimal digits that change when the encoding does."""
        return _hash({"kind": self.kind, "vocabulary": self.vocabulary, **self.data})


def _hash(body: dict[str, Any]) -> str:
    text = json.dumps(body, ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _make(
    kind: str,
    table: Sequence[bytes],
    encode_pieces: Callable[[Sequence[str]], list[np.ndarray]],
    *,
    sizes: Sequence[int],
    data: dict[str, Any],
) -> Tokenizer:
    """A tokenizer of the given table, with `end` put behind it."""
    end = len(table)
    return Tokenizer(
        kind=kind,
        vocabulary=end + 1,
        end=end,
        bytes_V=np.array([*sizes, 0], np.int32),
        table=(*table, b""),
        encode_pieces=encode_pieces,
        data=data,
    )


def bytes_() -> Tokenizer:
    """Each UTF-8 byte is a token; vocabulary 257."""

    def encode_pieces(pieces: Sequence[str]) -> list[np.ndarray]:
        return [np.frombuffer(p.encode(), np.uint8).astype(np.int32) for p in pieces]

    table = [bytes([value]) for value in range(256)]
    return _make("bytes", table, encode_pieces, sizes=[1] * 256, data={})


def _of_alphabet(alphabet: str) -> Tokenizer:
    """Each character of `alphabet` is a token, any other becomes the token U+FFFD."""
    codes = np.array([ord(letter) for letter in alphabet], np.int64)
    lookup = np.full(0x110000, len(alphabet), np.int32)
    lookup[codes] = np.arange(len(alphabet))

    def encode_pieces(pieces: Sequence[str]) -> list[np.ndarray]:
        wide = [np.frombuffer(p.encode("utf-32-le"), np.uint32) for p in pieces]
        return [lookup[points] for points in wide]

    table = [*(letter.encode() for letter in alphabet), "\ufffd".encode()]
    sizes = [*(len(letter.encode()) for letter in alphabet), 0]
    data = {"alphabet": alphabet}
    return _make("characters", table, encode_pieces, sizes=sizes, data=data)


def characters(text: documents.Text) -> Tokenizer:
    """Each character of the train split is a token; one more stands for any other."""
    seen: set[str] = set()
    for piece in text.pieces("train"):
        seen.update(piece.text)
    return _of_alphabet("".join(sorted(seen - {"\ufffd"})))


def _library() -> Any:
    """The `tokenizers` library, with its own threads off.

    They would not survive a fork (it warns of that); ours end with each call.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    return importlib.import_module("tokenizers")


def _byte_letters() -> dict[str, int]:
    """The letter by which a byte-level BPE writes each byte, as in GPT-2.

    Printable Latin-1 stands for itself; the other bytes, in order, for U+0100 and on.
    """
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [value for value in range(256) if value not in plain]
    letters = {chr(value): value for value in plain}
    return letters | {chr(0x100 + place): value for place, value in enumerate(others)}


def _of_model(model: dict[str, Any], asked: int) -> Tokenizer:
    """The tokenizer that a `tokenizers` model, given as JSON, describes.

    asked: the vocabulary it was trained for, which its text may not have filled.
    """
    library = _library().Tokenizer.from_str(json.dumps(model))
    letters = _byte_letters()
    names = sorted(model["model"]["vocab"], key=model["model"]["vocab"].__getitem__)
    table = [bytes(letters[letter] for letter in name) for name in names]

    def some(pieces: Sequence[str]) -> list[np.ndarray]:
        found = library.encode_batch_fast(list(pieces), add_special_tokens=False)
        return [np.array(encoding.ids, np.int32) for encoding in found]

    def encode_pieces(pieces: Sequence[str]) -> list[np.ndarray]:
        if len(pieces) < 2:
            return some(pieces)
        starts = range(0, len(pieces), _GROUP)
        groups = [pieces[start : start + _GROUP] for start in starts]
        with ThreadPoolExecutor(_THREADS) as pool:
            return [array for group in pool.map(some, groups) for array in group]

    sizes, data = [len(entry) for entry in table], {"model": model, "asked": asked}
    return _make("bpe", table, encode_pieces, sizes=sizes, data=data)


def _limited(text: documents.Text, limit: int) -> Iterator[str]:
    for piece in text.pieces("train"):
        yield piece.text
        limit -= len(piece.text)
        if limit <= 0:
            return


def _trained(library: Any, text: documents.Text, vocabulary: int) -> Tokenizer:
    model = library.Tokenizer(library.models.BPE())
    model.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocabulary - 1,
        show_progress=False,
        initial_alphabet=sorted(_byte_letters()),
    )
    model.train_from_iterator(_limited(text, TRAINING_CHARACTERS), trainer)
    return _of_model(json.loads(model.to_str()), vocabulary)


def from_bytes(content: bytes, *, name: str = FILE) -> Tokenizer:
    """The tokenizer `to_bytes` wrote; ValueError if the content or hash is wrong."""
    try:
        body = json.loads(content)
        stored = body.pop("hash")
        kind, vocabulary = body["kind"], body["vocabulary"]
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{name}: expected a tokenizer, got {error!r}") from None
    if stored != _hash(body):
        raise ValueError(
            f"{name}: expected hash {stored}, got {_hash(body)}: it changed"
        )
    if kind == "bytes":
        made = bytes_()
    elif kind == "characters":
        made = _of_alphabet(body["alphabet"])
    elif kind == "bpe":
        made = _of_model(body["model"], body.get("asked", vocabulary))
    else:
        raise ValueError(f"{name}: expected bytes, characters or bpe, got {kind!r}")
    if made.vocabulary != vocabulary:
        raise ValueError(
            f"{name}: expected vocabulary {vocabulary}, got {made.vocabulary}"
        )
    return made


def bpe(text: documents.Text, *, vocabulary: int) -> Tokenizer:
    """Byte-level BPE trained on the training split (its first 200 M characters).

    vocabulary: tokens in all, the 256 bytes and `end` among them; fewer come out where
    the text has no more pairs to merge.
    """
    if vocabulary < 257:
        raise ValueError(f"vocabulary: expected at least 257, got {vocabulary}")
    library = _library()
    key = cache.digest(VERSION, library.__version__, text.identity, str(vocabulary))

    def train(folder: Path) -> None:
        (folder / FILE).write_bytes(_trained(library, text, vocabulary).to_bytes())

    made = cache.folder(f"tokenizers/{key}", train) / FILE
    return from_bytes(made.read_bytes(), name=str(made))


def kept(
    folder: Path | None,
    make: Callable[[], Tokenizer],
    *,
    kind: str | None = None,
    vocabulary: int | None = None,
) -> Tokenizer:
    """The tokenizer in `folder`/tokenizer.json; made and written there if need be.
    Without a folder it is made.

    kind, vocabulary: what `make` would be asked for; None where any will do. The
        vocabulary concerns only a BPE, the other kinds having the one they have.
    ValueError naming the file if it is damaged, if its hash is not that of its content,
    or if it is another tokenizer than the one asked for.
    """
    if folder is None:
        return make()
    file = folder / FILE
    if file.is_file():
        found = from_bytes(file.read_bytes(), name=str(file))
        asked = found.data.get("asked", vocabulary)
        if kind not in (None, found.kind) or vocabulary not in (None, asked):
            of = f" of vocabulary {vocabulary}" if vocabulary else ""
            raise ValueError(
                f"{file}: expected {kind or 'a tokenizer'}{of}, got {found.kind} "
                f"of vocabulary {asked or found.vocabulary}"
            )
        return found
    made = make()
    fresh = file.with_suffix(f".{os.getpid()}.building")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        fresh.write_bytes(made.to_bytes())
        fresh.replace(file)
    except OSError as error:
        raise ValueError(f"cannot write {file}: {error.strerror}") from error
    return made
