"""Marian as published: two models of SentencePiece with one vocabulary, targets that
begin with padding and end, and a table of sines that files may hold."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import commands
import marian_folder
import numpy as np
import pytest
import safetensors.numpy
from hard_texts import HARD, MARKED

import transformer
from experiments import pretrained
from transformer.interchange import (
    folder,
    marian_tokenizer,
    tasks,
    text_to_text,
)
from transformer.interchange.text_rows import TextRows
from transformer.network import positions

FIXTURES = Path(__file__).parent / "fixtures"
TOKENIZER = marian_folder.TOKENIZER
SIZE = len(json.loads((TOKENIZER / "vocab.json").read_text()))
LIMITS: Any = {"vocab_size": SIZE, "length": 512}


def test_hard_texts_have_the_ids_and_texts_of_transformers() -> None:
    """And language codes, special tokens, pieces of the target only, and targets."""
    made = marian_tokenizer.read(TOKENIZER, **LIMITS)
    expected = json.loads((TOKENIZER / "ids.json").read_text())
    for text, ids in zip([*HARD, *MARKED], expected, strict=False):
        assert made.encode([text])[0].tolist() == ids, repr(text)
    targets = json.loads((TOKENIZER / "target_ids.json").read_text())
    assert [ids.tolist() for ids in made.encode_targets(HARD)] == targets
    texts = json.loads((TOKENIZER / "texts.json").read_text())
    assert [made.decode(ids) for ids in expected] == texts


def test_a_long_source_keeps_its_end(capsys: Any) -> None:
    made = marian_tokenizer.read(TOKENIZER, vocab_size=SIZE, length=5)
    one, other = made.encode(["capital", "is is"])
    assert (len(one), one[-1], len(other)) == (5, 0, 5)
    assert "1 of 2 texts are longer than 5 tokens" in capsys.readouterr().out


def test_targets_begin_and_end_as_those_of_transformers() -> None:
    """Of its `generate`: padding is never chosen, the last token is the end."""
    opened = folder.open_folder(FIXTURES / "marian")
    reference = np.load(FIXTURES / "marian" / "reference.npz")
    sources = [row[row > 0] for row in reference["source_BL"]]
    rows = TextRows(lambda texts: [sources[int(text)] for text in texts], 20, 0)
    targets = text_to_text.read_targets(FIXTURES / "marian", opened.sizes.vocab_size)
    assert targets == (0, (2,), (0,), 2)
    expected = reference["ended_BL"][:, 1:]
    made = text_to_text.TextCodec(
        rows, rows.encode_pieces, str, targets, opened.sizes.length
    )
    params, options = opened.read_params(), {"new_tokens": expected.shape[1]}
    found = text_to_text.generate_ids(opened.net, params, made, ["0", "1"], **options)
    assert found == expected[:, :-1].tolist()
    with pytest.raises(ValueError, match="new_tokens: expected at most 47"):
        text_to_text.generate_ids(opened.net, params, made, ["0"], new_tokens=48)


def test_a_text_follows_from_a_prompt(tmp_path: Path, capsys: Any) -> None:
    """Without the padding, which would be the most likely token each time."""
    path = marian_folder.write(tmp_path / "marian", num_beams=4)
    opened = folder.open_folder(path)
    model = tasks.Model(path, opened.architecture, opened.sizes, opened.net)
    flags: Any = {"prompt": "The capital of Portugal", "new_tokens": 9}
    flags |= {"temperature": None, "sample_seed": 0}
    generate = tasks.verbs_of(model)["generate"]
    text = generate(opened.read_params(), tmp_path, chat=False, **flags)
    assert text and not text.startswith("The capital")
    beams, printed = capsys.readouterr().out.splitlines()
    assert "num_beams = 4: not followed" in beams and printed == text
    with pytest.raises(ValueError, match="--chat: expected a decoder, got MarianMTMod"):
        generate(None, tmp_path, chat=True, **flags)
    narrow: Any = {"decode_dtype": "int8"}
    with pytest.raises(ValueError, match="--decode_dtype: expected a decoder, got Mar"):
        generate(None, tmp_path, chat=False, **flags, **narrow)
    with pytest.raises(ValueError, match="decode_dtype: expected a decoder, got Mar"):
        transformer.load(path).generate("The capital", **narrow)


def test_a_command_and_a_notebook_generate_the_same(
    tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    path = marian_folder.write(tmp_path / "marian")
    text = transformer.load(path).generate("The capital of Portugal", new_tokens=9)
    run = type("Run", (), {"experiment": staticmethod(pretrained.experiment)})
    run.verbs = tasks.all_verbs()  # pyright: ignore
    folders = [f"--workdir={tmp_path / 'run'}", f"--init_from={path}"]
    flags = ["--prompt=The capital of Portugal", "--new_tokens=9"]
    argv = ["generate", *folders, *flags]
    assert commands.exit_status(argv, monkeypatch, run=run) == 0
    assert capsys.readouterr().out.splitlines()[-1] == text


def test_an_export_has_both_models_and_the_vocabulary(tmp_path: Path) -> None:
    """To the byte, and no tokenizer.json, which Marian has not."""
    path = marian_folder.write(tmp_path / "marian")
    names = *marian_folder.NAMES, "generation_config.json"
    assert folder.companions_of(path) == {
        name: (path / name).read_bytes() for name in names
    }


def settings(**values: Any) -> Callable[[Path], Any]:
    return lambda path: (path / marian_tokenizer.SETTINGS).write_text(
        json.dumps(values)
    )


def vocab(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], Any]:
    def edit(path: Path) -> None:
        values = json.loads((path / "vocab.json").read_text())
        change(values)
        (path / "vocab.json").write_text(json.dumps(values))

    return edit


HOSTILE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no source": (lambda p: (p / "source.spm").unlink(), "got no source.spm"),
    "no target": (lambda p: (p / "target.spm").unlink(), "got no target.spm"),
    "no vocabulary": (lambda p: (p / "vocab.json").unlink(), "got no vocab.json"),
    "source is text": (
        lambda p: (p / "source.spm").write_bytes(b"hello"),
        "expected a model of SentencePiece",
    ),
    "two vocabularies": (settings(separate_vocabs=True), "separate_vocabs: expected"),
    "another class": (
        settings(tokenizer_class="T5Tokenizer"),
        "expected one of none, MarianTokenizer, got T5Tokenizer",
    ),
    "a token too many": (
        vocab(lambda v: v.update(more=SIZE)),
        f"expected ids below {SIZE}, the vocabulary of the model, got {SIZE}",
    ),
    "a token missing": (vocab(lambda v: v.pop("▁")), "each id below .*, got none for"),
    "no padding": (
        vocab(lambda v: v.update(pad=v.pop("<pad>"))),
        "expected pad_token <pad>, got none",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_tokenizers_are_refused_in_one_line(name: str, tmp_path: Path) -> None:
    change, message = HOSTILE[name]
    path = marian_folder.copy_tokenizer(tmp_path / "model")
    change(path)
    with pytest.raises(ValueError, match=message) as refusal:
        marian_tokenizer.read(path, **LIMITS)
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 500


GENERATION: dict[str, tuple[dict[str, Any], str]] = {
    "no start": ({"decoder_start_token_id": None}, "decoder_start_token_id: expected"),
    "words of two tokens": ({"bad_words_ids": [[1, 2]]}, "expected words of one token"),
    "a token beyond": ({"bad_words_ids": [[67]]}, "expected 0 to 66, got 67"),
}


@pytest.mark.parametrize("name", GENERATION)
def test_targets_that_are_not_expressed_are_refused(name: str, tmp_path: Path) -> None:
    changes, message = GENERATION[name]
    for file in ("config.json", "generation_config.json"):
        values = json.loads((FIXTURES / "marian" / file).read_text()) | changes
        (tmp_path / file).write_text(json.dumps(values))
    with pytest.raises(ValueError, match=message):
        text_to_text.read_targets(tmp_path, 67)


@pytest.mark.parametrize("name", ["marian", "t5"])
def test_beams_are_not_followed_and_kept(name: str, tmp_path: Path, capsys) -> None:
    """As older files have them, in config.json; in one line."""
    beams = {"num_beams": 6, "max_length": 512}
    values = json.loads((FIXTURES / name / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(values | beams))
    _, sizes = folder.read_config(tmp_path)
    text_to_text.read_targets(tmp_path, sizes.vocab_size)
    line = f"{tmp_path}: num_beams = 6: not followed; each token is chosen from "
    said = capsys.readouterr().out
    assert said.startswith(line) and said.count("\n") == 1
    assert folder.read_token_ids(tmp_path).items() >= beams.items()
    newer = {"num_beams": 1, "repetition_penalty": 1.2}
    (tmp_path / "generation_config.json").write_text(json.dumps(newer))
    text_to_text.read_targets(tmp_path, sizes.vocab_size)
    assert ": repetition_penalty = 1.2: not" in capsys.readouterr().out
    text_to_text.read_targets(FIXTURES / name, sizes.vocab_size)
    assert not capsys.readouterr().out


CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "two embeddings": {"share_encoder_decoder_embeddings": False},
    "two vocabularies": {"decoder_vocab_size": 66},
    "norms before": {"normalize_before": True},
    "a last norm": {"add_final_layer_norm": True},
    "learned positions": {"static_position_embeddings": False},
    "an odd width": {"d_model": 15},
    "an unknown key": {"experts": 4},
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_what_is_not_expressed_is_refused_by_name(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model"
    shutil.copytree(FIXTURES / "marian", path)
    changes = CONFIGURATIONS[name]
    values = json.loads((path / folder.CONFIG).read_text()) | changes
    (path / folder.CONFIG).write_text(json.dumps(values))
    with pytest.raises(ValueError, match=next(iter(changes))):
        folder.read_config(path)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_file_may_hold_the_table_of_sines_but_no_other(dtype, tmp_path) -> None:
    """As the published ones do; transformers would use another."""
    path = tmp_path / "model"
    shutil.copytree(FIXTURES / "marian", path)
    tensors = safetensors.numpy.load_file(path / "model.safetensors")
    name = "model.encoder.embed_positions.weight"
    tensors[name] = positions.split_sinusoids(48)(12).astype(dtype)
    safetensors.numpy.save_file(tensors, path / "model.safetensors")
    folder.open_folder(path)
    tensors[name][3, 4] += 0.01
    safetensors.numpy.save_file(tensors, path / "model.safetensors")
    with pytest.raises(ValueError, match=f"{name}: expected the values that the arch"):
        folder.open_folder(path)
