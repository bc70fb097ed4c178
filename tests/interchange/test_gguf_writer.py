"""GGUF files written here are read back equal, and are those of llama.cpp's converter,
whose steps `gguf_models` writes a second time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf_models
import jax
import numpy as np
import pytest
import tokenizers
from hard_texts import HARD

from transformer.interchange import (
    byte_level_bpe,
    export,
    folder,
    gguf_file,
    gguf_folder,
    gguf_tokenizer,
    gguf_writer,
    sentence_piece,
    tokenizer_conversion,
)
from transformer.interchange import tokenizer as tokenizer_
from transformer.interchange.byte_level_bpe import AddedToken
from transformer.interchange.config import Reader
from transformer.interchange.rope import Rope

FIXTURES = gguf_models.FIXTURES
NAMES = ["llama", "qwen2", "qwen3", "gpt2"]


def companions(**changes: Any) -> dict[str, bytes]:
    """The small files of the fixtures' byte-level tokenizer."""
    values = gguf_models.byte_level() | changes
    template = values.pop("chat_template")
    metadata = {f"tokenizer.ggml.{key}": value for key, value in values.items()}
    files = gguf_tokenizer.files_of(Reader(metadata), 67)
    return {name: text.encode() for name, text in files.items()} | {
        "chat_template.jinja": template.encode()
    }


def opened(name: str, *, scanned: bool = False, **sizes: Any) -> Any:
    found = folder.open_folder(FIXTURES / name, scanned=scanned)
    return found._replace(sizes=found.sizes._replace(**sizes))


def write(out: Path, name: str, *, params: Any = None, **options: Any) -> Any:
    source = opened(name, **options.pop("sizes", {}))
    made = source.architecture, source.sizes
    values = source.read_params() if params is None else params
    return gguf_writer.write_folder(out, *made, values, **options)


@pytest.mark.parametrize("name", NAMES)
def test_a_model_is_read_back_to_the_bit(name: str, tmp_path: Path) -> None:
    """Parameters, configuration, ids, tokenizer and chat template; by the verb."""
    source = opened(name, scanned=True)
    params, files = source.read_params(), companions()
    ids = {"bos_token_id": 65, "eos_token_id": [66, 65], "pad_token_id": 0}
    model = export.Exportable(source.architecture, source.sizes, files, ids)
    out = export.export(model, params, tmp_path, format="gguf")
    assert sorted(file.name for file in out.iterdir()) == ["README.md", "model.gguf"]
    again = folder.open_folder(out, scanned=True)
    assert again.sizes == source.sizes
    jax.tree.map(np.testing.assert_array_equal, again.read_params(), params)
    assert folder.read_token_ids(out) == ids
    small = gguf_folder.resolve(out)
    for file in ("tokenizer.json", "chat_template.jinja"):
        assert (small / file).read_bytes() == files[file]


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_that_of_the_converter(name: str, tmp_path: Path) -> None:
    write(tmp_path / "ours", name, token_ids={"eos_token_id": 65})
    ours = gguf_file.read_header(tmp_path / "ours" / gguf_writer.FILE)
    tokens = {"model": "none", "eos_token_id": 65}
    file = gguf_models.write(tmp_path / "theirs.gguf", name, **tokens)
    theirs = gguf_file.read_header(file)
    assert theirs.metadata.items() <= ours.metadata.items()
    extra = {key.split(".", 1)[1] for key in ours.metadata.keys() - theirs.metadata}
    general = {"type", "name", "file_type", "quantization_version"}
    sizes = {"vocab_size", "rope.dimension_count"}
    lengths = {"attention.key_length", "attention.value_length"}
    assert extra - lengths == general | (sizes if name != "gpt2" else {"vocab_size"})
    assert ours.tensors.keys() == theirs.tensors.keys()
    for key, tensor in theirs.tensors.items():
        assert ours.tensors[key].code == tensor.code
        np.testing.assert_array_equal(ours.tensors[key].read(), tensor.read(), key)


def test_the_factors_of_llama_3_are_those_of_the_converter(tmp_path: Path) -> None:
    rope = Rope(5e5, "llama3", factor=32.0)
    write(tmp_path / "out", "llama", sizes={"rope": rope})
    header = gguf_file.read_header(tmp_path / "out" / gguf_writer.FILE)
    values = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "factor": 32.0}
    values |= {"rope_theta": 5e5, "original_max_position_embeddings": 8192}
    expected = gguf_models.llama3_factors(values, 8)
    found = header.tensors["rope_freqs.weight"].read()
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert folder.open_folder(tmp_path / "out").sizes.rope == rope


