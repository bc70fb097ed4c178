"""A GGUF file as a folder of Hugging Face: the small files beside the weights, made
from its metadata, and its tensors."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformer import storage
from transformer.data.text import tokenizers
from transformer.interchange import byte_level_bpe, gguf_file, gguf_model
from transformer.interchange import sentence_piece as sp
from transformer.interchange.byte_level_bpe import PATTERNS, AddedToken
from transformer.interchange.config import Reader
from transformer.interchange.gguf_file import GgufHeader, GgufTensor

# Of what is made from a header.
VERSION = "1"
CONFIG = "config.json"
TEMPLATE = "chat_template.jinja"
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
PREFIX = "tokenizer."


def find(path: Path) -> Path | None:
    """The GGUF file that `path` is or, where it has no config.json, that it holds;
    None where there is none. ValueError where it holds several."""
    if path.suffix == gguf_file.SUFFIX and path.is_file():
        return path
    if not path.is_dir() or (path / CONFIG).exists():
        return None
    found = sorted(path.glob(f"*{gguf_file.SUFFIX}"))
    if len(found) > 1:
        names = ", ".join(one.name for one in found[:3])
        raise ValueError(
            f"{path}: expected one {gguf_file.SUFFIX}, got {len(found)} ({names}); "
            "name the file"
        )
    return found[0] if found else None


def resolve(path: Path) -> Path:
    """The folder of a model's small files: `path`, or that made from a GGUF file, in
    the cache. ValueError as `gguf_model.config_of` and for an unknown tokenizer."""
    file = find(path)
    if file is None:
        return path
    status = file.stat()
    return _resolve(file.absolute(), status.st_mtime_ns, status.st_size)


@functools.lru_cache(8)
def _resolve(file: Path, changed: int, size: int) -> Path:
    header = gguf_file.read_header(file)
    files = small_files(header, file)
    key = storage.short_hash(VERSION, json.dumps(files, sort_keys=True))

    def write(folder: Path) -> None:
        for name, text in files.items():
            (folder / name).write_bytes(text.encode())

    return storage.cached_folder(f"gguf/{key}", write)


def open_tensors(file: Path) -> dict[str, GgufTensor]:
    """The tensors of a file, by name."""
    return gguf_file.read_header(file).tensors


def small_files(header: GgufHeader, file: Path) -> dict[str, str]:
    """The configuration, the tokenizer and the chat template of a file, by name."""
    config = gguf_model.config_of(header, file)
    files = {CONFIG: json.dumps(config, indent=2, sort_keys=True)}
    values = {k: v for k, v in header.metadata.items() if k.startswith(PREFIX)}
    reader = Reader(values, str(file))
    if reader.get("tokenizer.ggml.model", "no_vocab") in ("no_vocab", "none"):
        return files
    files |= _tokenizer_files(reader, config["vocab_size"])
    named = {k for k in values if k.startswith("tokenizer.chat_template")}
    template = reader.get("tokenizer.chat_template", None)
    if isinstance(template, str):
        files[TEMPLATE] = template
    # The others are for other purposes, such as tools; they are not used.
    reader.finish(HARMLESS | named | {"tokenizer.chat_templates"})
    return files


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


def _tokenizer_files(reader: Reader, rows: int) -> dict[str, str]:
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
        for name, key in _SPECIAL.items()
        if reader.get(f"tokenizer.ggml.{key}_token_id", len(tokens)) < len(tokens)
    }
    text = reader.get("tokenizer.huggingface.json", None)
    if text is None:
        ends = _around(reader, special, tokens)
        if reader.get("tokenizer.ggml.model") == "llama":
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


_SPECIAL = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}


def _around(
    reader: Reader, special: Mapping[str, str], tokens: list[str]
) -> dict[str, list[AddedToken]]:
    """The tokens before and behind each text. Llama's has a first one by default."""
    is_llama = reader.get("tokenizer.ggml.model") == "llama"
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
    reader.choice("tokenizer.ggml.model", {"gpt2": "", "llama": ""})
    cut = reader.choice("tokenizer.ggml.pre", PATTERNS)
    reader.only("tokenizer.ggml.add_space_prefix", False)
    lines = _strings(reader, "tokenizer.ggml.merges")
    vocab = {token: i for i, token in enumerate(tokens)}
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
    model = sp.Model(
        pieces=tuple(map(sp.Piece, tokens, scores, types)),
        kind=sp.BPE,
        byte_fallback=True,
        dummy_prefix=reader.flag("tokenizer.ggml.add_space_prefix", True),
        extra_spaces=True,
    )
    return sp.build(model, reader.where, **ends)
