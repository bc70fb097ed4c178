"""The tokenizer of prepared text, which a run takes over."""

from __future__ import annotations

from pathlib import Path

from transformer.data.notices import print_once
from transformer.data.text import documents, tokenizers
from transformer.data.text.tokenizers import Tokenizer


def require_hash(name: str, expected: str, tokenizer: Tokenizer) -> None:
    """ValueError unless the tokenizer has the hash of that of the prepared text."""
    if tokenizer.hash != expected:
        raise ValueError(
            f"{name}: expected the tokenizer with which it was prepared, hash "
            f"{expected}, got one of hash {tokenizer.hash}"
        )


def read(kind: str, text: documents.TextDataset, folder: Path | None) -> Tokenizer:
    """The tokenizer of prepared text, or of the prepared parts of a mixture, written to
    `folder` where there is none; a line says that no other is made.

    ValueError where parts, or the file in `folder`, have another one, and for another
    `kind`; bpe, the default, may not have been asked for.
    """
    prepared = [
        (part.name, part.tokens)
        for part in (text, *(part for part, _ in text.parts))
        if part.tokens is not None
    ]
    name, first = prepared[0]
    found = first.tokenizer()
    for other, tokens in prepared:
        require_hash(other, tokens.hash, found)
    if kind not in ("bpe", found.kind):
        got = f"{kind}, hash {tokenizers.bytes_().hash}" if kind == "bytes" else kind
        raise ValueError(
            f"--tokenizer: expected that of {name}, {found.kind}, hash {found.hash}, "
            f"got {got}"
        )
    if folder is not None:
        require_hash(name, found.hash, tokenizers.load_or_train(folder, lambda: found))
    print_once(
        f"tokenizer of {name}: {found.kind} of {found.vocab_size} tokens, hash "
        f"{found.hash}; --tokenizer and --vocab_size are not used"
    )
    return found
