"""Tokenizers in GGUF, read and written: metadata as a `tokenizer.json`, and back.

The keys are those of llama.cpp (convert_hf_to_gguf.py). A file names how text is cut;
the names that are known here are those of `byte_level_bpe.PATTERNS`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from transformer.data.text import tokenizers
from transformer.interchange import byte_level_bpe
from transformer.interchange import sentence_piece as sp
from transformer.interchange.byte_level_bpe import PATTERNS, AddedToken
from transformer.interchange.config import Reader

MODEL = "tokenizer.ggml.model"
# Names of special tokens in tokenizer_config.json and in GGUF.
SPECIAL = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
# The tokens that end a text, the main one first.
ENDS = ("eos", "eot", "eom")
# Tokens that no text becomes, and what other programs do with text.
HARMLESS = {
    f"tokenizer.ggml.{name}"
    for name in """add_bos_token add_eos_token add_sep_token add_space_prefix
    remove_extra_whitespaces token_type_count merges scores pre precompiled_charsmap
    bos_token_id eos_token_id eot_token_id eom_token_id unknown_token_id
    padding_token_id separator_token_id seperator_token_id cls_token_id mask_token_id
    prefix_token_id suffix_token_id middle_token_id fim_pre_token_id fim_suf_token_id
    fim_mid_token_id fim_pad_token_id fim_rep_token_id fim_sep_token_id""".split()
}


def _strings(reader: Reader, key: str) -> list[str]:
    values = reader.get(key)
    if not isinstance(values, list) or not all(isinstance(v, str) for v in values):
        raise reader.error(key, "a list of strings")
    return values


def _numbers(reader: Reader, key: str, count: int, default: Any) -> list[Any]:
    values = reader.get(key, [default] * count)
    kinds = (int, float)
    if not isinstance(values, list) or not all(type(v) in kinds for v in values):
        raise reader.error(key, "a list of numbers")
    if len(values) != count:
        raise reader.error(key, f"{count} numbers, one for each token")
    return values


def files_of(reader: Reader, rows: int) -> dict[str, str]:
    """The tokenizer.json and its configuration of a file's metadata. rows: of the
    embedding. ValueError, in one line, for values that contradict each other, and for
    tokenizers that are not known here."""
    tokens = _strings(reader, "tokenizer.ggml.tokens")
    if not tokens or len(tokens) > rows:
        raise ValueError(
            f"{reader.where}: expected 1 to {rows} tokens, the rows of the embedding, "
            f"got {len(tokens)}"
        )
    if len(set(tokens)) < len(tokens):
        raise ValueError(f"{reader.where}: expected each token once, got one again")
    types = _numbers(reader, "tokenizer.ggml.token_type", len(tokens), sp.NORMAL)
    special = {
        name: tokens[reader.whole(f"tokenizer.ggml.{key}_token_id", least=0)]
        for name, key in SPECIAL.items()
        if reader.get(f"tokenizer.ggml.{key}_token_id", len(tokens)) < len(tokens)
    }
    text = reader.get("tokenizer.huggingface.json", None)
    if text is None:
        ends = _around(reader, special, tokens)
        if reader.get(MODEL) == "llama":
            text = _sentence_piece(reader, tokens, types, ends)
        else:
            text = _byte_level(reader, tokens, types, ends)
    settings = {f"{name}_token": token for name, token in special.items()}
    return {
        tokenizers.FILE: text,
        "tokenizer_config.json": json.dumps(
            {"tokenizer_class": "PreTrainedTokenizerFast", **settings}, indent=2
        ),
    }


def _padding(index: int) -> str:
    """llama.cpp's name of a row of the embedding that is no token."""
    return f"[PAD{index}]"


def _is_padding(index: int, token: str, kind: int) -> bool:
    return kind == sp.UNUSED and token == _padding(index)


