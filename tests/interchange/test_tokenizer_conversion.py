"""Converted tokenizers give the ids of the libraries that their files come from.

The ids of the fixtures are those of sentencepiece, tiktoken and the slow tokenizer of
transformers (make_text_fixtures.py).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hard_texts import HARD

from transformer.interchange import folder, sentence_piece, tokenizer_conversion
from transformer.interchange import tokenizer as tokenizer_

FIXTURES = Path(__file__).parent / "fixtures" / "tokenizers"
NAMES = ("spm_bpe", "spm_unigram", "gpt2_files", "llama3_ranks", "word_piece")
# The library keeps characters of private use and none, the slow tokenizer drops them.
PRIVATE_USE = HARD.index("\U00020bb7\U0010ffff\ue000")


@pytest.mark.parametrize("name", NAMES)
def test_hard_texts_have_the_ids_of_the_original(name: str) -> None:
    text = tokenizer_conversion.read(FIXTURES / name)
    assert text is not None
    made = tokenizers.Tokenizer.from_str(text)
    expected = json.loads((FIXTURES / name / "ids.json").read_text())
    for i, (one, ids) in enumerate(zip(HARD, expected, strict=True)):
        found = made.encode(one, add_special_tokens=False).ids
        assert found == ids or (name, i) == ("word_piece", PRIVATE_USE), repr(one)


@pytest.mark.parametrize("name", ["spm_bpe", "gpt2_files", "llama3_ranks"])
def test_a_folder_without_tokenizer_json_is_read_and_keeps_the_made_one(
    name: str, tmp_path: Path, capsys: Any
) -> None:
    path = tmp_path / "model"
    shutil.copytree(FIXTURES / name, path)
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": 2}))
    made = tokenizer_.read_tokenizer(path)
    assert "tokenizer.json made from" in capsys.readouterr().out
    text = "1234 I'm\n"
    assert made.decode(made.encode(text)).lstrip(" ") == text
    kept = folder.companions_of(path)["tokenizer.json"]
    assert json.loads(kept)["model"]["type"] == "BPE"


def edit(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], Any]:
    return lambda path: (path / name).write_bytes(change((path / name).read_bytes()))


def settings(**values: Any) -> Callable[[Path], Any]:
    content = json.dumps(values)
    return lambda path: (path / "tokenizer_config.json").write_text(content)


HOSTILE: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "model cut": ("spm_bpe", edit("tokenizer.model", lambda b: b[:900]), "SentencePie"),
    "model is text": ("spm_bpe", edit("tokenizer.model", lambda b: b"hello"), "Sente"),
    "model is empty": ("spm_bpe", edit("tokenizer.model", lambda b: b""), "pieces"),
    "length of 2^60": (
        "spm_bpe",
        edit("tokenizer.model", lambda b: b"\x0a" + b"\xff" * 8 + b"\x0f"),
        "SentencePiece",
    ),
    "number without end": (
        "spm_bpe",
        edit("tokenizer.model", lambda b: b"\xff" * 99),
        "SentencePiece",
    ),
    "a piece twice": ("spm_bpe", edit("tokenizer.model", lambda b: b + b), "once"),
    "another class": (
        "spm_bpe",
        settings(tokenizer_class="XLMRobertaTokenizer"),
        "tokenizer_class: expected one of none, LlamaTokenizer",
    ),
    "vocabulary is a list": ("gpt2_files", edit("vocab.json", lambda b: b"[]"), "JSON"),
    "ids are texts": (
        "gpt2_files",
        edit("vocab.json", lambda b: b'{"a": "b"}'),
        "tokens with ids",
    ),
    "a merge of one": ("gpt2_files", edit("merges.txt", lambda b: b"a\n"), "two tok"),
    "merges of others": (
        "gpt2_files",
        edit("merges.txt", lambda b: "\u4f60 \u597d".encode()),
        "merges of tokens in",
    ),
    "ranks are no base64": (
        "llama3_ranks",
        edit("model.tiktoken", lambda b: b"?? 1"),
        "base64",
    ),
    "a rank twice": (
        "llama3_ranks",
        edit("model.tiktoken", lambda b: b"YQ== 1\nYg== 1"),
        "each rank once",
    ),
    "no unknown word": ("word_piece", edit("vocab.txt", lambda b: b"a\nb\n"), "UNK"),
    "words are not UTF-8": (
        "word_piece",
        edit("vocab.txt", lambda b: b"\xff"),
        "UTF-8",
    ),
    "added tokens without text": (
        "gpt2_files",
        settings(added_tokens_decoder={"1": {}}),
        "ids with contents",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_in_one_line(name: str, tmp_path: Path) -> None:
    fixture, change, message = HOSTILE[name]
    path = tmp_path / "model"
    shutil.copytree(FIXTURES / fixture, path)
    change(path)
    with pytest.raises(ValueError, match=message) as refusal:
        tokenizer_conversion.read(path)
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 500


def test_merges_follow_scores() -> None:
    pieces = [
        sentence_piece.Piece(text, score)
        for text, score in [("a", 0), ("b", 0), ("ab", -2), ("ba", -1), ("aba", -3)]
    ]
    assert sentence_piece.merges_of(pieces) == [
        *(("b", "a"), ("a", "b")),
        *(("a", "ba"), ("ab", "a")),
    ]
