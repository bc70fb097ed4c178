"""Byte-level BPE as `tokenizer.json`: GPT-2's `vocab.json` and `merges.txt`, ranks of
tiktoken, and the vocabularies of GGUF.

A vocabulary does not say how text is cut before it is merged; a name does (`PATTERNS`).
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from transformer.data.text import tokenizers

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}{{1,3}}|{_REST}"
QWEN2 = rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}|{_REST}"


class Cut(NamedTuple):
    """How text is cut. pattern: a regular expression, GPT-2's if None. digits: one by
    one first. nfc: whether text is normalized to NFC. whole_words: a word of the
    vocabulary is not built from its merges (`ignore_merges`)."""

    pattern: str | None = None
    digits: bool = False
    nfc: bool = False
    whole_words: bool = False


# By the names of `tokenizer.ggml.pre`.
PATTERNS: Mapping[str, Cut] = {
    "gpt-2": Cut(),
    "gpt2": Cut(),
    "smollm": Cut(digits=True),
    "llama-bpe": Cut(LLAMA3, whole_words=True),
    "llama3": Cut(LLAMA3, whole_words=True),
    "qwen2": Cut(QWEN2, nfc=True),
}


class AddedToken(NamedTuple):
    """A token that is found in text before anything else. special: no text."""

    id: int
    content: str
    special: bool


def added_tokens(added: Iterable[AddedToken]) -> list[dict[str, Any]]:
    """The `added_tokens` of a tokenizer.json."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False}
    return [
        {"id": t.id, "content": t.content, **flags, "normalized": False}
        | {"special": t.special}
        for t in sorted(set(added))
    ]


def template(
    first: Sequence[AddedToken], last: Sequence[AddedToken]
) -> dict[str, Any] | None:
    """The `post_processor` that puts tokens before and behind a text."""
    if not first and not last:
        return None

    def pieces(tokens: Sequence[AddedToken]) -> list[dict[str, Any]]:
        return [{"SpecialToken": {"id": t.content, "type_id": 0}} for t in tokens]

    def text(name: str) -> list[dict[str, Any]]:
        inner = {"Sequence": {"id": name, "type_id": 0}}
        return [*pieces(first), inner, *pieces(last)]

    return {
        "type": "TemplateProcessing",
        "single": text("A"),
        "pair": [*text("A"), *text("B")],
        "special_tokens": {
            t.content: {"id": t.content, "ids": [t.id], "tokens": [t.content]}
            for t in [*first, *last]
        },
    }


def template_tokens(library: Any) -> tuple[list[int], list[int]]:
    """The tokens that the template of a library's tokenizer puts before and behind a
    text."""
    encoding = library.encode("a", add_special_tokens=True)
    mask = encoding.special_tokens_mask
    if 0 not in mask:
        return [], []
    end = len(mask) - mask[::-1].index(0)
    return encoding.ids[: mask.index(0)], encoding.ids[end:]


def document(
    model: Mapping[str, Any],
    added: Iterable[AddedToken],
    *,
    normalizer: Any,
    pre_tokenizer: Any,
    post_processor: Any,
    decoder: Any,
) -> str:
    """The text of a tokenizer.json."""
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added_tokens(added),
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": post_processor,
        "decoder": decoder,
        "model": dict(model),
    }
    return json.dumps(content, ensure_ascii=False)


def byte_level(*, regex: bool) -> dict[str, Any]:
    """The step that writes each byte as a letter; regex: that cuts as GPT-2 too."""
    options = {"add_prefix_space": False, "trim_offsets": True, "use_regex": regex}
    return {"type": "ByteLevel", **options}


def sequence(kind: str, steps: Sequence[Any]) -> Any:
    """Steps as one; None for none."""
    if len(steps) < 2:
        return steps[0] if steps else None
    return {"type": "Sequence", kind: list(steps)}


def build(
    vocab: Mapping[str, int],
    merges: Sequence[tuple[str, str]],
    cut: Cut,
    *,
    added: Sequence[AddedToken] = (),
    first: Sequence[AddedToken] = (),
    last: Sequence[AddedToken] = (),
) -> str:
    """The tokenizer.json of a vocabulary in letters of bytes, and its merges. first,
    last: tokens that stand before and behind each text."""
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": cut.whole_words,
        "vocab": dict(vocab),
        "merges": [list(pair) for pair in merges],
    }
    return document(
        model,
        added,
        normalizer={"type": "NFC"} if cut.nfc else None,
        pre_tokenizer=sequence("pretokenizers", cut_steps(cut)),
        post_processor=template(first, last),
        decoder=byte_level(regex=True),
    )