def _around(
    reader: Reader, special: Mapping[str, str], tokens: list[str]
) -> dict[str, list[AddedToken]]:
    """The tokens before and behind each text. Llama's has a first one by default."""
    is_llama = reader.get(MODEL) == "llama"
    is_llama |= reader.get("tokenizer.ggml.pre", "") in ("llama-bpe", "llama3")
    found = {}
    for side, name, default in (("first", "bos", is_llama), ("last", "eos", False)):
        wanted = reader.flag(f"tokenizer.ggml.add_{name}_token", default)
        token = special.get(name)
        one = [] if token is None else [AddedToken(tokens.index(token), token, True)]
        found[side] = one if wanted else []
    return found


def _byte_level(
    reader: Reader,
    tokens: list[str],
    types: list[int],
    ends: Mapping[str, list[AddedToken]],
) -> str:
    reader.choice(MODEL, {"gpt2": "", "llama": ""})
    cut = reader.choice("tokenizer.ggml.pre", PATTERNS)
    reader.only("tokenizer.ggml.add_space_prefix", False)
    lines = _strings(reader, "tokenizer.ggml.merges")
    vocab = {
        token: i
        for i, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if not _is_padding(i, token, kind)
    }
    merges = byte_level_bpe.parse_merges(lines, reader.where)
    for left, right in merges:
        if not {left, right, left + right} <= vocab.keys():
            raise ValueError(
                f"{reader.where}: expected merges of tokens, got {left[:20]!r} and "
                f"{right[:20]!r}"
            )
    kinds = {sp.CONTROL: True, sp.UNKNOWN: True, sp.USER_DEFINED: False}
    added = [
        AddedToken(i, token, kinds[kind])
        for i, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind in kinds
    ]
    return byte_level_bpe.build(vocab, merges, cut, added=added, **ends)


def _sentence_piece(
    reader: Reader,
    tokens: list[str],
    types: list[int],
    ends: Mapping[str, list[AddedToken]],
) -> str:
    scores = _numbers(reader, "tokenizer.ggml.scores", len(tokens), 0.0)
    reader.only("tokenizer.ggml.remove_extra_whitespaces", False)
    pieces = [*map(sp.Piece, tokens, scores, types)]
    while _is_padding(len(pieces) - 1, pieces[-1].text, pieces[-1].type):
        pieces.pop()
    model = sp.Model(
        pieces=tuple(pieces),
        kind=sp.BPE,
        byte_fallback=True,
        dummy_prefix=reader.flag("tokenizer.ggml.add_space_prefix", True),
        extra_spaces=True,
    )
    return sp.build(model, reader.where, **ends)


def metadata_of(
    text: str, settings: Mapping[str, Any], ids: Mapping[str, int], *, rows: int
) -> dict[str, Any]:
    """The metadata of a tokenizer.json with this `text`: the inverse of `files_of`.

    settings: of tokenizer_config.json, which says the special tokens that are not in
    `ids`. ids: by their names in GGUF (`bos`, `eos`, `eot`, `padding`). rows: of the
    embedding. ValueError, in one line, for a tokenizer that GGUF does not express.
    """
    where, content = tokenizers.FILE, json.loads(text)
    library = tokenizers.library().Tokenizer.from_str(text)
    model, decoder = content["model"], content.get("decoder") or {}
    if model.get("type") != "BPE":
        raise ValueError(f"{where}: expected a BPE for gguf, got {model.get('type')}")
    is_byte_level = decoder.get("type") == "ByteLevel"
    unknown = None if is_byte_level else model["vocab"].get(model.get("unk_token"))
    tokens, types = _tokens(content, unknown, rows, where)
    made: dict[str, Any] = {
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
    }
    if is_byte_level:
        name = byte_level_bpe.cut_name(content, where)
        if PATTERNS[name].nfc:
            print(f"{where}: text is normalized to NFC, which llama.cpp leaves out")
        made |= {MODEL: "gpt2", "tokenizer.ggml.pre": name}
        pairs = map(sp.split_merge, model["merges"])
        made |= {"tokenizer.ggml.merges": [" ".join(pair) for pair in pairs]}
    else:
        scores = sp.scores_of(content, where)
        lowest = min(scores.values(), default=0.0)
        prefix = sp.dummy_prefix_of(content, where)
        made |= {MODEL: "llama", "tokenizer.ggml.pre": "default"}
        made |= {"tokenizer.ggml.scores": [scores.get(t, lowest) for t in tokens]}
        made |= {"tokenizer.ggml.add_space_prefix": prefix}
    found = _special_ids(library, settings, ids)
    if unknown is not None:
        found["unknown"] = unknown
    made |= _around_flags(library, found, where)
    return made | id_keys(found, rows)