def sentence_piece_json(**changes: Any) -> str:
    """Of the model of the fixtures, without its rules of normalization."""
    data = (FIXTURES / "tokenizers" / "spm_bpe" / "tokenizer.model").read_bytes()
    model = sentence_piece.parse(data, "spm_bpe")
    model = model._replace(charsmap=b"", extra_spaces=True)
    first = [AddedToken(1, "<s>", True)]
    return sentence_piece.build(model._replace(**changes), "spm_bpe", first=first)


def older(name: str) -> str:
    text = tokenizer_conversion.read(FIXTURES / "tokenizers" / name)
    assert text is not None
    return text


def qwen_json() -> str:
    """Ranks of Llama 3 cut as Qwen's, and a token that is text."""
    model = json.loads(older("llama3_ranks"))["model"]
    merges = [(left, right) for left, right in model["merges"]]
    added = AddedToken(len(model["vocab"]), "<tool>", False)
    vocab = model["vocab"] | {added.content: added.id}
    cut = byte_level_bpe.PATTERNS["qwen2"]
    return byte_level_bpe.build(vocab, merges, cut, added=[added])


TOKENIZERS = {
    "gpt-2": lambda: older("gpt2_files"),
    "llama-bpe": lambda: older("llama3_ranks"),
    "qwen2": qwen_json,
    "default": sentence_piece_json,
    "default without prefix": lambda: sentence_piece_json(dummy_prefix=False),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_tokenizer_is_read_back_equal(name: str) -> None:
    """Also where the embedding has rows without a token, which are no tokens again."""
    text = TOKENIZERS[name]()
    library = tokenizers.Tokenizer.from_str(text)
    rows = library.get_vocab_size() + 5
    metadata = gguf_tokenizer.metadata_of(text, {}, {"eos": 2}, rows=rows)
    assert metadata["tokenizer.ggml.pre"] == name.split()[0]
    assert len(metadata["tokenizer.ggml.tokens"]) == rows
    reader = Reader(metadata)
    again = gguf_tokenizer.files_of(reader, rows)[tokenizer_.FILE]
    reader.finish(gguf_tokenizer.HARMLESS)
    assert json.loads(again) == json.loads(text)
    made = tokenizers.Tokenizer.from_str(again)
    for hard in HARD:
        expected = library.encode(hard)
        assert made.encode(hard).ids == expected.ids
        assert made.decode(expected.ids) == library.decode(expected.ids)


def test_what_a_file_cannot_say_of_a_tokenizer_is_printed(capsys) -> None:
    content = json.loads(qwen_json())
    content["added_tokens"][0]["lstrip"] = True
    settings = {"bos_token": "a", "unk_token": {"content": "b"}}
    text, ids = json.dumps(content), {"bos": 1}
    found = gguf_tokenizer.metadata_of(text, settings, ids, rows=1000)
    assert found["tokenizer.ggml.bos_token_id"] == 1
    assert found["tokenizer.ggml.unknown_token_id"] == content["model"]["vocab"]["b"]
    printed = capsys.readouterr().out
    assert "1 added tokens depend on the letters or take the spaces" in printed
    assert "normalized to NFC, which llama.cpp leaves out" in printed
    assert "bos_token is a" in printed and "says 1, which the file has" in printed


def change(text: str, *path: str, value: Any) -> str:
    content = inner = json.loads(text)
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return json.dumps(content)


def wrong_tokenizers() -> dict[str, str]:
    gpt2, pieces = older("gpt2_files"), sentence_piece_json()
    digits = {"type": "Digits", "individual_digits": False}
    metaspace = {"type": "Metaspace", "replacement": "\u2581", "split": False}
    merges = json.loads(pieces)["model"]["merges"]
    unknown = [AddedToken(9, "<x>", True)]
    around = byte_level_bpe.template(unknown, [AddedToken(2, "</s>", True)] * 2)
    return {
        "text cut as by gpt-2, gpt2": change(gpt2, "pre_tokenizer", value=digits),
        "text cut as by gpt-2, gpt2, smollm": change(
            gpt2, "model", "ignore_merges", value=True
        ),
        "end_of_word_suffix: expected none": change(
            gpt2, "model", "end_of_word_suffix", value="</w>"
        ),
        "expected a BPE for gguf, got Unigram": older("spm_unigram"),
        "expected spaces replaced": change(pieces, "pre_tokenizer", value=metaspace),
        "expected a merge for any two": change(
            pieces, "model", "merges", value=merges[1:]
        ),
        "expected texts behind the bos token 1": change(
            pieces, "post_processor", value=around
        ),
    }


def test_other_tokenizers_are_refused() -> None:
    for expected, text in wrong_tokenizers().items():
        with pytest.raises(ValueError, match=expected):
            gguf_tokenizer.metadata_of(text, {}, {"bos": 1}, rows=10_000)
    for ids, rows in (({}, 70), ({"eos": 500}, 500)):
        with pytest.raises(ValueError, match=f"below {rows}, the rows of the embedd"):
            gguf_tokenizer.metadata_of(older("gpt2_files"), {}, ids, rows=rows)


@pytest.mark.parametrize(
    "name, sizes, expected",
    [
        ("mistral", {}, "one of llama, qwen2, qwen3, gpt2, got mistral"),
        ("bert", {}, "got bert, whose tensors"),
        ("llama", {"activation": "relu"}, "activation: expected silu, which is all"),
        ("gpt2", {"activation": "gelu"}, "activation: expected gelu_new"),
        ("qwen3", {"rope": Rope(kind="yarn", factor=4.0)}, "rope: .*kind='default'"),
        ("qwen3_biased", {}, "biased: expected False, which is all"),
        ("llama_biased", {"biased": False}, "rope: .*kind='default'"),
        ("llama", {"rotated": 4}, "rope.dimension_count: expected 8, got 4"),
        ("llama31", {}, "rope_freqs.weight: expected the factors of Llama 3.1 or 3.2"),
    ],
)
def test_nets_that_the_format_does_not_express_are_refused(
    name: str, sizes: Any, expected: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=expected):
        write(tmp_path / "out", name, sizes=sizes)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_matrices_are_rounded_and_counted(dtype: str, tmp_path: Path) -> None:
    """Vectors and learned positions stay float32."""
    params = opened("gpt2").read_params()
    params["embedding_VD"] = params["embedding_VD"].at[0, 0].set(1e-45)
    counts = write(tmp_path / "out", "gpt2", params=params, dtypes=dtype)
    header = gguf_file.read_header(tmp_path / "out" / gguf_writer.FILE)
    assert header.metadata["general.file_type"] == {"F16": 1, "BF16": 32}[dtype]
    write(tmp_path / "exact", "gpt2", params=params)
    exact = gguf_file.read_header(tmp_path / "exact" / gguf_writer.FILE).tensors
    rounded = 0
    for name, tensor in header.tensors.items():
        wide = len(tensor.shape) == 1 or name == "position_embd.weight"
        assert tensor.dtype == ("F32" if wide else dtype)
        values, before = tensor.read(), exact[name].read()
        np.testing.assert_array_equal(values, before.astype(values.dtype))
        rounded += np.count_nonzero(values.astype(np.float32) != before)
    assert (counts.rounded, counts.zeros) == (rounded, 1) and rounded > 1000
    assert f"{rounded:,} of them rounded (1 to 0)" in counts.describe("float16")


def test_numbers_beyond_float16_are_refused(tmp_path: Path) -> None:
    """By safetensors too, and nothing is left of the file."""
    source = opened("llama")
    params = source.read_params()
    params["embedding_VD"] = params["embedding_VD"].at[3, 1].set(-7e4)
    made = source.architecture, source.sizes, params
    for write_folder in (gguf_writer.write_folder, folder.write_folder):
        expected = "at most 65504 for float16, got 1 beyond, such as -70000"
        with pytest.raises(ValueError, match=expected):
            write_folder(tmp_path / "out", *made, dtypes="F16")
        assert not list(tmp_path.iterdir())
        write_folder(tmp_path / "out", *made, dtypes="BF16")
        with pytest.raises(ValueError, match="a folder that does not exist yet"):
            write_folder(tmp_path / "out", *made)
        for file in (tmp_path / "out").iterdir():
            file.unlink()
        (tmp_path / "out").rmdir()
