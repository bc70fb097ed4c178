"""Masked language models are trained further on texts, from a folder to a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import commands
import jax
import numpy as np
import pretrained_folder
import pytest
import safetensors.numpy
import scipy.special

import transformer
from experiments import language_model, pretrained_mlm
from transformer import main
from transformer.interchange import export, folder, masked_text, tasks, tokenizer
from transformer.models import decoder
from transformer.network import masks
from transformer.training.checksum import leaf_paths

FIXTURES = Path(__file__).parent / "fixtures"
NAMES = ("bert_mlm", "distilbert", "modernbert_mlm", "roberta_mlm")
TEXT = "the cat sat the hen the cats sat"


def read(path: Path, length: int) -> tuple[tasks.Model, masked_text.MaskedTokens]:
    made, sizes = folder.read_config(path)
    model = tasks.Model(path, made, sizes, made.net(sizes))
    return model, masked_text.read(model, length)


def write_text(path: Path, documents: int = 20) -> Path:
    """A folder of documents; returns its path."""
    path.mkdir()
    for number in range(documents):
        (path / f"{number:02}.txt").write_text(" ".join([TEXT] * (1 + number % 3)))
    return path


def predict(path: Path, ids_BL: np.ndarray) -> np.ndarray:
    """The logits of a folder, float32."""
    opened = folder.open_folder(path)
    return logits_of(opened.net, opened.read_params(), ids_BL)


def logits_of(net: Any, params: Any, ids_BL: np.ndarray) -> np.ndarray:
    """Compiled: one by one, the operations of a layer take a second."""
    tokens = masks.single_document(ids_BL.shape[1])
    logits = jax.jit(lambda p: decoder.logits(net.apply({"params": p}, ids_BL, tokens)))
    return np.asarray(logits(params))


@pytest.mark.parametrize("name", NAMES)
def test_the_row_of_a_text_is_what_the_tokenizer_makes_of_it(
    name: str, tmp_path: Path
) -> None:
    """With the special tokens at both ends, which cannot be masked, as no unknown or
    special token can; behind it padding."""
    source = pretrained_folder.write_masked_lm(tmp_path / "source", name)
    model, codec = read(source, 31)
    library, _ = tokenizer.read_library(source)
    library.no_padding()
    library.no_truncation()
    mask = "<mask>" if name == "roberta_mlm" else "[MASK]"
    text = f"the cat {mask} sat 7"
    (ids,) = codec.plain.encode_pieces([text])
    row = masked_text.row(codec, ids, np.random.default_rng(0))
    expected = library.encode(text).ids
    size = len(expected)
    assert row["ids_BL"].tolist() == expected + [codec.padding] * (codec.length - size)
    assert row["segment_BL"].tolist() == [1] * size + [0] * (codec.length - size)
    assert codec.padding == getattr(model.sizes, "padding", 0)
    assert codec.mask_id == library.token_to_id(mask) and codec.mask_id in expected
    pieces = [library.id_to_token(one) for one in expected]
    maskable = [piece[0] not in "[<" for piece in pieces]
    assert 3 <= sum(maskable) <= size - 4
    assert row["maskable_BL"][:size].astype(bool).tolist() == maskable
    assert not row["maskable_BL"][size:].any()


@pytest.mark.parametrize("name", ["bert_mlm", "roberta_mlm"])
def test_the_loss_of_a_batch_is_that_of_each_row_alone(
    name: str, tmp_path: Path
) -> None:
    """Where all words are masked: neither padding nor a row of weight 0 counts."""
    source = pretrained_folder.write_masked_lm(tmp_path / "source", name)
    model, codec = read(source, 24)
    params = folder.open_folder(source).read_params()
    texts = ["the cat sat", "the", "hen sat the"]
    rng = np.random.default_rng(0)
    encoded = codec.plain.encode_pieces(texts)
    rows = [masked_text.row(codec, ids, rng) for ids in encoded]
    batch = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
    batch["weight_B"] = np.array([1, 1, 0], np.float32)
    loss = masked_text.loss(model.net, "float32", codec, ratio=1.0)
    found = jax.jit(loss)(params, batch, jax.random.key(0))
    nats, count = 0.0, 0
    for ids in encoded[:2]:
        masked = np.array([*codec.starts, *[codec.mask_id] * len(ids), *codec.ends])
        logs_LV = scipy.special.log_softmax(predict(source, masked[None])[0], axis=-1)
        nats -= float(logs_LV[1 + np.arange(len(ids)), ids].sum())
        count += len(ids)
    np.testing.assert_allclose(found.total, nats, rtol=1e-5)
    assert found.weight == count


@pytest.mark.parametrize("name", ["bert_mlm", "roberta_mlm"])
def test_the_command_trains_and_exports(
    name: str, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    """From a folder to a run, to another folder with the tensors and the tokenizer of
    the first, whose logits are those of the run."""
    source, out = tmp_path / "source", tmp_path / "out"
    pretrained_folder.write_masked_lm(source, name)
    run = type("Run", (), {"verbs": {"export": export.export}})
    run.experiment = staticmethod(pretrained_mlm.experiment)  # pyright: ignore
    where, text = f"--workdir={tmp_path / 'run'}", write_text(tmp_path / "text")
    data = [f"--text={text}", "--batch_size=8", "--dtype=float32"]
    data += ["--sequence_length=16", "--mask_ratio=0.4", "--learning_rate=0.01"]
    argv = [where, f"--init_from={source}", *data, "--steps=3"]
    assert commands.exit_status(argv, monkeypatch, run=run) == 0
    printed = capsys.readouterr().out
    assert "accuracy" in printed
    argv = ["export", where, f"--folder={out}"]
    assert commands.exit_status(argv, monkeypatch, run=run) == 0
    before, after = (
        leaf_paths(folder.open_folder(path).read_params()) for path in (source, out)
    )
    same = {path for path, leaf in after.items() if np.array_equal(leaf, before[path])}
    assert not same
    for file, content in folder.companions_of(source).items():
        assert (out / file).read_bytes() == content
    tensors = [
        {k: v.shape for k, v in safetensors.numpy.load_file(file).items()}
        for place in (source, out)
        for file in place.glob("*.safetensors")
    ]
    assert tensors[0] == tensors[1]
    ids_BL = np.array([[1, 5, 4, 8, 2]])
    trained = transformer.load(tmp_path / "run")
    logits = predict(out, ids_BL)
    expected = logits_of(trained.net, trained.params, ids_BL)
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    assert np.abs(logits - predict(source, ids_BL)).max() > 1e-3


def test_what_is_no_masked_language_model_is_refused_before_the_data_are_read(
    tmp_path: Path, monkeypatch: Any
) -> None:
    def load(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("the data are read")

    monkeypatch.setattr(pretrained_mlm.text_source, "load", load)
    make = pretrained_mlm.experiment
    bare = tmp_path / "bert"
    pretrained_folder.write_masked_lm(bare, "bert")
    decoder_ = pretrained_folder.write(tmp_path / "llama")
    expected = "expected a masked language model .*, got "
    with pytest.raises(ValueError, match=expected + "BertModel$"):
        make(init_from=bare)
    with pytest.raises(ValueError, match=expected + "LlamaForCausalLM$"):
        make(init_from=decoder_)
    source = pretrained_folder.write_masked_lm(tmp_path / "source")
    with pytest.raises(ValueError, match="expected more than 2, the special tokens"):
        make(init_from=source, sequence_length=2)
    pretrained_folder.write_tokenizer(source)
    with pytest.raises(ValueError, match="expected a mask_token in the tokenizer"):
        make(init_from=source)


def test_a_text_of_unknown_words_is_refused(tmp_path: Path) -> None:
    source = pretrained_folder.write_masked_lm(tmp_path / "source")
    text = tmp_path / "digits.txt"
    text.write_text("12 34 " * 400)
    with pytest.raises(ValueError, match="expected words that the tokenizer knows"):
        pretrained_mlm.experiment(init_from=source, text=str(text))


def test_other_experiments_name_this_one(tmp_path: Path) -> None:
    source = pretrained_folder.write_masked_lm(tmp_path / "source")
    with pytest.raises(ValueError, match="pretrained_mlm masked language models"):
        main.run(language_model.experiment, tmp_path / "run", init_from=source)


def test_the_mask_is_what_the_folder_says(tmp_path: Path) -> None:
    """Not only the tokens of BERT and RoBERTa."""
    source = pretrained_folder.write_masked_lm(tmp_path / "source")
    (source / "tokenizer_config.json").write_text(json.dumps({"mask_token": "hen"}))
    _, codec = read(source, 16)
    assert codec.mask_id == 6 and 6 in codec.special
