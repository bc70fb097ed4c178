"""Tokenizers of other libraries: `tokenizer.json`, used by the `tokenizers` library.

Special tokens are encoded from text only where they are asked for, and are no text when
decoded. `bytes_V` holds the UTF-8 bytes of each token, by the file's own decoder, so
that bits per byte are counted as for our tokenizers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from transformer import storage
from transformer.data.text import tokenizers
from transformer.data.text.tokenizers import Tokenizer
from transformer.interchange import (
    byte_level_bpe,
    generation_settings,
    gguf_folder,
    tensor_files,
    tokenizer_conversion,
)

KIND = "pretrained"
FILE = tokenizers.FILE
# Where a folder says which tokens end a text, the first that does.
END_FILES = generation_settings.FILE, generation_settings.OLD_FILE


def read_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a folder of Hugging Face. ValueError where it has no
    tokenizer.json, says no end of a text, or has a decoder that is not known here."""
    folder = gguf_folder.resolve(folder)
    library, text = read_library(folder)
    ends, where = end_tokens(folder, library), str(folder / FILE)
    try:
        content = storage.parse_json(text)
    except ValueError as error:
        raise ValueError(f"{where}: expected a tokenizer, got {error}") from None
    return make(library, content, text, ends, where=where)


def read_library(folder: Path) -> tuple[Any, str]:
    """The library's tokenizer of a folder, and the text of its file, which is made from
    older files where there is none. ValueError where there are none of these, or
    another kind of file."""
    file = folder / FILE
    try:
        text = tokenizer_conversion.read(folder)
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: expected a tokenizer, got {error}") from None
    if text is None:
        raise ValueError(
            f"{folder}: expected {FILE}, got none; transformers writes it: "
            "AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
        )
    try:
        library = tokenizers.library().Tokenizer.from_str(text)
    except Exception as error:  # The library raises bare exceptions.
        cause = " ".join(str(error).split())
        raise ValueError(f"{file}: expected a tokenizer, got {cause}") from None
    return library, text


def configured_ends(folder: Path) -> tuple[int, ...]:
    """The tokens that end a text, the main one first, by the first of `END_FILES` that
    says some; none where there is none. Errors as `ends_of`, for each of the files."""
    files = [folder / name for name in END_FILES if (folder / name).is_file()]
    found = [ends_of(tensor_files.read_json_file(f), where=str(f)) for f in files]
    return next((ends for ends in found if ends), ())


def ends_of(config: Mapping[str, Any], *, where: str) -> tuple[int, ...]:
    """The tokens that end a text by one configuration, of the file `where`; none where
    it says none. ValueError for an id that is no whole number."""
    found = config.get("eos_token_id")
    ends: Any = found if isinstance(found, list) else [found]
    if found is None:
        return ()
    if not all(type(one) is int for one in ends):
        raise ValueError(
            f"{where}: eos_token_id: expected a whole number or a list of them, got "
            f"{str(found)[:60]!r}"
        )
    return tuple(ends)


def end_tokens(folder: Path, library: Any) -> tuple[int, ...]:
    """`configured_ends`, or that of tokenizer_config.json. ValueError where no file
    says one."""
    ends = configured_ends(folder)
    if ends:
        return ends
    name = "tokenizer_config.json"
    if (folder / name).is_file():
        token = tensor_files.read_json_file(folder / name).get("eos_token")
        token = token.get("content") if isinstance(token, dict) else token
        found = library.token_to_id(token) if isinstance(token, str) else None
        if found is not None:
            return (found,)
    raise ValueError(
        f"{folder}: expected eos_token_id in {' or '.join(END_FILES)}, got none"
    )


def make(
    library: Any,
    content: Mapping[str, Any],
    text: str,
    ends: tuple[int, ...],
    *,
    where: str,
) -> Tokenizer:
    """A `Tokenizer` of the library's tokenizer, whose file has `content`, parsed, and
    `text`."""
    size = 1 + max(library.get_vocab(with_added_tokens=True).values())
    special = {t["id"] for t in content.get("added_tokens", []) if t.get("special")}
    added = {t["id"]: t["content"] for t in content.get("added_tokens", [])}
    to_bytes = decoder_bytes(content, where)
    table = []
    for token in range(size):
        piece = library.id_to_token(token)
        if piece is None or token in special:
            table.append(b"")
        else:
            table.append(added[token].encode() if token in added else to_bytes(piece))
    if not all(0 <= end < size for end in ends):
        raise ValueError(f"{where}: expected ends below {size}, got {list(ends)}")

    def encode_pieces(pieces: Sequence[str]) -> list[np.ndarray]:
        found = library.encode_batch_fast(list(pieces), add_special_tokens=False)
        return [np.array(encoding.ids, np.int32) for encoding in found]

    # The special tokens that the file's template puts before a text.
    starts, _ = byte_level_bpe.template_tokens(library)
    return Tokenizer(
        kind=KIND,
        vocab_size=size,
        end=ends[0],
        bytes_V=np.array([len(entry) for entry in table], np.int32),
        table=tuple(table),
        encode_pieces=encode_pieces,
        data={"text": text, "ends": list(ends), "starts": starts},
    )


def _byte_level(piece: str) -> bytes:
    letters = tokenizers.byte_letters()
    return bytes(letters[letter] for letter in piece)


def _sentence_piece(piece: str) -> bytes:
    if re.fullmatch(r"<0x[0-9A-F]{2}>", piece):
        return bytes([int(piece[3:5], 16)])
    return piece.replace("\u2581", " ").encode()


def decoder_bytes(content: Mapping[str, Any], where: str) -> Callable[[str], bytes]:
    """The function from a token's text to its bytes, by the file's decoder. ValueError
    for a decoder that is not known here."""
    decoder = content.get("decoder") or {}
    inner = decoder.get("decoders", [decoder]) if isinstance(decoder, dict) else []
    kinds = {str(one.get("type")) for one in inner}
    if kinds == {"ByteLevel"}:
        return _byte_level
    if kinds and kinds <= {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"}:
        return _sentence_piece
    raise ValueError(
        f"{where}: expected a decoder of bytes (ByteLevel) or of SentencePiece "
        f"(Metaspace, ByteFallback), got {', '.join(sorted(kinds)) or 'none'}"
    )


def from_bytes(content: bytes) -> Tokenizer:
    """The tokenizer of `Tokenizer.to_bytes`, in another process."""
    fields = json.loads(content)
    text, ends = fields["text"], tuple(fields["ends"])
    library = tokenizers.library().Tokenizer.from_str(text)
    return make(library, json.loads(text), text, ends, where=FILE)


def fingerprint(tokenizer: Tokenizer) -> str:
    """16 hexadecimal digits that change with the file and the ends."""
    return storage.short_hash(tokenizer.data["text"], str(tokenizer.data["ends"]))