def cut_steps(cut: Cut) -> list[Any]:
    """The steps of a `pre_tokenizer` that cut text so."""
    steps: list[Any] = []
    if cut.digits:
        steps.append({"type": "Digits", "individual_digits": True})
    if cut.pattern is not None:
        split = {"pattern": {"Regex": cut.pattern}, "behavior": "Isolated"}
        steps.append({"type": "Split", **split, "invert": False})
    steps.append(byte_level(regex=cut.pattern is None))
    return steps


def cut_name(content: Mapping[str, Any], where: str) -> str:
    """The first name in `PATTERNS` of how a tokenizer.json cuts text: the inverse of
    `build`. ValueError for another cut, and for a model with more than merges."""
    model = content["model"]
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            raise ValueError(f"{where}: {key}: expected none, got {model[key]!r}")
    found = plain_steps(content.get("pre_tokenizer"), "pretokenizers")
    normalizer = plain_steps(content.get("normalizer"), "normalizers")
    for name, cut in PATTERNS.items():
        steps = plain_steps(sequence("pretokenizers", cut_steps(cut)), "pretokenizers")
        nfc = [{"type": "NFC"}] if cut.nfc else []
        whole_words = bool(model.get("ignore_merges"))
        if (found, normalizer, whole_words) == (steps, nfc, cut.whole_words):
            return name
    raise ValueError(
        f"{where}: expected text cut as by {', '.join(PATTERNS)}, the pre-tokenizers "
        f"that are known here, got {str([*normalizer, *found])[:100]}"
    )


def plain_steps(value: Any, kind: str) -> list[dict[str, Any]]:
    """The steps of a sequence, or the only one, without what no token depends on; none
    of None. kind: the sequence's key."""
    if value is None:
        return []
    if value.get("type") == "Sequence":
        return [step for inner in value[kind] for step in plain_steps(inner, kind)]
    step = {key: value[key] for key in value if key != "trim_offsets"}
    if step.get("type") == "ByteLevel":
        step = {"use_regex": True} | step
    return [step]


def read_merges(text: str, where: str) -> list[tuple[str, str]]:
    """The pairs of a `merges.txt`. ValueError for a line that is no pair."""
    # Tokens may hold other line breaks of Unicode.
    lines = text.split("\n")
    if lines and lines[0].startswith("#version"):
        lines = lines[1:]
    return parse_merges([line for line in lines if line], where)


def parse_merges(lines: Sequence[str], where: str) -> list[tuple[str, str]]:
    """Pairs divided by a space."""
    pairs = []
    for line in lines:
        left, space, right = str(line).rstrip("\r").partition(" ")
        if not (left and space and right) or " " in right:
            raise ValueError(
                f"{where}: expected merges of two tokens, got {line[:60]!r}"
            )
        pairs.append((left, right))
    return pairs


def read_ranks(text: str, where: str) -> dict[bytes, int]:
    """The ranks of a file of tiktoken: base64 and a number in each line."""
    ranks: dict[bytes, int] = {}
    for line in text.splitlines():
        if not line.strip():
            continue
        word, _, number = line.partition(" ")
        try:
            token, rank = base64.b64decode(word, validate=True), int(number)
        except (binascii.Error, ValueError):
            token, rank = b"", -1
        if not token or rank < 0 or token in ranks:
            raise ValueError(
                f"{where}: expected a token in base64 and its rank, each once, got "
                f"{line[:60]!r}"
            )
        ranks[token] = rank
    if len(set(ranks.values())) < len(ranks):
        raise ValueError(f"{where}: expected each rank once, got one again")
    return ranks


def of_ranks(
    ranks: Mapping[bytes, int],
) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The vocabulary and the merges of ranks: every pair whose halves and whole are
    tokens, in the order of the whole."""
    letter = {value: key for key, value in tokenizers.byte_letters().items()}

    def spell(token: bytes) -> str:
        return "".join(letter[value] for value in token)

    found = []
    for token, rank in ranks.items():
        for middle in range(1, len(token)):
            left, right = token[:middle], token[middle:]
            if left in ranks and right in ranks:
                found.append((rank, ranks[left], ranks[right], left, right))
    vocab = {spell(token): rank for token, rank in ranks.items()}
    return vocab, [(spell(e[3]), spell(e[4])) for e in sorted(found)]