def id_keys(ids: Mapping[str, int], rows: int) -> dict[str, int]:
    """The metadata of special tokens by their names. ValueError for ids that no row of
    the embedding has."""
    for name, number in ids.items():
        if not 0 <= number < rows:
            raise ValueError(
                f"{name}_token_id: expected a token below {rows}, the rows of the "
                f"embedding, got {number}"
            )
    return {f"tokenizer.ggml.{name}_token_id": number for name, number in ids.items()}


def _tokens(
    content: Mapping[str, Any], unknown: int | None, rows: int, where: str
) -> tuple[list[str], list[int]]:
    """The text and the type of each row of the embedding."""
    model, added = content["model"], content.get("added_tokens") or []
    texts = {i: text for text, i in model["vocab"].items()}
    types = dict.fromkeys(texts, sp.NORMAL)
    if model.get("byte_fallback"):
        bytes_ = [i for i in texts if re.fullmatch("<0x[0-9A-F]{2}>", texts[i])]
        types |= dict.fromkeys(bytes_, sp.BYTE)
    for token in added:
        texts[token["id"]] = token["content"]
        types[token["id"]] = sp.CONTROL if token["special"] else sp.USER_DEFINED
    if unknown is not None:
        types[unknown] = sp.UNKNOWN
    if max(texts, default=rows) >= rows:
        raise ValueError(
            f"{where}: expected tokens below {rows}, the rows of the embedding, got "
            f"{max(texts, default='none')}"
        )
    flags = ("lstrip", "rstrip", "single_word")
    if count := sum(any(token.get(flag) for flag in flags) for token in added):
        print(
            f"{where}: {count} added tokens depend on the letters or take the spaces "
            "beside them, which GGUF does not say"
        )
    tokens = [texts.get(i, _padding(i)) for i in range(rows)]
    return tokens, [types.get(i, sp.UNUSED) for i in range(rows)]


def _special_ids(
    library: Any, settings: Mapping[str, Any], ids: Mapping[str, int]
) -> dict[str, int]:
    """`ids`, and those that only the settings say; a line for one that they say
    otherwise."""
    found = dict(ids)
    for name, key in SPECIAL.items():
        token = settings.get(f"{name}_token")
        token = token.get("content") if isinstance(token, dict) else token
        number = library.token_to_id(token) if isinstance(token, str) else None
        if number is None:
            continue
        if found.setdefault(key, number) != number:
            print(
                f"tokenizer_config.json: {name}_token is {token} ({number}), but the "
                f"configuration says {found[key]}, which the file has"
            )
    return found


def _around_flags(library: Any, ids: dict[str, int], where: str) -> dict[str, bool]:
    """Whether a text begins with `bos` and ends with `eos`, which are added to `ids`
    where nothing else says them."""
    first, last = byte_level_bpe.template_tokens(library)
    flags = {}
    for name, tokens in (("bos", first), ("eos", last)):
        for token in tokens:
            ids.setdefault(name, token)
        if tokens not in ([], [ids.get(name)]):
            raise ValueError(
                f"{where}: expected texts {'before' if name == 'eos' else 'behind'} "
                f"the {name} token {ids.get(name)} or none, got {tokens}"
            )
        flags[f"tokenizer.ggml.add_{name}_token"] = bool(tokens)
    return flags
