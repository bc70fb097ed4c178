"""GGUF files that lie: one line each, before memory is taken."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path
from typing import Any

import gguf_models
import pytest

from transformer.interchange import folder

HUGE = 2**62


def string(text: str | bytes, *, length: int | None = None) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw) if length is None else length) + raw


def value(key: str, code: int, raw: bytes) -> bytes:
    return string(key) + struct.pack("<I", code) + raw


def text(key: str, content: str) -> bytes:
    return value(key, 8, string(content))


def number(key: str, content: int) -> bytes:
    return value(key, 4, struct.pack("<I", content))


def array(key: str, code: int, count: int, raw: bytes = b"") -> bytes:
    return value(key, 9, struct.pack("<IQ", code, count) + raw)


def tensor(name: str, shape: list[int], *, code: int = 0, offset: int = 0) -> bytes:
    axes = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return string(name) + axes + struct.pack("<IQ", code, offset)


def file(
    *values: bytes,
    tensors: tuple[bytes, ...] = (),
    body: int = 0,
    magic: bytes = b"GGUF",
    version: int = 3,
    counts: tuple[int, int] | None = None,
) -> bytes:
    counts = (len(tensors), len(values)) if counts is None else counts
    head = magic + struct.pack("<IQQ", version, *counts) + b"".join(values + tensors)
    return head + bytes(-len(head) % 32 + body)


LLAMA = text("general.architecture", "llama")
EMBEDDING = tensor("token_embd.weight", [8, 4])
STRINGS = b"".join(map(string, "abcd"))
TOKENS = array("tokenizer.ggml.tokens", 8, 4, STRINGS)
SIZES = (
    LLAMA,
    number("llama.context_length", 16),
    number("llama.embedding_length", 8),
    number("llama.block_count", 1),
    number("llama.feed_forward_length", 8),
    number("llama.attention.head_count", 2),
    value("llama.attention.layer_norm_rms_epsilon", 6, struct.pack("<f", 1e-5)),
)


def model(*values: bytes, without: int | None = None) -> bytes:
    sizes = [one for i, one in enumerate(SIZES) if i != without]
    return file(*sizes, *values, tensors=(EMBEDDING,), body=128)


def tokenizer(*values: bytes) -> bytes:
    return model(text("tokenizer.ggml.model", "gpt2"), *values)


HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "expected a GGUF file"),
    "other magic": (file(magic=b"GGML"), "expected a GGUF file"),
    "old version": (file(version=1), "version 2 or 3"),
    "big-endian": (file(version=3 << 24), "version 2 or 3"),
    "header cut": (file(LLAMA)[:30], "expected a"),
    "many tensors": (file(counts=(HUGE, 0)), "as many tensors as there are bytes"),
    "many values": (file(counts=(0, HUGE)), "as many values as there are bytes"),
    "long key": (file(string("a", length=HUGE), counts=(0, 1)), "header of 4611"),
    "long string": (
        file(value("a", 8, string("a", length=HUGE)), LLAMA),
        "header of 4611",
    ),
    "many strings": (file(array("a", 8, HUGE), LLAMA), "as many strings"),
    "many numbers": (file(array("a", 0, HUGE), LLAMA), "as many numbers"),
    "arrays of arrays": (file(array("a", 9, 3), LLAMA), "numbers or strings, got type"),
    "unknown type": (file(value("a", 77, b""), LLAMA), "known type, got type 77"),
    "key twice": (file(LLAMA, LLAMA), "each key once"),
    "key is not UTF-8": (file(value("a", 8, string(b"\xff\xfe"))), "expected UTF-8"),
    "alignment of 0": (file(LLAMA, number("general.alignment", 0)), "alignment of 1"),
    "no axes": (file(LLAMA, tensors=(tensor("a", []),)), "of 1 to 4 axes, got 0"),
    "many axes": (file(LLAMA, tensors=(tensor("a", [1] * 9),)), "axes, got 9"),
    "tensor twice": (file(LLAMA, tensors=(EMBEDDING,) * 2), "each tensor once"),
    "an axis of 0": (file(LLAMA, tensors=(tensor("a", [0]),)), "of whole blocks"),
    "huge tensor": (
        file(LLAMA, tensors=(tensor("a", [2**40, 2**40]),), body=64),
        "bytes in the file",
    ),
    "offset beyond the end": (
        file(LLAMA, tensors=(tensor("a", [4], offset=2**63),), body=64),
        "bytes in the file",
    ),
    "offset not aligned": (
        file(LLAMA, tensors=(tensor("a", [4], offset=4),), body=64),
        "bytes in the file",
    ),
    "tensors overlap": (
        file(LLAMA, tensors=(tensor("a", [16]), tensor("b", [16], offset=32)), body=96),
        "after those before it",
    ),
    "values cut": (file(LLAMA, tensors=(EMBEDDING,), body=100), "bytes in the file"),
    "unknown storage": (
        file(LLAMA, tensors=(tensor("a", [32], code=99),), body=64),
        "got type 99",
    ),
    "half a block": (
        file(LLAMA, tensors=(tensor("a", [31], code=8),), body=64),
        "whole blocks of 32",
    ),
    "no architecture": (file(tensors=(EMBEDDING,), body=128), "expected one of llama"),
    "another architecture": (
        file(text("general.architecture", "../llama"), tensors=(EMBEDDING,), body=128),
        "expected one of llama",
    ),
    "no embedding": (file(*SIZES), "expected a matrix token_embd.weight"),
    "no width": (model(without=2), "expected llama.embedding_length, got none"),
    "unknown key": (model(number("llama.secret", 3)), "understood, got llama.secret"),
    "experts": (model(number("llama.expert_count", 8)), "expert_count: expected 0"),
    "part of a head turns": (
        model(number("llama.rope.dimension_count", 2)),
        "dimension_count: expected 4",
    ),
    "another vocabulary": (model(number("llama.vocab_size", 9)), "vocab_size: expect"),
    "depth is text": (
        model(text("llama.block_count", "1"), without=3),
        "block_count: expected a whole number",
    ),
    "huge depth": (
        model(number("llama.block_count", 2**32 - 1), without=3),
        "block_count: expected a whole number",
    ),
    "yarn": (
        model(text("llama.rope.scaling.type", "yarn")),
        "scaling.type: expected one of none, linear",
    ),
    "one of several files": (
        model(value("split.count", 2, struct.pack("<H", 3))),
        "expected one file",
    ),
    "an end beyond the vocabulary": (
        model(number("tokenizer.ggml.eos_token_id", 4)),
        "eos_token_id: expected a token below 4",
    ),
    "tensors missing": (model(), "missing: blk.0"),
    "unknown tokenizer": (
        model(text("tokenizer.ggml.model", "rwkv"), TOKENS),
        "ggml.model: expected one of gpt2, llama",
    ),
    "unknown cut": (
        tokenizer(TOKENS, text("tokenizer.ggml.pre", "x")),
        "ggml.pre: expected one of gpt-2",
    ),
    "no tokens": (tokenizer(), "expected tokenizer.ggml.tokens"),
    "more tokens than rows": (
        tokenizer(array("tokenizer.ggml.tokens", 8, 5, STRINGS + string("e"))),
        "expected 1 to 4 tokens",
    ),
    "a token twice": (
        tokenizer(array("tokenizer.ggml.tokens", 8, 5, 5 * string("e"))),
        "expected 1 to 4 tokens",
    ),
    "types cut": (
        tokenizer(TOKENS, array("tokenizer.ggml.token_type", 4, 1, bytes(4))),
        "expected 4 numbers",
    ),
    "merges of no tokens": (
        tokenizer(
            TOKENS,
            text("tokenizer.ggml.pre", "gpt-2"),
            array("tokenizer.ggml.merges", 8, 1, string("a x")),
        ),
        "expected merges of tokens",
    ),
    "a merge of one": (
        tokenizer(
            TOKENS,
            text("tokenizer.ggml.pre", "gpt-2"),
            array("tokenizer.ggml.merges", 8, 1, string("a")),
        ),
        "expected merges of two",
    ),
    "unknown key of the tokenizer": (
        tokenizer(
            TOKENS,
            text("tokenizer.ggml.pre", "gpt-2"),
            array("tokenizer.ggml.merges", 8, 0),
            text("tokenizer.code", "import os"),
        ),
        "understood, got tokenizer.code",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_in_one_line(name: str, tmp_path: Path) -> None:
    content, message = HOSTILE[name]
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    tracemalloc.start()
    with pytest.raises(ValueError, match=message) as refusal:
        folder.open_folder(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 500
    assert peak < 100 * 2**20


def test_several_files_in_a_folder_are_refused(tmp_path: Path) -> None:
    for name in "ab":
        gguf_models.write(tmp_path / f"{name}.gguf", "qwen2")
    with pytest.raises(ValueError, match=r"expected one .gguf, got 2 .a.gguf, b.gguf"):
        folder.open_folder(tmp_path)


def test_quantized_tensors_need_a_package(tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(file(LLAMA, tensors=(tensor("a", [32], code=8),), body=64))
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(ValueError, match=r"expected the package gguf .* pip install"):
        folder.open_folder(path)
